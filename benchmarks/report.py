"""Tables a person reads: one report, its goals, and what changed between two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .goals import Goal, goal_of
from .latency import percentile
from .results import Figure, Origin, Report

TITLES = {
    "kernel": "The kernel alone",
    "counts": "Counts",
    "memory": "Memory",
    "sqlite": "SQLite",
    "redis": "Redis",
    "kafka": "Kafka",
    "rabbitmq": "RabbitMQ",
    "nats": "NATS",
    "sqs": "SQS",
    "google_pubsub": "Google Pub/Sub",
}
LOOPS = ("asyncio", "uvloop")
OURS = "ductape"


def markdown(report: Report) -> str:
    """Return a report as Markdown."""
    lines = [f"Made {report.made}: {machine(report)}.", "", *_settings(report)]
    for suite in dict.fromkeys(figure.suite for figure in report.figures):
        lines += ["", f"### {TITLES.get(suite, suite)}", *tables(report, suite)]
    if reached := list(goals(report)):
        lines += ["", "### Goals", "", *reached]
    if found := unsound(report):
        lines += ["", "### Not sound", "", *(f"- {line}" for line in found)]
    return "\n".join(lines)


def machine(report: Report | Origin) -> str:
    """Say where and with what it was made, in one sentence without its full stop."""
    where = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    return f"{where}; {', '.join(f'{name} {value}' for name, value in report.versions.items())}"


def _settings(report: Report) -> Iterator[str]:
    yield from (f"- {name}: {value}" for name, value in report.settings.items())
    for suite, ways in report.ways.items():
        yield from (f"- {suite}, {name}: {way}" for name, way in ways.items())


def tables(report: Report, suite: str) -> Iterator[str]:
    """Yield the tables of a suite: one a case, the kernel's and the counts' cases all in one."""
    figures = [figure for figure in report.figures if figure.suite == suite]
    cases = dict.fromkeys(figure.case for figure in figures)
    loops = [loop for loop in LOOPS if any(figure.loop == loop for figure in figures)]
    if suite in ("kernel", "counts"):
        yield from ("", *_head("", loops, figures[0].unit, ()))
        for case in cases:
            yield _row([figure for figure in figures if figure.case == case], loops)
        return
    for case in cases:
        chosen = [figure for figure in figures if figure.case == case]
        yield from ("", *_head(chosen[0].title, loops, chosen[0].unit, ("of raw", "a second")))
        for contestant in dict.fromkeys(figure.contestant for figure in chosen):
            alike = [each for each in chosen if each.contestant == contestant]
            some = alike[0]
            raw = report.find(suite, case, "raw", some.loop)
            ratio = some.median / raw.median if raw is not None and raw is not some and some.samples else None
            wall = some.of("wall")
            yield _row(alike, loops, short(ratio) if ratio else "", f"{1e6 / wall:,.0f}" if wall else "")


def _head(title: str, loops: list[str], unit: str, more: tuple[str, ...]) -> tuple[str, str]:
    wide = [f"{loop}, {unit}" for loop in loops]
    cells = [title or " ", *(cell for name in wide for cell in (name, "spread")), *more, " "]
    return f"| {' | '.join(cells)} |", f"|---{'|--:|:-:' * len(loops)}{'|--:' * len(more)}|---|"


def _row(figures: list[Figure], loops: list[str], *more: str) -> str:
    some = figures[0]
    name = some.title if some.suite in ("kernel", "counts") else some.contestant
    cells = [f"**{name}**" if name == OURS else name]
    for loop in loops:
        figure = next((each for each in figures if each.loop == loop and each.samples), None)
        cells += ["–", ""] if figure is None else [_number(figure, some.unit), spread(figure)]
    cells += more
    notes = dict.fromkeys(note for figure in figures for note in figure.notes)
    cells.append("; ".join([*notes, *_extra(some)]))
    return f"| {' | '.join(cells)} |"


def _number(figure: Figure, unit: str) -> str:
    return short(figure.median) + ("" if figure.unit == unit else f" {figure.unit}")


def short(value: float) -> str:
    """Return three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(figure: Figure) -> str:
    """Return the lowest and the highest repeat."""
    return "–".join(map(short, figure.spread)) if len(figure.samples) > 1 else ""


def percentiles(figure: Figure) -> dict[str, float]:
    """Return the latencies of all repeats in ms; the last only where there were a thousand events."""
    shares = {"p50": 0.5, "p99": 0.99} | ({"p99.9": 0.999} if sum(figure.histogram.values()) >= 1000 else {})
    return {name: percentile(figure.histogram, share) for name, share in shares.items()}


def _extra(figure: Figure) -> list[str]:
    if figure.suite == "counts":
        return []
    if figure.histogram:
        said = [f"{name} {short(value)}" for name, value in percentiles(figure).items()]
        rate, cpu = figure.of("rate"), figure.of("cpu")
        return [", ".join(said), f"{rate:,.0f} events a second, {cpu:.0f} µs CPU each"]
    names = [name for name in figure.extra if name not in ("wall", "messages", "took")]
    return [f"{name.replace('_', ' ')} {short(value)}" for name in names if (value := figure.of(name)) is not None]


def reached(report: Report) -> Iterator[tuple[Figure, Goal, tuple[str, str, bool]]]:
    """Yield every goal of what was measured, with goal and figure as text, and whether it is met."""
    for figure in report.figures:
        for goal in goal_of(figure):
            if text := goal.text(report, figure):
                yield figure, goal, text


def goals(report: Report) -> Iterator[str]:
    """Yield a table of what was to be reached, and what was."""
    rows = [(figure, text) for figure, _, text in reached(report)]
    if rows:
        yield "| | loop | goal | measured | |"
        yield "|---|---|---|--:|:-:|"
    for figure, (goal_text, measured, met) in rows:
        yield f"| {named(figure)} | {figure.loop} | {goal_text} | {measured} | {'✓' if met else '**✗**'} |"


def named(figure: Figure) -> str:
    """Return suite and case as a person reads them."""
    return f"{TITLES.get(figure.suite, figure.suite)}: {figure.title}"


def unsound(report: Report) -> list[str]:
    """Return every figure whose runs lost or repeated messages, or failed."""
    return [
        f"{TITLES.get(figure.suite, figure.suite)}: {figure.title}, {figure.contestant}, {figure.loop}: "
        f"{'; '.join(figure.faults)}"
        for figure in report.figures
        if figure.faults
    ]


def compare(before: Report, after: Report) -> str:
    """Say what got slower or faster beyond the spread of both."""
    lines = ["| | contestant | loop | before | after | change | |", "|---|---|---|--:|--:|--:|---|"]
    old = {figure.name: figure for figure in before.figures if figure.samples}
    changed: dict[str, list[str]] = {"**slower**": [], "faster": []}
    for figure in after.figures:
        was = old.get(figure.name)
        if was is None or not figure.samples:
            continue
        change = figure.median / was.median - 1 if was.median else 0.0
        verdict = ""
        if figure.spread[0] > was.spread[1]:
            verdict = "**slower**"
        elif figure.spread[1] < was.spread[0]:
            verdict = "faster"
        name = f"{figure.suite}: {figure.title} | {figure.contestant} | {figure.loop}"
        if verdict:
            changed[verdict].append(f"{name.replace(' | ', ', ')}: {change:+.0%}")
        lines.append(
            f"| {name} | {short(was.median)} | {short(figure.median)} {figure.unit} | {change:+.0%} | {verdict} |"
        )
    if before.machine != after.machine:
        lines += ["", "Different machines: only ratios and counts can be compared."]
    lines += ["", *_said("Slower beyond the spread of both", changed["**slower**"])]
    lines += ["", *_said("Faster beyond the spread of both", changed["faster"])]
    return "\n".join(lines)


def _said(title: str, lines: Iterable[str]) -> list[str]:
    found = [f"- {line}" for line in lines]
    return [f"{title}:", "", *found] if found else [f"{title}: nothing."]
