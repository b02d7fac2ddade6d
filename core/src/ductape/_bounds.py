"""Calls into adapters: bounded, never cancelled, abandoned when they overstay."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from ._clock import Clock
from .errors import AdapterError, Fault

T = TypeVar("T")
Call = Coroutine[object, object, T]


class Closable(Protocol):
    """Anything of an adapter that is closed."""

    async def close(self) -> None:
        """Close it."""


CHECK, CLOSE, STOP = 5.0, 5.0, 5.0
CONNECT, SENDER, SETTLE = 10.0, 10.0, 10.0
DECLARE = 30.0
RECEIVER = 60.0
"""Joining a group waits for its other members."""
LEAVE = 1.0
"""For what was abandoned, before an event loop ends."""
LATE = 10.0
"""What `receive` may take beyond its wait."""


class Backoff:
    """How long to wait before the next try, and after how many to give up."""

    def __init__(self, first: float = 0.05, longest: float = 10.0, tries: int | None = None) -> None:
        """Begin with `first` seconds, and go up to `longest`; give up after `tries` (None: never)."""
        self._first, self._longest, self._tries = first, longest, tries
        self._next, self.failures = first, 0

    def failed(self) -> float:
        """Return the seconds to wait."""
        self.failures += 1
        delay = self._next * random.uniform(1.0, 1.5)
        self._next = min(self._next * 2, self._longest)
        return delay

    def worked(self) -> None:
        """Begin anew."""
        self._next, self.failures = self._first, 0

    @property
    def exhausted(self) -> bool:
        """It is time to give up."""
        return self._tries is not None and self.failures > self._tries


class Bounds:
    """Runs adapter calls under a bound, and keeps hold of those that were abandoned until they end."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._abandoned: set[asyncio.Task[Any]] = set()

    async def call(self, call: Call[T], seconds: float, late: Callable[[T], Call[object]] | None = None) -> T:
        """Await `call` for at most `seconds`.

        Args:
            call: The adapter's coroutine.
            seconds: The bound.
            late: Closes a result that arrives after the call was abandoned.

        Raises:
            AdapterError: ``LOST`` if the call overstayed, was cancelled by its client, or raised anything unclassified.
        """
        task = asyncio.get_running_loop().create_task(call)
        try:
            done = await wait_until(task, self.clock, self.clock.now() + seconds)
        except asyncio.CancelledError:
            self._abandon(task, late)
            raise
        if not done:
            self._abandon(task, late)
            raise AdapterError(Fault.LOST, f"no answer within {seconds:g} s")
        if task.cancelled():
            raise AdapterError(Fault.LOST, "the client cancelled its own call")
        error = task.exception()
        if error is not None:
            raise classified(error)
        return task.result()

    def _abandon(self, task: asyncio.Task[T], late: Callable[[T], Call[object]] | None) -> None:
        """Keep the call until it ends, and close what it brings."""

        def ended(done: asyncio.Task[T]) -> None:
            if late is not None and not done.cancelled() and done.exception() is None:
                self.background(late(done.result()))

        self.keep(task)
        task.add_done_callback(ended)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Keep hold of a task until it ends; its failure changes nothing any more."""
        self._abandoned.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio complains that nobody asked

    def background(self, call: Call[object]) -> None:
        """Let a closing call run by itself."""
        self.keep(asyncio.get_running_loop().create_task(call))

    async def ended(self, seconds: float = LEAVE) -> None:
        """Wait, for so long, until all that is kept has ended: what the end of a loop cuts off leaves sockets open."""
        end = self.clock.now() + seconds
        while self._abandoned:
            ended = asyncio.gather(*self._abandoned, return_exceptions=True)
            if not await wait_until(ended, self.clock, end):
                return  # what it brought may be closed only now

    async def close(self, target: Closable, seconds: float = CLOSE) -> None:
        """Close a sender, receiver or connection; its failure changes nothing any more."""
        try:
            await self.call(target.close(), seconds)
        except AdapterError:
            return


async def wait_until(future: asyncio.Future[T], clock: Clock, deadline: float) -> bool:
    """Wait for a future or a moment, whichever comes first; the future is never cancelled. Tells whether it is done."""
    if future.done():
        return True
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    future.add_done_callback(wake)
    timer = clock.call_later(max(0.0, deadline - clock.now()), wake)
    try:
        await waiter
    finally:
        timer.cancel()
        future.remove_done_callback(wake)
    return future.done()


def classified(error: BaseException) -> AdapterError:
    """Return an adapter's failure as `AdapterError`; what it did not classify is ``LOST``, named by class only."""
    if isinstance(error, AdapterError):
        return error
    lost = AdapterError(Fault.LOST, f"unclassified {type(error).__name__}")
    lost.__cause__ = error
    return lost
