"""The page of the documentation, made of the committed results; `python -m benchmarks page` writes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from . import cases, counts, kernel, plots
from .goals import Goal
from .providers import NAMES, provider
from .report import TITLES, goals, machine, named, percentiles, reached, short, tables, unsound
from .results import Figure, Origin, Report
from .runner import ROOT

RESULTS = Path(__file__).with_name("results")
PAGE = ROOT / "docs" / "benchmarks.md"
PLOTS = ROOT / "docs" / "assets" / "benchmarks"
ORDER = ("kernel", *NAMES)
BESIDE = {"kernel": ("kernel", "counts")}
"""What is kept in one file."""
CHARTS = {
    "publish-1000": "CPU of the client's process to publish one event, 1,000 callers at a time",
    "consume": "CPU of the client's process to handle and acknowledge one event of a backlog",
    "latency": "From the publishing call to the handler, 200 events a second",
    "publish-1": "CPU of the client's process to publish one event, one caller",
}


def keep(report: Report) -> list[Path]:
    """Take the cases that a report measured into the committed results, one file a suite; other cases stay."""
    written = []
    for suite in ORDER:
        wanted = BESIDE.get(suite, (suite,))
        found = {name: list(each) for name, each in _by_case(report, wanted).items()}
        # A case is one comparison: it is taken whole, or not at all.
        taken = {name: each for name, each in found.items() if all(figure.samples or figure.notes for figure in each)}
        if not taken:
            continue
        path = RESULTS / f"{suite}.json"
        kept = Report.read(path) if path.exists() else Report()
        cases = _by_case(kept, wanted) | taken
        concerned = ("ductape", "python", "msgspec", "uvloop", *_packages(suite), f"{suite} server")
        origin = Origin(
            form=report.settings["form"],
            load=report.settings.get("load of the machine", "unknown"),
            machine=report.machine,
            versions={name: report.versions[name] for name in concerned if name in report.versions},
        )
        for each in taken.values():
            for figure in each:
                figure.origin = report.made
        kept.figures = [figure for name in sorted(cases, key=_place(suite)) for figure in cases[name]]
        used = {figure.origin for figure in kept.figures}
        kept.origins = {made: each for made, each in (kept.origins | {report.made: origin}).items() if made in used}
        kept.made, kept.finished = max(used), True
        if suite in report.settings:
            kept.settings = {suite: report.settings[suite]}
        if suite in report.ways:
            kept.ways = {suite: report.ways[suite]}
        kept.write(path)
        written.append(path)
    committed.cache_clear()
    drawn.cache_clear()
    return written


def _by_case(report: Report, suites: Sequence[str]) -> dict[tuple[str, str], list[Figure]]:
    found: dict[tuple[str, str], list[Figure]] = {}
    for figure in report.figures:
        if figure.suite in suites:
            found.setdefault((figure.suite, figure.case), []).append(figure)
    return found


def _place(suite: str) -> Callable[[tuple[str, str]], int]:
    """Return what orders cases as they are measured."""
    names = [("kernel", name) for name in (*kernel.CASES, "import")] + [("counts", name) for name in counts.CASES]
    order = names if suite == "kernel" else [(suite, name) for name in cases.CASES]
    return lambda name: order.index(name) if name in order else len(order)


def _packages(suite: str) -> tuple[str, ...]:
    if suite == "kernel":
        return ()
    chosen = provider(suite)
    return (*chosen.packages, *(("faststream", "pydantic") if chosen.faststream_module else ()))


@cache
def committed() -> dict[str, Report]:
    """Return the committed results, in the order of the page."""
    return {suite: Report.read(path) for suite in ORDER if (path := RESULTS / f"{suite}.json").exists()}


# -- what the page says


def made() -> str:
    """Say when, where and with what each was measured."""
    lines = ["| | form | made | load of the machine | machine and versions |", "|---|---|---|---|---|"]
    for suite, report in committed().items():
        for when, origin in sorted(report.origins.items(), reverse=True):
            figures = [figure for figure in report.figures if figure.origin == when]
            cases = dict.fromkeys(figure.case for figure in figures)
            named = "" if len(report.origins) == 1 else f": {', '.join(cases)}"
            numbers = [
                len(each.samples) for each in figures if each.samples and each.suite == suite and len(each.samples) > 1
            ]
            repeats = f"{min(numbers)}–{max(numbers)}" if len(set(numbers)) > 1 else str(max(numbers, default=1))
            lines.append(
                f"| {TITLES[suite]}{named} | {origin.form}, {repeats} repeats | {when[:10]} | {origin.load} "
                f"| {machine(origin)} |"
            )
    return "\n".join([*lines, ""])


def charts() -> str:
    """Return the plots as Markdown."""
    lines = []
    for case, title in CHARTS.items():
        if case in drawn():
            lines += [f"![{title}](assets/benchmarks/{case}.svg)", ""]
    return "\n".join(lines)


@cache
def drawn() -> dict[str, str]:
    """Return the plots of the committed results, by case."""
    found = {}
    for case, title in CHARTS.items():
        groups = []
        for suite, report in committed().items():
            marks = [_mark(figure) for figure in report.figures if _is_drawn(figure, suite, case)]
            if marks:
                groups.append((TITLES[suite], marks))
        if groups:
            late = case == "latency"
            key = "large p50, hollow p99, small p99.9" if late else "median, and the spread of the repeats"
            found[case] = plots.plot(title, "ms" if late else "µs", groups, key)
    return found


def _is_drawn(figure: Figure, suite: str, case: str) -> bool:
    here = (figure.suite, figure.case, figure.loop) == (suite, case, "asyncio")
    return here and suite in NAMES and bool(figure.samples)


def _mark(figure: Figure) -> plots.Mark:
    unsound = " (lost or repeated)" if figure.faults else ""
    if figure.histogram:
        found = tuple(percentiles(figure).values())
        return plots.Mark(figure.contestant, found, found[0], found[-1], " / ".join(map(short, found)) + unsound)
    low, high = figure.spread
    return plots.Mark(figure.contestant, (figure.median,), low, high, short(figure.median) + unsound)


def slower() -> str:
    """List every case in which another contestant needs less than ductape, and every goal that is not met."""
    lines = ["| | loop | ductape | quicker | times as much |", "|---|---|--:|---|--:|"]
    for suite, report in committed().items():
        for figure in report.figures:
            if figure.contestant != "ductape" or not figure.samples or figure.suite in BESIDE["kernel"]:
                continue
            for other in report.figures:
                rival = other.contestant not in ("ductape", "ductape, defaults") and other.samples
                same = (other.suite, other.case, other.loop) == (figure.suite, figure.case, figure.loop)
                if rival and same and other.median < figure.median:
                    lines.append(
                        f"| {TITLES[suite]}: {figure.title} | {figure.loop} | {short(figure.median)} {figure.unit} "
                        f"| {other.contestant}: {short(other.median)} | {figure.median / other.median:.2f} |"
                    )
    return "\n".join([*lines, ""])


def all_goals() -> str:
    """List every goal with what was measured."""
    lines: list[str] = []
    for report in committed().values():
        found = list(goals(report))
        lines += found if not lines else found[2:]
    return "\n".join([*lines, ""])


FLOORS = ("raw bulk, awaited", "raw bulk", "raw")
"""What no client goes below, in this order; in the kernel's suite it is the case of `KERNEL_FLOORS`."""
KERNEL_FLOORS = {
    "publish": "publish-floor",
    "consume": "consume-floor",
    "tracing": "tracing-sdk-calls",
    "tracing-sampled-out": "tracing-sampled-out-least",
    "tracing-without-sdk": "",  # without an SDK nothing is called
}


def missed() -> str:
    """List the goals that are missed: by how much, what the floor is, where the time goes, and why."""
    lines = [
        "| | loop | goal | measured | of the goal | beyond the spread | floor here | CPU of ductape's run |",
        "|---|---|---|--:|--:|:-:|---|---|",
    ]
    why: dict[str, None] = {}
    for suite, report in committed().items():
        for figure, goal, (wanted, measured, met) in reached(report):
            if met:
                continue
            beyond = "yes" if goal.is_beyond_spread(report, figure) else "no"
            where = ", ".join(f"{name} {share:.0%}" for name, share in figure.shares.items()) or "–"
            lines.append(
                f"| {named(figure)} | {figure.loop} | {wanted} | {measured} | {goal.excess(report, figure):.2f} × "
                f"| {beyond} | {_floor(report, figure, goal)} | {where} |"
            )
            if text := goal.why.get(suite):
                why[f"- **{named(figure)}.** {text}"] = None
    return "\n".join([*lines, *(["", *why] if why else []), ""])


def _floor(report: Report, figure: Figure, goal: Goal) -> str:
    """Return the least that was measured of the same thing without ductape."""
    if figure.suite == "kernel":
        case = KERNEL_FLOORS.get(figure.case, KERNEL_FLOORS.get(figure.case.partition("-")[0], ""))
        found = report.find("kernel", case, "ductape", figure.loop)
        return f"{short(found.median)} {found.unit} {found.title}" if found is not None else "–"
    for name in FLOORS:
        found = report.find(figure.suite, figure.case, name, figure.loop)
        if found is not None and (value := found.of(goal.metric)) is not None:
            return f"{name}: {short(value)}"
    return "–"


def figures() -> str:
    """Return all tables."""
    lines: list[str] = []
    for suite, report in committed().items():
        lines += ["", f"### {TITLES[suite]}", ""] if lines else [f"### {TITLES[suite]}", ""]
        if suite in report.settings:
            lines += [f"{report.settings[suite]}.", ""]
        if suite in report.ways:
            said = "; ".join(f"*{name}*: {way}" for name, way in report.ways[suite].items())
            lines += [f"{said}.", ""]
        for part in BESIDE.get(suite, (suite,)):
            lines += tables(report, part)
        if found := unsound(report):
            lines += ["", "Not sound:", "", *(f"- {line}" for line in found)]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    return text + "\n"


GENERATED: dict[str, Callable[[], str]] = {
    "benchmarks made": made,
    "benchmarks charts": charts,
    "benchmarks slower": slower,
    "benchmarks missed": missed,
    "benchmarks goals": all_goals,
    "benchmarks figures": figures,
}


def write() -> Iterator[Path]:
    """Write plots and page anew; gives what was written."""
    PLOTS.mkdir(parents=True, exist_ok=True)
    for case, text in drawn().items():
        (PLOTS / f"{case}.svg").write_text(text)
        yield PLOTS / f"{case}.svg"
    for path in PLOTS.glob("*.svg"):
        if path.stem not in drawn():
            path.unlink()
    page = PAGE.read_text()
    for name, generate in GENERATED.items():
        before, begin, rest = page.partition(f"<!-- begin {name} -->\n")
        _, end, after = rest.partition(f"<!-- end {name} -->")
        if not (begin and end):
            raise ValueError(f"{PAGE.name} has no place for {name}")
        page = f"{before}{begin}\n{generate()}\n{end}{after}"
    PAGE.write_text(page)
    yield PAGE
