"""Hands over the messages of one group on one stream, and settles them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import hiredis

from ductape.adapter import (
    AdapterError,
    Delivery,
    Epoch,
    Fault,
    Measurable,
    Receiver,
    Settlement,
    Verdict,
)

from ._hub import Hub
from ._link import pack, reply_fault
from ._scripts import BACK, EXTEND, Argument
from ._source import Source
from ._wire import Raw, delivery_of, milliseconds

__all__ = ["StreamReceiver"]

Answers = list[AdapterError | None]

HAND_BACK = 2.0
"""Seconds for what `close` gives back."""


class StreamReceiver(Receiver, Measurable):
    """Reads ahead by what the kernel asked for and has not got: so a poll is open between calls, inside the window."""

    def __init__(
        self,
        hub: Hub,
        sources: Sequence[Source],
        window: int,
        *,
        delayed: Callable[[float], None],
        left: Callable[[StreamReceiver], Awaitable[None]],
    ) -> None:
        """Join a hub.

        Args:
            hub: Reads for us.
            sources: The channel's stream and the one on which its messages come back.
            window: How many may be unsettled, those in the buffer included.
            delayed: Told the seconds until a retry is due.
            left: Called when this receiver has closed.
        """
        self.epoch = Epoch(f"{sources[0].name}/{sources[0].group}")
        self.sources = tuple(sources)
        self.credit = 0
        self.stopped = False
        self._window, self._held = window, 0
        self._hub, self._desk, self._delayed, self._left = hub, hub.desk, delayed, left
        self._buffer: deque[Delivery] = deque()
        self._error: AdapterError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        for source in self.sources:
            source.takers.append(self)
        hub.joined(self.sources)

    def put(self, source: Source, entries: Sequence[Raw], until: float) -> None:
        """Take entries that were read for this receiver. For the hub."""
        if not self.epoch.alive:  # it was closed while they were read: they are pending with us, for another receiver
            source.recover, self.credit = True, 0
            return
        field, held = self._desk.config.body_field, source.held
        for raw in entries:
            delivery = delivery_of(source.name, raw, self.epoch, (source, raw[0]), field)
            delivery.leased_until = until
            self._held += raw[0] not in held
            held[raw[0]] = delivery
            self._buffer.append(delivery)
        self.credit = max(self.credit - len(entries), 0)
        self._wake()

    def fail(self, error: AdapterError) -> None:
        """Have the next `receive` raise `error`. For the hub."""
        self._error, self.credit = error, 0
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return what is there, or what comes first."""
        if not self.stopped:
            self.credit = max(min(limit - len(self._buffer), self._window - self._held), 0)
            if self.credit and self._error is None:
                self._hub.wanted(self.sources)
        if limit <= 0:
            return []
        if not self._buffer and self._error is None and not self.stopped and wait > 0:
            self._waiter = asyncio.get_running_loop().create_future()
            timer = self._desk.clock.call_later(wait, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if self._error is not None and not self._buffer and not self.stopped:
            error, self._error = self._error, None
            raise error
        return self._take(limit)

    def _take(self, limit: int) -> list[Delivery]:
        buffer, now = self._buffer, self._desk.clock.now()
        taken: list[Delivery] = []
        while buffer and len(taken) < limit:
            delivery = buffer.popleft()
            if (delivery.leased_until or 0.0) > now:
                taken.append(delivery)
            else:  # nobody asked for it in time: it is, or will be, with another member
                self._forget(delivery)
        return taken

    def _forget(self, delivery: Delivery) -> None:
        source, id_ = _token(delivery)
        if source.held.pop(id_, None) is not None:
            self._held -= 1

    async def settle(self, settlements: Sequence[Settlement]) -> Answers:
        """Settle with one write: an XACK for each stream, a script for what comes back."""
        if self._closed:
            raise AdapterError(Fault.LOST, "the receiver is closed: what it held is, or will be, with another member")
        return await self._settle(settlements)

    async def _settle(self, settlements: Sequence[Settlement]) -> Answers:
        acks: dict[Source, list[int]] = {}
        backs: dict[Source, list[int]] = {}
        for place, settlement in enumerate(settlements):
            kind = acks if settlement.verdict is Verdict.ACK else backs
            source = settlement.delivery.token[0]  # type: ignore[index]  # ours: see put
            places = kind.get(source)
            if places is None:
                kind[source] = [place]
            else:
                places.append(place)
        commands: list[bytes] = []
        for source, places in acks.items():
            ids = [settlements[place].delivery.token[1] for place in places]  # type: ignore[index]  # as above
            commands += source.acks(ids)
        for source, places in backs.items():
            commands.append(self._back(source, [settlements[place] for place in places]))
        replies = iter(await self._desk.control.calls(commands, self._desk.bound))
        answers: Answers = [None] * len(settlements)
        for source, places in acks.items():
            self._acked(source, places, next(replies), answers)
            if source.private:
                next(replies)  # XDEL's: what it left is only a settled entry more
        for places in backs.values():
            self._returned(places, next(replies), answers)
        for settlement, answer in zip(settlements, answers, strict=True):
            if answer is None or answer.fault is not Fault.TRANSIENT:
                self._forget(settlement.delivery)
        return answers

    def _acked(self, source: Source, places: list[int], reply: object, answers: Answers) -> None:
        # A short count: some were settled by another member meanwhile. They will not come again, so they are done.
        source.acked = True
        if isinstance(reply, hiredis.ReplyError):
            error = reply_fault(self._desk.control, reply, source.name)
            for place in places:
                answers[place] = error

    def _back(self, source: Source, settlements: list[Settlement]) -> bytes:
        args: list[Argument] = [source.group, self._desk.consumer, int(source.private), int(source.keep_origin)]
        soonest: float | None = None
        for settlement in settlements:
            delivery = settlement.delivery
            delay = settlement.delay if settlement.verdict is Verdict.RETRY else 0.0
            # The new entry counts from 1 again: what this one's count was above that is carried.
            args += (_token(delivery)[1], milliseconds(delay), delivery.failed, max((delivery.count or 1) - 1, 0))
            if delay > 0:
                soonest = min(delay, soonest or delay)
        if soonest is not None:
            self._delayed(soonest)
        return pack(BACK.run([source.name, source.back, source.back_due], *args))

    def _returned(self, places: list[int], reply: object, answers: Answers) -> None:
        done = reply if isinstance(reply, list) else [0] * len(places)
        error = reply_fault(self._desk.control, reply) if isinstance(reply, hiredis.ReplyError) else None
        for place, result in zip(places, done, strict=True):
            if error is not None:
                answers[place] = error
            elif result != 1:
                what = "is with another member" if result == 0 else "was deleted from its stream by somebody"
                answers[place] = AdapterError(Fault.LOST, f"the message {what}")

    async def extend(self, deliveries: Sequence[Delivery]) -> Answers:
        """Renew leases, of what is still ours only."""
        by: dict[Source, list[int]] = {}
        for place, delivery in enumerate(deliveries):
            by.setdefault(_token(delivery)[0], []).append(place)
        until = self._desk.clock.now() + self._desk.config.lease
        consumer = self._desk.consumer
        commands = [
            pack(EXTEND.run([source.name], source.group, consumer, *(_token(deliveries[p])[1] for p in places)))
            for source, places in by.items()
        ]
        answers: Answers = [None] * len(deliveries)
        replies = await self._desk.control.calls(commands, self._desk.bound)
        for (source, places), reply in zip(by.items(), replies, strict=True):
            error = None
            if isinstance(reply, hiredis.ReplyError):
                error = reply_fault(self._desk.control, reply, source.name)
            for place, ours in zip(places, reply if isinstance(reply, list) else [0] * len(places), strict=True):
                if ours:
                    deliveries[place].leased_until = until
                else:
                    answers[place] = error or AdapterError(Fault.LOST, "the message is with another member")
                    if error is None:
                        self._forget(deliveries[place])
        return answers

    async def lag(self) -> int | None:
        """Return what the group has not been given, on both streams; None where Redis does not know it."""
        replies = await self._desk.control.calls([source.inspect for source in self.sources])
        total = 0
        for source, reply in zip(self.sources, replies, strict=True):
            if isinstance(reply, hiredis.ReplyError):
                raise reply_fault(self._desk.control, reply, source.name)
            lag = source.facts(reply).get(b"lag")
            if not isinstance(lag, int):
                return None
            total += lag
        return total

    async def stop(self) -> None:
        """Take no more, and wait until what is on its way is here."""
        if not self.stopped:
            self.stopped, self.credit = True, 0
            await self._hub.left(self.sources)
            self._wake()

    async def close(self) -> None:
        """Give back what was never handed over, and leave."""
        if self._closed:
            return
        self._closed = True
        await self.stop()
        unread = [Settlement(delivery, Verdict.RELEASE) for delivery in self._buffer]
        self._buffer.clear()
        try:
            async with asyncio.timeout(HAND_BACK):
                if unread:
                    await self._settle(unread)
        except (AdapterError, TimeoutError) as error:
            self._desk.log.info("%r: messages go back when their lease ends: %s", self, error)
        self.epoch.end()
        for source in self.sources:
            # What is not settled is not ours any more: anyone may claim it when its lease ends, we too.
            source.drop(self.epoch)
            source.takers.remove(self)
        await self._left(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "stopped" if self.stopped else "open"
        return f"<StreamReceiver {self.epoch.label} {state} credit={self.credit} buffered={len(self._buffer)}>"


def _token(delivery: Delivery) -> tuple[Source, bytes]:
    token: tuple[Source, bytes] = delivery.token  # type: ignore[assignment]  # ours: see put
    return token
