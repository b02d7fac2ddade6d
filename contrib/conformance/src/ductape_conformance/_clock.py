"""Time for adapters without a server: it jumps to the next timer whenever nothing else is left to do."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

__all__ = ["LoopFactory", "VirtualClock", "counting"]

T = TypeVar("T")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

_CIRCLES = 20.0
"""Seconds of this thread's processor after which something runs in circles: a machine that is busy is no circle."""
_STUCK = 3.0
"""Real seconds without a timer and without work after which a scenario will never end."""


class _Timer:
    """A call that is due later."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Call it off."""
        self.call = None


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class VirtualClock:
    """Stands still while anything can run, then jumps to what is due next: hours take milliseconds, and never less."""

    def __init__(self, *, early: float = 0.0) -> None:
        """Begin at second 1,000 of a day in 2023.

        Args:
            early: Seconds by which timers fire before their time, at most: uvloop rounds to milliseconds, so that a
                callback may see a clock that is not there yet.
        """
        self._now, self._early = 1000.0, early
        self._timers: list[tuple[float, int, _Timer]] = []
        self._tie = itertools.count()

    def now(self) -> float:
        """Return monotonic time."""
        return self._now

    def time(self) -> float:
        """Return seconds since 1970."""
        return 1_700_000_000.0 + self._now

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> _Timer:
        """Call `callback` when time has come there."""
        timer = _Timer(lambda: callback(*args))
        due = self._now + (delay - self._early if delay > 2 * self._early else max(delay, 0.0))
        heapq.heappush(self._timers, (due, next(self._tie), timer))
        return timer

    async def sleep(self, delay: float) -> None:
        """Wait."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(delay, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()

    async def run(self, work: Coroutine[Any, Any, T], within: float) -> T:
        """Await `work`, and let time jump whenever nothing else happens.

        Args:
            work: What is to be done, on a loop made by `counting`.
            within: Virtual seconds after which it is given up.

        Raises:
            TimeoutError: It did not end in time, or nothing is left that could end it.
        """
        loop = cast("_Counting", asyncio.get_running_loop())
        task = asyncio.ensure_future(work)
        end, quiet, stuck, turns, last = self._now + within, 0, 0.0, 0, time.thread_time() + _CIRCLES
        while not task.done():
            before = loop.scheduled
            await asyncio.sleep(0)
            turns += 1
            if not turns % 1000 and time.thread_time() > last:
                return await self._give_up(task, f"it runs in circles for {_CIRCLES:g} seconds of a processor")
            quiet = quiet + 1 if loop.scheduled <= before + 1 else 0
            if quiet < 3:
                continue
            quiet = 0
            if self._fire(end):
                stuck = 0.0
                continue
            if self._timers:
                return await self._give_up(task, f"it did not end within {within:g} s")
            stuck = stuck or time.monotonic()
            if time.monotonic() - stuck > _STUCK:
                return await self._give_up(task, "nothing is left that could end it")
            await asyncio.wait({task}, timeout=0.001)
        return task.result()

    async def _give_up(self, task: asyncio.Task[T], why: str) -> T:
        where = task.get_stack(limit=1)
        place = f" (in {where[0].f_code.co_name}, line {where[0].f_lineno})" if where else ""
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise TimeoutError(why + place) from error
        raise TimeoutError(why + place)

    def _fire(self, end: float) -> bool:
        """Move to the next timer that is due by `end`, and run it; False: there is none."""
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers or self._timers[0][0] > end:
            return False
        due, _, timer = heapq.heappop(self._timers)
        self._now = max(self._now, due)
        if timer.call is not None:
            timer.call()
        return True


class _Counting(asyncio.AbstractEventLoop):
    """What a counting loop has beside its base: for the type checker."""

    scheduled: int


def counting(factory: LoopFactory) -> LoopFactory:
    """Return a factory of loops that count what is scheduled on them, so that idleness can be seen."""

    def made() -> asyncio.AbstractEventLoop:
        plain = factory()
        kind = type(plain)
        plain.close()

        def call_soon(self: Any, callback: Any, *args: Any, context: Any = None) -> Any:
            self.scheduled += 1
            return kind.call_soon(self, callback, *args, context=context)

        counted = type(f"Counting{kind.__name__}", (kind,), {"call_soon": call_soon, "scheduled": 0})
        return cast("asyncio.AbstractEventLoop", counted())

    return made
