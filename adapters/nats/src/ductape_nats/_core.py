"""Core subjects: whoever listens now gets the message, once at most.

The server pushes without asking, so each receiver has a buffer with a bound of its own; what does not fit is dropped
and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from ductape.adapter import AdapterError, Clock, Delivery, Epoch, Fault, Measurable, Receiver, Settlement, Verdict

from ._link import Link
from ._wire import heard_of

__all__ = ["SubjectReceiver"]

MESSAGES, BYTES = 10_000, 32 * 1024 * 1024
"""What a receiver buffers at most."""


class SubjectReceiver(Receiver, Measurable):
    """One listener to a subject. When the connection breaks it is lost: what was sent meanwhile is nowhere."""

    def __init__(self, link: Link, subject: str, window: int, clock: Clock) -> None:
        """Prepare; `open` subscribes."""
        self.epoch = Epoch(subject)
        self._window, self._out = window, 0
        self._link, self._subject, self._clock = link, subject, clock
        self._buffer: deque[tuple[bytes, bytes]] = deque()
        self._bytes = self._dropped = 0
        self._sid = b""
        self._error: AdapterError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._stopped = False
        self._unwatch = link.watch(self._broke)

    async def open(self) -> None:
        """Subscribe; what is published after this returns arrives."""
        await self._link.open()
        self._sid = await self._link.subscribe(self._subject, self._heard)
        await self._link.ping()

    def _heard(self, subject: bytes, reply: bytes, block: bytes, body: bytes) -> None:
        size = len(block) + len(body)
        if self._stopped or len(self._buffer) >= MESSAGES or self._bytes + size > BYTES:
            self._dropped += 1
            return
        self._buffer.append((block, body))
        self._bytes += size
        self._wake()

    def _broke(self) -> None:
        self._error = AdapterError(Fault.LOST, self._link.why)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return what has arrived, or what arrives first."""
        if limit <= 0:
            return []
        if not self._buffer and self._error is None and not self._stopped and wait > 0:
            self._waiter = asyncio.get_running_loop().create_future()
            timer = self._clock.call_later(wait, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if not self._buffer and self._error is not None:
            raise self._error
        number = max(min(limit, self._window - self._out, len(self._buffer)), 0)
        self._out += number
        return [self._next() for _ in range(number)]

    def _next(self) -> Delivery:
        block, body = self._buffer.popleft()
        self._bytes -= len(block) + len(body)
        return heard_of(self._subject, block, body, self.epoch)

    async def settle(self, settlements: Sequence[Settlement]) -> list[AdapterError | None]:
        """Answer; there is nothing to settle, and nothing can come back."""
        self._out -= len(settlements)
        lost = AdapterError(Fault.LOST, "a core subject keeps nothing that could come back")
        return [None if settlement.verdict is Verdict.ACK else lost for settlement in settlements]

    async def lag(self) -> int | None:
        """Return None: the server keeps no account of listeners."""
        return None

    def dropped(self) -> int:
        """Return how many messages found the buffer full."""
        return self._dropped

    async def stop(self) -> None:
        """Unsubscribe; what is buffered is still handed over."""
        if not self._stopped:
            self._stopped = True
            if self._sid and self._error is None and self._link.alive:
                await self._link.unsubscribe(self._sid)
            self._wake()

    async def close(self) -> None:
        """Unsubscribe and forget what is buffered."""
        await self.stop()
        self._unwatch()
        self._buffer.clear()
        self.epoch.end()

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "open"
        return f"<SubjectReceiver {self._subject} {state} buffered={len(self._buffer)} dropped={self._dropped}>"
