"""Time that stands still until it is moved."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import time
from collections.abc import Callable

__all__ = ["VirtualClock", "VirtualTimer"]

_TURNS = 16
"""Turns of the loop without any timer set or called off, after which nothing goes on by itself: a call into an adapter
takes about five, and each sets a timer for its bound."""


class VirtualTimer:
    """A call that is due at a moment of virtual time."""

    __slots__ = ("_args", "_callback", "_clock", "_context", "_handle")

    def __init__(self, clock: VirtualClock, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        """Describe a call; it runs in the context of whoever set it, as on an event loop."""
        self._clock, self._args = clock, args
        self._callback: Callable[..., object] | None = callback
        self._context = contextvars.copy_context()
        self._handle: asyncio.Handle | None = None

    @property
    def cancelled(self) -> bool:
        """It was called off."""
        return self._callback is None

    def cancel(self) -> None:
        """Call it off; idempotent."""
        if self._callback is not None:
            self._callback = None
            self._clock.changes += 1
        if self._handle is not None:
            self._handle.cancel()

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run it in the next turn of the loop. For the clock."""
        if self._callback is not None:
            self._handle = loop.call_soon(self._callback, *self._args, context=self._context)


class VirtualClock:
    """A clock for the kernel and its adapters, bound to the running loop. What is due now runs at once.

    Attributes:
        changes: Counts timers that were set, called off or became due: while it stands, the kernel waits.
        told: Called whenever a timer is set.
    """

    def __init__(self) -> None:
        """Begin at 0; `time` begins with the second in which it was made."""
        self.changes = 0
        self.told: Callable[[], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._now, self._began = 0.0, float(int(time.time()))  # whole: headers carry instants in milliseconds
        self._timers: list[tuple[float, int, VirtualTimer]] = []
        self._tie = itertools.count()

    def now(self) -> float:
        """Return seconds since it began."""
        return self._now

    def time(self) -> float:
        """Return seconds since 1970, UTC."""
        return self._began + self._now

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> VirtualTimer:
        """Call `callback` once `delay` seconds of virtual time went by."""
        timer = VirtualTimer(self, callback, args)
        self.changes += 1
        if delay <= 0:
            timer.begin(self._loop)
        else:
            heapq.heappush(self._timers, (self._now + delay, next(self._tie), timer))
        if self.told is not None:
            self.told()
        return timer

    async def sleep(self, delay: float) -> None:
        """Wait until `delay` seconds of virtual time went by."""
        if delay <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = self._loop.create_future()
        timer = self.call_later(delay, _wake, future)
        try:
            await future
        finally:
            timer.cancel()

    # -- moving it

    @property
    def due(self) -> float | None:
        """The next moment at which something is due; None: there is none."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def jump(self) -> bool:
        """Move to the next moment at which something is due, and begin all of that; False: there is none."""
        due = self.due
        if due is None:
            return False
        self._now = due
        while self.due == due:
            heapq.heappop(self._timers)[2].begin(self._loop)
        self.changes += 1
        return True

    async def advance(self, seconds: float) -> None:
        """Move by `seconds`, and run what falls due on the way, in its order.

        Args:
            seconds: How far, in virtual time.

        Raises:
            ValueError: It is negative.
        """
        if not seconds >= 0:
            raise ValueError(f"advance({seconds!r}): time moves forward")
        end = self._now + seconds
        await self.quiet()
        while (due := self.due) is not None and due <= end:
            self.jump()
            await self.quiet()
        self._now = max(self._now, end)

    async def quiet(self, until: float | None = None) -> bool:
        """Let the loop run until nothing goes on by itself.

        Args:
            until: Real time of the loop at which to give up.

        Returns:
            False if it gave up.
        """
        still, seen = 0, self.changes
        while still < _TURNS:
            await asyncio.sleep(0)
            if seen == self.changes:
                still += 1
            else:
                still, seen = 0, self.changes
                if until is not None and self._loop.time() > until:
                    return False
        return True

    def __repr__(self) -> str:
        return f"<VirtualClock at {self._now:g} s>"


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
