"""Plays one scenario: a loop of its own, a stage of its own, a limit on all of it."""

from __future__ import annotations

import asyncio
import importlib.util
import warnings
from collections.abc import Coroutine
from typing import Any

from ductape._clock import SystemClock

from ._clock import LoopFactory, VirtualClock, counting
from ._harness import Harness
from ._rules import contradictions
from ._scenario import NotApplicable, Scenario, gaps
from ._stage import Stage

__all__ = ["LOOPS", "loops", "play"]

LIMIT = 50.0
"""Real seconds for one scenario."""
VIRTUAL_LIMIT = 6 * 3600.0
LOOPS = ("asyncio", "uvloop")


def loops(wanted: str) -> list[str]:
    """Return those of the wanted event loops that are here."""
    found = [
        one for one in wanted.split(",") if one == "asyncio" or (one == "uvloop" and importlib.util.find_spec(one))
    ]
    if not found:
        raise ValueError(f"none of {wanted!r} is here; there are {', '.join(LOOPS)}")
    return found


def _factory(loop: str) -> LoopFactory:
    if loop == "uvloop":
        import uvloop  # an extra

        return uvloop.new_event_loop
    return asyncio.new_event_loop


def play(scenario: Scenario, harness: Harness, loop: str = "asyncio", limit: float = LIMIT) -> None:
    """Play a scenario to its end, in at most `limit` real seconds.

    Raises:
        NotApplicable: It does not concern this adapter, or cannot be played here.
        AssertionError: The promise is not kept.
    """
    if scenario.id in harness.quirks:
        raise NotApplicable(harness.quirks[scenario.id])
    clock = harness.clock()
    factory = _factory(loop)
    if isinstance(clock, VirtualClock):
        _run(_virtual(scenario, harness, clock), counting(factory))
    else:
        _run(_real(scenario, harness, limit), factory)


def _run(call: Coroutine[Any, Any, None], factory: LoopFactory) -> None:
    """Run a call on a loop of its own; what it leaves open there is a failure."""
    runner = asyncio.Runner(loop_factory=factory)
    try:
        runner.run(call)
    finally:
        # uvloop warns before it closes what was left: where warnings are errors, it would wait for that for ever.
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", ResourceWarning)
            runner.close()
    left = [str(one.message) for one in told if issubclass(one.category, ResourceWarning)]
    assert not left, f"something was left open: {left[0]}"


async def _virtual(scenario: Scenario, harness: Harness, clock: VirtualClock) -> None:
    await clock.run(_play(scenario, harness, clock), VIRTUAL_LIMIT)


async def _real(scenario: Scenario, harness: Harness, limit: float) -> None:
    async with asyncio.timeout(limit):
        await _play(scenario, harness, SystemClock())


async def _play(scenario: Scenario, harness: Harness, clock: Any) -> None:
    stage = Stage(harness, clock)
    try:
        await stage.open()
        harness.can = stage.can
        if wrong := contradictions(stage.can):
            raise AssertionError(f"impossible capabilities: {'; '.join(wrong)}")
        reason = gaps(scenario, stage.can, harness.hooks(), stage.virtual)
        if reason is not None:
            raise reason
        await scenario.play(stage)
    finally:
        await stage.close()
