"""Hands over the messages of one group, and settles them.

A pull request is open ahead of what the kernel asks for, inside the window. Acknowledgements outlive a connection, so
its death ends nothing: the receiver subscribes again on the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from ductape.adapter import AdapterError, Clock, Delivery, Epoch, Fault, Measurable, Receiver, Settlement

from ._link import Link
from ._pin import Pin
from ._settle import NAK, PROGRESS, Answers, absence, confirmed, plan_of, token_of
from ._streams import Group, refused
from ._wire import delivery_of, status_of

__all__ = ["StreamReceiver"]

EXPIRES = 5.0
"""Seconds for which a pull request waits at the server."""
SILENT = 2.0
"""Seconds after its end when it counts as forgotten: a server that lost the consumer may say nothing."""
REST = 0.1
"""Seconds without a request after a hand-back, or it would come straight back."""
REFUSED = 0.25
"""Seconds until the next request after the server refused one."""
HAND_BACK, STOPPING = 2.0, 2.0


class StreamReceiver(Receiver, Measurable):
    """One consumer of a durable pull consumer."""

    def __init__(self, link: Link, group: Group, window: int, clock: Clock, log: logging.Logger) -> None:
        """Join a group; `open` subscribes.

        Args:
            link: The connection.
            group: The consumer.
            window: How many may be unsettled, those in the buffer included.
            clock: The site's.
            log: The site's.
        """
        self.epoch = Epoch(f"{group.stream}/{group.name}")
        self.stopped = False
        self._link, self._group, self._window, self._clock, self._log = link, group, window, clock, log
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{group.stream}.{group.name}"
        self._pin = Pin(link, group, clock) if group.pinned else None
        self._bound = min(8.0, max(0.8, group.lease / 3 - 0.2))
        self._expires = min(EXPIRES, self._pin.renew) if self._pin is not None else EXPIRES
        self._buffer: deque[Delivery] = deque()
        self._held: set[Delivery] = set()
        self._sid, self._inbox, self._joined = b"", "", 0
        self._requested, self._until, self._rest_until = 0, 0.0, 0.0
        self._error: AdapterError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._unanswered = self._closed = False
        self._unwatch: Callable[[], None] = link.watch(self._broke)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "stopped" if self.stopped else "open"
        return f"<StreamReceiver {self.epoch.label} {state} requested={self._requested} buffered={len(self._buffer)}>"

    # -- in

    async def open(self) -> None:
        """Subscribe on the connection that is open now, unless that is done."""
        await self._link.open()
        if self._joined != self._link.number:
            if self._pin is not None:
                self._pin.joined(self.epoch)
            self._inbox = self._link.client.new_inbox()
            self._requested = 0
            self._joined = self._link.number
            self._sid = await self._link.subscribe(self._inbox, self._heard)

    def _heard(self, subject: bytes, reply: bytes, block: bytes, body: bytes) -> None:
        if not reply.startswith(b"$JS.ACK."):
            self._told(block)
            return
        if self._requested:
            self._requested -= 1
        delivery = delivery_of(
            self._group.stream, reply, block, body, self.epoch, self._clock.now() + self._group.lease
        )
        if self._pin is not None:
            self._pin.seen(delivery)
        self._held.add(delivery)
        self._buffer.append(delivery)
        self._wake()

    def _told(self, block: bytes) -> None:
        """Take what the server says about a request."""
        status = status_of(block)
        if status.code == 100:
            return
        self._requested = max(0, self._requested - status.pending) if status.pending is not None else 0
        if status.code not in (404, 408, 423):
            self._rest_until = self._clock.now() + REFUSED
        self._unanswered = self._unanswered or status.code == 503
        if status.code == 423 and self._pin is not None:
            self._pin.lost()
        elif status.code == 400 or "Deleted" in status.text or "push based" in status.text:
            text = f"{self.epoch.label}: the consumer is gone, or another one ({status.code} {status.text})"
            self._error = AdapterError(Fault.LOST, text)
        self._wake()

    def _broke(self) -> None:
        """Have a `receive` under way end. For the link."""
        self._requested = 0
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return what is there, or what comes first."""
        if self._closed:
            raise AdapterError(Fault.LOST, "the receiver is closed")
        end = self._clock.now() + wait
        while True:
            if not self.stopped:
                await self.open()
                await self._request(limit)
            ready = self._pin is None or await self._in_order(self._pin)
            if ready and self._buffer and limit > 0 and (taken := self._take(limit)):
                return taken
            if self._error is not None and not self.stopped:
                raise self._error
            if self._unanswered and not self.stopped:
                self._unanswered = False
                raise await absence(self._link, self._group)
            left = end - self._clock.now()
            if left <= 0 or limit <= 0 or self.stopped:
                return []
            await self._wait(min(left, self._pause(ready)))
            if not self._buffer and self._absent():
                raise AdapterError(Fault.TRANSIENT, self._link.why)

    async def _in_order(self, pin: Pin) -> bool:
        """Tell whether what is in the buffer is next; keep it meanwhile, or give it to the member whose turn it is."""
        if pin.evicted:
            await self._yield(pin)
        if await pin.ready(self._held, self._buffer):
            return True
        soon = self._clock.now() + self._group.lease * 2 / 3
        if any((each.leased_until or 0.0) < soon for each in self._buffer):
            await self.extend(list(self._buffer))
            self._buffer = deque(each for each in self._buffer if each in self._held)
        return False

    async def _yield(self, pin: Pin) -> None:
        """Give what was not handed over to the pinned member; it stays in the buffer until the server has that."""
        gone, pin.evicted = set(self._buffer), False
        try:
            end = await self._reach() if gone else 0.0
            now = self._clock.now()
            if ours := [each for each in self._buffer if each in gone and (each.leased_until or 0.0) > now]:
                pin.told.update(ours)
                await self._confirmed([], [(token_of(each).reply, NAK) for each in ours], end)
        except BaseException:
            pin.evicted = True
            raise
        self._held -= gone
        self._buffer = deque(each for each in self._buffer if each not in gone)

    def _absent(self) -> bool:
        """Whether the connection broke while this waited."""
        return not self.stopped and not self._link.alive

    def _pause(self, ready: bool) -> float:
        """Seconds after which there is something to do without a message: to ask again."""
        now = self._clock.now()
        if not ready:
            return REST
        if now < self._rest_until:
            return self._rest_until - now
        return max(self._until + SILENT - now, REST) if self._requested else self._expires

    async def _wait(self, seconds: float) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    async def _request(self, limit: int) -> None:
        """Ask the server for what there is room for, unless that is on its way; keep the pin where there is none."""
        now = self._clock.now()
        if self._requested and now > self._until + SILENT:
            self._requested = 0
            await self.lag()
        if now < self._rest_until:
            return
        room = min(limit - len(self._buffer), self._window - len(self._held))
        if self._pin is not None and limit > 0:
            room = max(room, self._pin.missing)
        number = room - self._requested
        if number > 0 and number >= (room + 1) // 2:
            await self._pull(number, now)
        elif self._pin is not None and self._pin.due(now):
            await self._pull(1, now, max_bytes=1)  # takes no message: none is that small

    async def _pull(self, number: int, now: float, **more: object) -> None:
        body: dict[str, object] = {"batch": number, "expires": int(self._expires * 1e9), **more}
        if self._pin is not None:
            body |= self._pin.claim(now)
        data = msgspec.json.encode(body)
        self._requested += number
        self._until = now + self._expires
        await self._link.write(b"PUB %b %b %d\r\n%b\r\n" % (self._next.encode(), self._inbox.encode(), len(data), data))

    def _take(self, limit: int) -> list[Delivery]:
        buffer, now = self._buffer, self._clock.now()
        taken: list[Delivery] = []
        while buffer and len(taken) < limit:
            delivery = buffer.popleft()
            if (delivery.leased_until or 0.0) > now:
                taken.append(delivery)
            else:  # nobody asked for it in time: it is, or will be, with another member
                self._held.discard(delivery)
                if self._pin is not None:  # what is behind it is not next any more
                    self._pin.doubt()
                    break
        return taken

    # -- out

    async def settle(self, settlements: Sequence[Settlement]) -> Answers:
        """Settle with one write, confirmed by its last command: the server handles a consumer's in their order."""
        if self._closed:
            raise AdapterError(Fault.LOST, "the receiver is closed: what it held is, or will be, with another member")
        end = await self._reach()
        plan = plan_of(settlements, self._held, self._clock.now())
        if not plan.done:
            return plan.answers
        old = await self._withdraw() if plan.release else b""
        told = self._pin.told if self._pin is not None else set[Delivery]()
        told.update(plan.done)
        try:
            await self._confirmed(plan.acks, plan.backs, end)
        finally:
            self._link.forget(old)
        self._held.difference_update(plan.done)
        told.difference_update(plan.done)
        self._wake()
        return plan.answers

    async def _withdraw(self) -> bytes:
        """End the open request, or what is handed back would come straight here; returns its subscription."""
        self._rest_until, old = self._clock.now() + REST, self._sid
        if self._pin is not None:  # nothing of the buffer may overtake it
            self._pin.doubt()
        if self.stopped or not self._requested or self._joined != self._link.number or not self._link.alive:
            return b""
        await self._link.unsubscribe(old, forget=False)
        self._requested, self._inbox = 0, self._link.client.new_inbox()
        self._sid = await self._link.subscribe(self._inbox, self._heard)
        return old

    async def _reach(self) -> float:
        """See that the server is there; leases are looked at after it. Returns when settling has to be over."""
        end = self._clock.now() + self._bound
        await self._link.open(self._bound)
        if self._pin is not None:
            self._pin.check(self.epoch)
        return end

    async def _confirmed(self, acks: Sequence[bytes], backs: Sequence[tuple[bytes, bytes]], end: float) -> None:
        if not await confirmed(self._link, acks, backs, max(end - self._clock.now(), 0.0)):
            raise await absence(self._link, self._group, max(end - self._clock.now(), 0.0))

    async def extend(self, deliveries: Sequence[Delivery]) -> Answers:
        """Say that handlers are at work; what another member may have by now is ``LOST``."""
        if self._closed:
            raise AdapterError(Fault.LOST, "the receiver is closed")
        end = await self._reach()
        now = self._clock.now()
        ours = [each for each in deliveries if each in self._held and (each.leased_until or 0.0) > now]
        if ours:
            await self._confirmed([], [(token_of(each).reply, PROGRESS) for each in ours], end)
            for each in ours:
                each.leased_until = now + self._group.lease
        lost = AdapterError(Fault.LOST, "its lease is over: it is, or will be, with another member")
        kept = set(ours)
        self._held.difference_update(each for each in deliveries if each not in kept)
        if self._pin is not None and len(kept) < len(deliveries):
            self._pin.doubt()
        return [None if each in kept else lost for each in deliveries]

    async def lag(self) -> int | None:
        """Return what the group has not been given."""
        found = await self._link.api(f"CONSUMER.INFO.{self._group.stream}.{self._group.name}")
        if "error" in found:
            raise refused(found, self.epoch.label)
        return int(found["num_pending"])

    # -- the end

    async def stop(self) -> None:
        """Take no more, and wait until what is on its way is here."""
        if not self.stopped:
            self.stopped = True
            if self._sid and self._joined == self._link.number and self._link.alive:
                try:
                    await self._link.unsubscribe(self._sid, forget=False)
                    await self._link.ping(STOPPING)
                except AdapterError as error:
                    self._log.debug("%r: stop: %s", self, error)
            self._requested = 0
            self._wake()

    async def close(self) -> None:
        """Give back what is not settled, and leave."""
        if self._closed:
            return
        self._closed = True
        await self.stop()
        self._buffer.clear()
        now = self._clock.now()
        ours = sorted((each for each in self._held if (each.leased_until or 0.0) > now), key=_sequence)
        self._held.clear()
        try:
            if ours and self._link.alive:
                await self._confirmed([], [(token_of(each).reply, NAK) for each in ours], now + HAND_BACK)
            if self._pin is not None and self._link.alive:
                await self._pin.release()
        except AdapterError as error:
            self._log.info("%r: messages go back when their lease ends: %s", self, error)
        self.epoch.end()
        self._unwatch()
        if self._joined == self._link.number:
            self._link.forget(self._sid)


def _sequence(delivery: Delivery) -> int:
    return token_of(delivery).sequence
