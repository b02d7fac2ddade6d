"""What a message costs in counts that do not depend on the machine: a bound that breaks is a hot path that grew.

The bounds are goals of benchmarks/goals.toml, which the benchmarks print beside the same figures.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from benchmarks.counts import CASES
from benchmarks.goals import Goal, goals
from benchmarks.imports import import_once
from benchmarks.results import Measured

BOUNDS = [goal for goal in goals() if goal.suite == "counts"]


def on_asyncio(count: Callable[[], Coroutine[Any, Any, Measured]]) -> Measured:
    """The plain loop for every run: counts are of one loop."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(count())


@pytest.mark.parametrize("goal", BOUNDS, ids=lambda goal: goal.case)
def test_a_message_costs_no_more_than_this(goal: Goal) -> None:
    measured = on_asyncio(CASES[goal.case].run)
    assert measured.value <= goal.most, f"{CASES[goal.case].title}: {measured.value}; {measured.extra}"


def test_every_count_has_a_bound() -> None:
    assert {goal.case for goal in BOUNDS} == set(CASES)


def test_importing_the_core_loads_no_client_and_no_neighbour() -> None:
    assert import_once().forbidden == []
