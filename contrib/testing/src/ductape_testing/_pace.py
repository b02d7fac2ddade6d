"""Moves time by itself while the client waits for its broker: else a call that only time can end would never return."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ._clock import VirtualClock

__all__ = ["Pace"]

_LOOK = 0.001
"""Real seconds after a timer was set until a look whether somebody waits for it: most calls are answered by then."""
_NAP = 0.002


class Pace:
    """Looks after timers were set, and lets time run while it has to."""

    def __init__(self, clock: VirtualClock, waits: Callable[[], bool], patient: Callable[[], bool]) -> None:
        """Begin.

        Args:
            clock: What is moved.
            waits: Tells whether somebody waits for what only time can bring.
            patient: Tells whether something real is to be waited for before.
        """
        self._clock, self._waits, self._patient = clock, waits, patient
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._held = 0
        clock.told = self._told

    @contextmanager
    def held(self) -> Iterator[None]:
        """Leave time alone: somebody moves it by hand."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self._told()

    def _told(self) -> None:
        if self._handle is None and not self._held and self._task is None:
            self._handle = self._loop.call_later(_LOOK, self._look)

    def _look(self) -> None:
        self._handle = None
        if not self._held and self._clock.due is not None and self._waits():
            self._task = self._loop.create_task(self._run())
            self._task.add_done_callback(self._ended)

    async def _run(self) -> None:
        while True:
            await self._clock.quiet()
            if self._held or not self._waits():
                return
            if self._patient():
                await asyncio.sleep(_NAP)
            elif not self._clock.jump():
                return

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.result()

    async def stop(self) -> None:
        """End it."""
        self._held += 1
        self._clock.told = None
        if self._handle is not None:
            self._handle.cancel()
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
