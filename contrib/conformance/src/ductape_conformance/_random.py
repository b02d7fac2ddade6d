"""Histories made up by hypothesis: what nobody thought of, and the shortest one that goes wrong."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from ._harness import Harness
from ._machine import Machine
from ._run import play
from ._scenario import Scenario
from ._stage import Stage
from ._steps import Step, histories

__all__ = ["HISTORIES", "explore", "replay"]

LIMIT = 120.0
"""Real seconds for one history."""
SHRINKING = 90.0
"""Real seconds in which no shorter history is looked for any more: on a real server each that is tried takes some."""


class _Enough(BaseException):
    """The shortest history that was found so far has to do."""


async def _unplayed(stage: Stage) -> None:
    raise NotImplementedError("it is played once a history")


HISTORIES = Scenario(
    "random.histories",
    "contract",
    (),
    "Whatever members do and whatever fails, in any order: what is stored comes until it is acknowledged, and no more.",
    _unplayed,
)


def replay(history: Sequence[Step], harness: Harness, loop: str = "asyncio", *, ordered: bool = False) -> None:
    """Play one history, such as one that `explore` printed.

    Raises:
        AssertionError: With what happened, step by step.
    """

    async def act(stage: Stage) -> None:
        await Machine(stage, ordered).play(history)

    play(HISTORIES._replace(play=act), harness, loop, LIMIT)


def explore(
    make: Callable[[], Harness],
    loop: str = "asyncio",
    *,
    examples: int = 100,
    seed: int | None = None,
    seconds: float = 25.0,
    shrink: bool = True,
) -> int:
    """Play made-up histories, each on a server's channel of its own; the first that goes wrong is shrunk and printed.

    Args:
        make: Makes a harness; called once a history.
        loop: The event loop.
        examples: How many histories.
        seed: Where to begin; None: the same histories every time, so that a build does not depend on luck.
        seconds: Real seconds after which no other history is begun, however many are left: on a machine that is busy
            a build plays fewer, and does not fail for it.
        shrink: Look for the shortest history that goes wrong, for a while.

    Returns:
        How many histories were played.

    Raises:
        AssertionError: With what happened in the shortest history, and, as a note, the history itself.
    """
    import hypothesis
    from hypothesis import strategies as st

    unwanted = {hypothesis.Phase.explain} if shrink else {hypothesis.Phase.explain, hypothesis.Phase.shrink}
    end, played = time.monotonic() + seconds, 0
    shortest: list[tuple[list[Step], bool, Exception]] = []

    def run(history: list[list[Step]], ordered: bool) -> None:
        nonlocal played, end
        if time.monotonic() > end:
            if shortest:
                raise _Enough
            return
        played += 1
        steps = list(itertools.chain.from_iterable(history))
        try:
            replay(steps, make(), loop, ordered=ordered)
        except Exception as error:
            if not shortest:
                end = time.monotonic() + SHRINKING
            if not shortest or len(steps) <= len(shortest[0][0]):
                shortest[:] = [(steps, ordered, error)]
            raise

    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=seed is None,
        phases=[one for one in hypothesis.Phase if one not in unwanted],
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    test: Any = settings(hypothesis.given(history=histories(), ordered=st.booleans())(run))
    if seed is not None:
        test = hypothesis.seed(seed)(test)
    try:
        test()
    except _Enough:
        [(steps, ordered, error)] = shortest
        # As it can be played again: the repr of a verdict is no Python.
        history = re.sub(r"<(Verdict\.\w+): '\w+'>", r"\1", repr(steps))
        error.add_note(f"history={history},\nordered={ordered}")
        raise error from None
    return played
