"""The goals of `goals.toml`, beside what was measured."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from .results import Figure, Report


class Goal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that a figure may be."""

    suite: str
    case: str
    most: float
    how: Literal["absolute", "over", "ratio"] = "absolute"
    than: str = ""
    """Another case of the suite, another contestant of the case, or ``asyncio``: the same on that loop."""
    contestant: str = "ductape"
    metric: str = "cpu"
    loop: str = ""
    """Only on this loop."""
    why: dict[str, str] = {}
    """By suite, why it is missed: the page prints it beside the profile.

    `tests/test_benchmarks.py` wants one wherever committed figures miss a goal beyond their spread, and none where they
    meet it.
    """

    def excess(self, report: Report, figure: Figure) -> float:
        """Return how many times as much as the goal was measured, with whatever a difference is over."""
        value, other = figure.of(self.metric) or 0.0, self._other(report, figure) or 0.0
        most = {"absolute": self.most, "over": other + self.most, "ratio": other * self.most}[self.how]
        return value / most if most else 1.0

    def measured(self, report: Report, figure: Figure) -> float | None:
        """Return what the goal is about, from a report; None if it was not measured, or what it is compared with."""
        value = figure.of(self.metric)
        if self.how == "absolute" or value is None:
            return value
        other = self._other(report, figure)
        if other is None:
            return None
        return value - other if self.how == "over" else value / other

    def is_beyond_spread(self, report: Report, figure: Figure) -> bool:
        """Say whether its lowest repeat, beside the highest of what it is compared with, misses the goal too."""
        lowest, rival = min(figure.all_of(self.metric)), self._rival(report, figure)
        if self.how == "absolute" or rival is None:
            return lowest > self.most
        highest = max(rival.all_of(self.metric))
        return lowest > (highest + self.most if self.how == "over" else highest * self.most)

    def _other(self, report: Report, figure: Figure) -> float | None:
        rival = self._rival(report, figure)
        return None if rival is None else rival.of(self.metric)

    def _rival(self, report: Report, figure: Figure) -> Figure | None:
        suite, case, contestant, loop = figure.name
        names = (
            (suite, self.than, contestant, loop),
            (suite, case, self.than, loop),
            (suite, case, contestant, self.than),
        )
        return next((found for name in names if (found := report.find(*name)) is not None), None)

    def text(self, report: Report, figure: Figure) -> tuple[str, str, bool] | None:
        """Return goal and figure as text, and whether it is met; None if what it is compared with was not measured."""
        measured = self.measured(report, figure)
        if measured is None:
            return None
        said = {"absolute": f"≤ {self.most:g}", "over": f"≤ +{self.most:g}", "ratio": f"≤ {self.most:g} ×"}[self.how]
        than = f" {self.than}" if self.than else ""
        metric = "" if self.metric == figure.metric else f"{self.metric} "
        got = {"absolute": f"{measured:.2f}", "over": f"{measured:+.2f}", "ratio": f"{measured:.2f} ×"}[self.how]
        return f"{metric}{said}{than}", got, measured <= self.most


class _File(msgspec.Struct):
    goal: list[Goal]


@cache
def goals() -> list[Goal]:
    """Read the goals."""
    return msgspec.toml.decode(Path(__file__).with_name("goals.toml").read_bytes(), type=_File).goal


def goal_of(figure: Figure) -> list[Goal]:
    """Return the goals of a figure."""
    return [
        goal
        for goal in goals()
        if goal.suite == figure.suite or (goal.suite == "*" and figure.suite not in ("kernel", "counts"))
        if (goal.case, goal.contestant) == (figure.case, figure.contestant) and goal.loop in ("", figure.loop)
        if goal.metric == figure.metric or goal.metric in figure.extra
    ]
