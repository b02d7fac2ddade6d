"""The page of the documentation, made of the committed results; `python -m benchmarks page` writes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from . import plots
from .providers import NAMES, provider
from .report import TITLES, goals, machine, percentiles, short, tables, unsound
from .results import Figure, Report
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
    """Write what a report has to the committed results, one file a suite, in place of what is there."""
    written = []
    for suite in ORDER:
        wanted = BESIDE.get(suite, (suite,))
        figures = [figure for figure in report.figures if figure.suite in wanted]
        if not figures:
            continue
        settings = {name: text for name, text in report.settings.items() if name not in ORDER or name == suite}
        concerned = ("ductape", "python", "msgspec", "uvloop", *_packages(suite), f"{suite} server")
        versions = {name: report.versions[name] for name in concerned if name in report.versions}
        kept = Report(
            made=report.made,
            finished=True,
            machine=report.machine,
            versions=versions,
            settings=settings,
            ways={suite: report.ways[suite]} if suite in report.ways else {},
            figures=figures,
        )
        kept.write(RESULTS / f"{suite}.json")
        written.append(RESULTS / f"{suite}.json")
    return written


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
        form = f"{report.settings['form']}, {report.settings['repeats'].partition(',')[0]} repeats"
        if again := report.settings.get("measured in a run of its own"):
            form += f"; {again} in a run of its own"
        load = report.settings.get("load of the machine", "unknown")
        lines.append(f"| {TITLES[suite]} | {form} | {report.made[:10]} | {load} | {machine(report)} |")
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


def missed() -> str:
    """List every goal with what was measured."""
    lines: list[str] = []
    for report in committed().values():
        found = list(goals(report))
        lines += found if not lines else found[2:]
    return "\n".join([*lines, ""])


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
    "benchmarks goals": missed,
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
