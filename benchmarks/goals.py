"""The goals of `goals.toml`, beside what was measured."""

from __future__ import annotations

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
    contestant: str = "ductape"
    metric: str = "cpu"

    def measured(self, report: Report, figure: Figure) -> float | None:
        """Return what the goal is about, from a report; None if what it is compared with was not measured."""
        if self.how == "absolute":
            return figure.median
        other = self._other(report, figure)
        if other is None:
            return None
        return figure.median - other.median if self.how == "over" else figure.median / other.median

    def _other(self, report: Report, figure: Figure) -> Figure | None:
        for case, contestant in ((self.than, self.contestant), (self.case, self.than)):
            found = report.find(self.suite, case, contestant, figure.loop, self.metric)
            if found is not None:
                return found
        return None

    def text(self, report: Report, figure: Figure) -> str:
        """Return ``goal / measured`` for a table."""
        measured = self.measured(report, figure)
        said = {"absolute": f"≤ {self.most:g}", "over": f"≤ +{self.most:g}", "ratio": f"≤ {self.most:g} ×"}[self.how]
        than = f" {self.than}" if self.than else ""
        if measured is None:
            return f"{said}{than} / not measured"
        got = {"absolute": f"{measured:.2f}", "over": f"{measured:+.2f}", "ratio": f"{measured:.3f} ×"}[self.how]
        return f"{said}{than} / {got} {'✓' if measured <= self.most else '**✗**'}"


class _File(msgspec.Struct):
    goal: list[Goal]


def goals() -> list[Goal]:
    """Read the goals."""
    return msgspec.toml.decode(Path(__file__).with_name("goals.toml").read_bytes(), type=_File).goal


def goal_of(figure: Figure) -> Goal | None:
    """Return the goal of a figure, if it has one."""
    name = figure.suite, figure.case, figure.contestant, figure.metric
    return next((goal for goal in goals() if (goal.suite, goal.case, goal.contestant, goal.metric) == name), None)
