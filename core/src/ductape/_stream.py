"""Receiving as a stream: the application's own loop, and explicit settling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from ._event import Event
from ._retry import Reject, RetryLater
from ._subscription import Subscription
from ._workers import Release
from .errors import StateError

T = TypeVar("T")


class StreamEvent(Event[T]):
    """An event that waits for its verdict. Without one it goes back when the stream is closed."""

    __slots__ = ("_verdict",)

    def __init__(self, event: Event[T]) -> None:
        """Wrap an event. For the kernel."""
        super().__init__(event.name, event.group, event.attempt, event.message, event._delivery)
        self._verdict: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ack(self) -> None:
        """It is done. Raises `StateError` if it has a verdict already."""
        self._decide(None)

    def retry(self, delay: float | None = None) -> None:
        """It failed: again after `delay` seconds, or as the subscription's `Retry` says. Counts as an attempt."""
        self._decide(RetryLater(delay) if delay is not None else _Failed("retry was asked for"))

    def reject(self, reason: str = "") -> None:
        """It can never work: to the dead letters."""
        self._decide(Reject(reason))

    def release(self) -> None:
        """Not now: it goes back at once, for anyone, and this was no attempt."""
        self._decide(Release())

    def _decide(self, verdict: Exception | None) -> None:
        if self._verdict.done():
            raise StateError("ALREADY_SETTLED", f"{self!r} has its verdict, or its stream is closed.")
        if verdict is None:
            self._verdict.set_result(None)
        else:
            self._verdict.set_exception(verdict)


class _Failed(Exception):
    """A stream's reader asked for a retry."""


class Stream(Generic[T]):
    """``async with ductape.event.stream(event, group=…) as events: async for event in events: …; event.ack()``."""

    def __init__(
        self, open_subscription: Callable[[Callable[[Event[T]], Awaitable[None]]], Awaitable[Subscription]]
    ) -> None:
        """Describe a stream; entering it joins the group."""
        self._open = open_subscription
        self._queue: asyncio.Queue[StreamEvent[T] | None] = asyncio.Queue()
        self._open_events: set[StreamEvent[T]] = set()
        self._subscription: Subscription | None = None
        self._closing = False

    async def _feed(self, event: Event[T]) -> None:
        """The handler: hand the event out, and wait for its verdict."""
        if self._closing:
            raise Release
        out = StreamEvent(event)
        self._open_events.add(out)
        self._queue.put_nowait(out)
        try:
            await out._verdict
        finally:
            self._open_events.discard(out)

    async def __aenter__(self) -> Stream[T]:
        self._subscription = await self._open(self._feed)
        self._subscription.ended.add_done_callback(lambda _: self._queue.put_nowait(None))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        for event in tuple(self._open_events):
            if not event._verdict.done():
                event.release()
        if self._subscription is not None:
            await self._subscription.close()

    async def __aiter__(self) -> AsyncIterator[StreamEvent[T]]:
        while (event := await self._queue.get()) is not None:
            yield event
        self._queue.put_nowait(None)  # for every other reader
        failure = self._subscription.ended.result() if self._subscription is not None else None
        if failure is not None:
            raise failure

    def __repr__(self) -> str:
        return f"<Stream of {self._subscription!r} waiting={self._queue.qsize()}>"
