"""Tables a person reads: one report, and what changed between two."""

from __future__ import annotations

from collections.abc import Iterator

from .goals import goal_of
from .results import Figure, Report

TITLES = {
    "kernel": "The kernel, on an adapter that does nothing",
    "counts": "Counts that do not depend on the machine",
    "redis": "Redis: CPU of the client process, a message",
    "idle": "At rest, and behind (Redis)",
}


def markdown(report: Report) -> str:
    """Return a report as Markdown."""
    lines = [
        f"Made {report.made}. " + "; ".join(f"{name} {value}" for name, value in report.machine.items()) + ".",
        "Versions: " + ", ".join(f"{name} {value}" for name, value in report.versions.items()) + ".",
        "Settings: " + "; ".join(f"{name} {value}" for name, value in report.settings.items()) + ".",
    ]
    for suite in dict.fromkeys(figure.suite for figure in report.figures):
        figures = [figure for figure in report.figures if figure.suite == suite]
        lines += ["", f"### {TITLES.get(suite, suite)}", "", *_table(report, figures)]
    return "\n".join(lines)


def _table(report: Report, figures: list[Figure]) -> Iterator[str]:
    yield "| | contestant | loop | median | spread | ratio | goal / measured | notes |"
    yield "|---|---|---|--:|---|--:|---|---|"
    for figure in figures:
        if not figure.samples:
            yield f"| {figure.title} | {figure.contestant} | {figure.loop} | – | | | | {'; '.join(figure.notes)} |"
            continue
        low, high = figure.spread
        goal = goal_of(figure)
        said = goal.text(report, figure) if goal is not None else ""
        first = next(each for each in figures if (each.case, each.loop, each.metric) == _group(figure))
        ratio = f"{figure.median / first.median:.2f}" if first is not figure and first.samples and first.median else ""
        spread = f"{low:.2f}–{high:.2f}" if len(figure.samples) > 1 else ""
        notes = "; ".join([*figure.notes, *_extra(figure)])
        yield (
            f"| {figure.title} | {figure.contestant} | {figure.loop} | {figure.median:.2f} {figure.unit} | {spread} "
            f"| {ratio} | {said} | {notes} |"
        )


def _group(figure: Figure) -> tuple[str, str, str]:
    return figure.case, figure.loop, figure.metric


def _extra(figure: Figure) -> list[str]:
    if figure.suite == "counts":
        return []
    return [f"{name.replace('_', ' ')} {value:.4g}" for name, value in figure.extra.items()]


def lost_or_twice(report: Report) -> list[str]:
    """Return every figure whose run was not sound."""
    return [
        f"{figure.title}, {figure.contestant}, {figure.loop}: {'; '.join(figure.notes)}"
        for figure in report.figures
        if any(note.isupper() or note.split(" ")[0].isupper() for note in figure.notes)
    ]


def compare(before: Report, after: Report) -> str:
    """Say what got slower or faster beyond the spread of both."""
    lines = ["| | contestant | loop | before | after | change | |", "|---|---|---|--:|--:|--:|---|"]
    old = {figure.name: figure for figure in before.figures if figure.samples}
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
        lines.append(
            f"| {figure.suite}: {figure.title} | {figure.contestant} | {figure.loop} | {was.median:.2f} "
            f"| {figure.median:.2f} {figure.unit} | {change:+.0%} | {verdict} |"
        )
    if before.machine != after.machine:
        lines += ["", "Different machines: only ratios and counts can be compared."]
    return "\n".join(lines)
