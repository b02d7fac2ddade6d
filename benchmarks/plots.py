"""Plots as SVG, written directly: log scale, one colour a contestant, legible in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

import msgspec

COLOURS = {
    "raw": ("#64748b", "#94a3b8"),
    "raw bulk": ("#0f766e", "#2dd4bf"),
    "raw bulk, awaited": ("#0369a1", "#38bdf8"),
    "FastStream": ("#7c3aed", "#a78bfa"),
    "ductape": ("#d9480f", "#ff8a50"),
    "ductape, defaults": ("#b45309", "#fbbf24"),
}
"""On light, and on dark."""
WIDTH, LEFT, RIGHT = 760, 170, 90
ROW, GROUP, TOP, BOTTOM = 19, 30, 70, 34

_STYLE = """
.ground { fill: #ffffff; } .text { fill: #1f2937; } .faint { fill: #6b7280; } .grid { stroke: #e5e7eb; }
@media (prefers-color-scheme: dark) {
.ground { fill: #1e2129; } .text { fill: #e5e7eb; } .faint { fill: #9ca3af; } .grid { stroke: #363b47; } }
text { font-family: system-ui, sans-serif; font-size: 12px; }
"""


class Mark(msgspec.Struct, frozen=True):
    """One line of a plot."""

    contestant: str
    points: tuple[float, ...]
    """Filled, hollow, small: the first is the one that counts."""
    low: float
    high: float
    """The ends of its line."""
    text: str


def plot(title: str, unit: str, groups: Sequence[tuple[str, Sequence[Mark]]], key: str = "") -> str:
    """Return a plot.

    Args:
        title: Stands above it.
        unit: Of the scale.
        groups: Name and lines of each group, from above.
        key: What the points of a line are.
    """
    marks = [mark for _, each in groups for mark in each]
    low, high = min(mark.low for mark in marks), max(mark.high for mark in marks)
    bottom, top = math.log10(low) - 0.08, math.log10(high) + 0.08
    height = TOP + sum(GROUP + ROW * len(each) for _, each in groups) + BOTTOM

    def place(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(value) - bottom) / (top - bottom)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}{_colours()}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text class="text" x="16" y="24" font-weight="600" style="font-size:14px">{escape(title)}</text>',
        f'<text class="faint" x="16" y="{TOP - 24}">{escape(key)}</text>',
        f'<text class="faint" x="{WIDTH - 16}" y="{TOP - 24}" text-anchor="end">{escape(unit)}, less is better</text>',
    ]
    for value in _ticks(bottom, top):
        x = f"{place(value):.1f}"
        lines.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        lines.append(f'<text class="faint" x="{x}" y="{height - 14}" text-anchor="middle">{value:,g}</text>')
    y = TOP
    for name, each in groups:
        lines.append(f'<text class="text" x="16" y="{y + 6}" font-weight="600">{escape(name)}</text>')
        y += GROUP - ROW // 2
        for mark in each:
            lines += _drawn(mark, y, [place(value) for value in (mark.low, mark.high, *mark.points)])
            y += ROW
        y += ROW // 2
    return "\n".join([*lines, "</svg>", ""])


def _colours() -> str:
    names = [f"c{number}" for number in range(len(COLOURS))]
    light = " ".join(f".{name} {{ color: {pair[0]}; }}" for name, pair in zip(names, COLOURS.values(), strict=True))
    dark = " ".join(f".{name} {{ color: {pair[1]}; }}" for name, pair in zip(names, COLOURS.values(), strict=True))
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def _ticks(bottom: float, top: float) -> Iterator[float]:
    """Yield 1, 10, 100 …, with 2 and 5 between them where there is room."""
    steps = (1, 2, 5) if top - bottom < 3.2 else (1,)
    for power in range(math.floor(bottom), math.ceil(top) + 1):
        for step in steps:
            value = step * 10.0**power
            if bottom <= math.log10(value) <= top:
                yield value


def _drawn(mark: Mark, y: int, places: Sequence[float]) -> list[str]:
    low, high, *points = (f"{place:.1f}" for place in places)
    kind = f"c{list(COLOURS).index(mark.contestant)}"
    weight = ' font-weight="600"' if mark.contestant.startswith("ductape") else ""
    ends = max(places) + 12
    lines = [
        f'<g class="{kind}">',
        f'<text fill="currentColor" x="{LEFT - 12}" y="{y + 4}" text-anchor="end"{weight}>{mark.contestant}</text>',
        f'<line x1="{low}" x2="{high}" y1="{y}" y2="{y}" stroke="currentColor" stroke-width="3" stroke-opacity=".45"/>',
    ]
    filled, hollow = 'fill="currentColor"', 'fill="none" stroke="currentColor" stroke-width="1.6"'
    shapes = (f'r="5" {filled}', f'r="4" {hollow}', f'r="2.2" {filled}')
    lines += [f'<circle cx="{x}" cy="{y}" {shape}/>' for x, shape in zip(points, shapes, strict=False)]
    return [*lines, f'<text class="text" x="{ends:.1f}" y="{y + 4}"{weight}>{escape(mark.text)}</text>', "</g>"]
