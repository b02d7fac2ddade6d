"""Publish/subscribe: whoever listens now gets the message, once at most.

All receivers of a connection share one socket. The server pushes without asking, so each receiver has a buffer with
a bound of its own; what does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import hiredis

from ductape.adapter import (
    AdapterError,
    Clock,
    Delivery,
    Epoch,
    Fault,
    Measurable,
    Receiver,
    Settlement,
    Verdict,
)

from ._link import BOUND, Endpoint, Link, pack
from ._wire import fault_of, opened

__all__ = ["ChannelReceiver", "Listener"]

MESSAGES, BYTES = 10_000, 32 * 1024 * 1024
"""What a receiver buffers at most."""
PING = 5.0
"""Seconds of silence after which the server is asked whether it is there, and after which it is given up."""


class Listener:
    """The connection in subscriber mode. When it breaks, its receivers are lost; new ones get a new listener."""

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        """Prepare; the first receiver connects it."""
        self._link = Link(endpoint, self._heard, self._broke)
        self._clock = clock
        self._channels: dict[bytes, list[ChannelReceiver]] = {}
        self._answers: dict[bytes, asyncio.Future[None]] = {}
        self._lock = asyncio.Lock()
        self._quiet = 0
        self._timer = clock.call_later(PING, self._look)
        self.dead = False

    async def add(self, name: bytes, receiver: ChannelReceiver) -> None:
        """Subscribe a receiver.

        Raises:
            AdapterError: If the server cannot be reached or refuses.
        """
        async with self._lock:
            await self._link.open()
            if name not in self._channels:
                answer = self._answers[name] = asyncio.get_running_loop().create_future()
                self._link.write(pack((b"SUBSCRIBE", name)))
                try:
                    async with asyncio.timeout(BOUND):
                        await answer
                except TimeoutError:
                    raise AdapterError(Fault.TRANSIENT, f"no answer within {BOUND:g} s") from None
                finally:
                    self._answers.pop(name, None)
            self._channels.setdefault(name, []).append(receiver)

    def remove(self, name: bytes, receiver: ChannelReceiver) -> bool:
        """Unsubscribe a receiver; True if it was the last one."""
        receivers = self._channels.get(name, [])
        if receiver in receivers:
            receivers.remove(receiver)
            if not receivers:
                del self._channels[name]
                self._link.write(pack((b"UNSUBSCRIBE", name)))
        return not self._channels

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._timer.cancel()
        self._link.drop()

    def _heard(self, reply: object) -> None:
        self._quiet = 0
        if isinstance(reply, hiredis.ReplyError):
            for answer in self._answers.values():  # one at a time, see the lock
                if not answer.done():
                    answer.set_exception(fault_of(reply))
        elif isinstance(reply, list) and reply[0] == b"message":
            for receiver in self._channels.get(reply[1], ()):
                receiver.put(reply[2])
        elif isinstance(reply, list) and reply[0] == b"subscribe":
            waiting = self._answers.get(reply[1])
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    def _look(self) -> None:
        """A frozen server is noticed by its silence only."""
        self._timer = self._clock.call_later(PING, self._look)
        self._quiet += 1
        if self._quiet > 2:
            self._link.drop(f"silent for {2 * PING:g} s")
        elif self._link.alive:
            self._link.write(pack((b"PING",)))

    def _broke(self) -> None:
        self.dead = True
        self._timer.cancel()
        error = AdapterError(Fault.LOST, self._link.why)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(AdapterError(Fault.TRANSIENT, self._link.why))
        for receivers in list(self._channels.values()):
            for receiver in receivers:
                receiver.fail(error)

    def __repr__(self) -> str:
        return f"<Listener channels={len(self._channels)} {'dead' if self.dead else 'alive'}>"


class ChannelReceiver(Receiver, Measurable):
    """One listener of a channel."""

    def __init__(self, listener: Listener, name: str, window: int, clock: Clock) -> None:
        """Prepare; `open` subscribes."""
        self.epoch = Epoch(name)
        self._window, self._out = window, 0
        self._listener, self._name, self._clock = listener, name, clock
        self._buffer: deque[bytes] = deque()
        self._bytes = self._dropped = 0
        self._error: AdapterError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._stopped = False

    async def open(self) -> None:
        """Subscribe; what is published after this returns arrives."""
        await self._listener.add(self._name.encode(), self)

    def put(self, data: bytes) -> None:
        """Buffer a message, or drop it. For the listener."""
        if self._stopped or len(self._buffer) >= MESSAGES or self._bytes + len(data) > BYTES:
            self._dropped += 1
            return
        self._buffer.append(data)
        self._bytes += len(data)
        self._wake()

    def fail(self, error: AdapterError) -> None:
        """Have the next `receive` raise. For the listener."""
        self._error = error
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
        data = self._buffer.popleft()
        self._bytes -= len(data)
        return opened(self._name, data, self.epoch)

    async def settle(self, settlements: Sequence[Settlement]) -> list[AdapterError | None]:
        """Answer; there is nothing to settle, and nothing can come back."""
        self._out -= len(settlements)
        lost = AdapterError(Fault.LOST, "pub/sub keeps nothing that could come back")
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
            if self._listener.remove(self._name.encode(), self):
                self._listener.close()
                self._listener.dead = True
            self._wake()

    async def close(self) -> None:
        """Unsubscribe and forget what is buffered."""
        await self.stop()
        self._buffer.clear()
        self.epoch.end()

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "open"
        return f"<ChannelReceiver {self._name} {state} buffered={len(self._buffer)} dropped={self._dropped}>"
