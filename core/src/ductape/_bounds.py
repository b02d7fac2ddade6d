"""Calls into adapters: bounded, never cancelled, abandoned when they overstay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

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
LATE = 10.0
"""What `receive` may take beyond its wait."""


class Bounds:
    """Runs adapter calls under a bound, and keeps hold of those that were abandoned until they end."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._abandoned: set[asyncio.Task[object]] = set()

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
        return self._result(task)

    @staticmethod
    def _result(task: asyncio.Task[T]) -> T:
        if task.cancelled():
            raise AdapterError(Fault.LOST, "the client cancelled its own call")
        error = task.exception()
        if error is None:
            return task.result()
        raise classified(error)

    def _abandon(self, task: asyncio.Task[T], late: Callable[[T], Call[object]] | None) -> None:
        """Keep the call until it ends, and close what it brings."""
        self._abandoned.add(task)

        def ended(done: asyncio.Task[T]) -> None:
            self._abandoned.discard(done)
            if not done.cancelled() and done.exception() is None and late is not None:
                self.background(late(done.result()))

        if task.done():
            ended(task)
        else:
            task.add_done_callback(ended)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Keep hold of an abandoned task until it ends."""
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)

    def background(self, call: Call[object]) -> None:
        """Let a closing call run by itself; its failure changes nothing any more."""
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(call)
        self._abandoned.add(task)

        def ended(done: asyncio.Task[object]) -> None:
            self._abandoned.discard(done)
            if not done.cancelled():
                done.exception()

        task.add_done_callback(ended)

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
