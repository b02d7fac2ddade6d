"""Hands over the messages of one group's queue, and settles them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import msgspec
from pamqp import commands
from pamqp.frame import marshal

from ductape.adapter import (
    AdapterError,
    Clock,
    Delivery,
    Epoch,
    Fault,
    Intake,
    Measurable,
    Order,
    Receiver,
    Settlement,
    Verdict,
)

from ._channel import Channel as Wire
from ._channel import Ears
from ._link import BOUND
from ._wire import Content, ack, delivery_of, nack

__all__ = ["RabbitMQReceiver"]

Answers = list[AdapterError | None]

STOPPING = 2.5
"""Seconds for the server to end a consumer, or a channel."""
FLUSHING = 0.8
"""Seconds for one of the three answers that tell that acknowledgements have reached their queue."""
FEW = 15
"""Settlements said at a time. A channel of RabbitMQ that has 32 on their way to a quorum queue keeps further ones for a
moment, and forgets them when it is closed then (rabbit_fifo_client, 3.10 and 4.0)."""


class RabbitMQReceiver(Receiver, Measurable, Ears):
    """A consumer on a channel of its own: its credit is the window, and its end that of the epoch."""

    def __init__(
        self, wire: Wire, queue: str, intake: Intake, clock: Clock, lease: float, *,
        counted: bool, depth: Callable[[str], Awaitable[int]],
    ) -> None:  # fmt: skip
        """Take over an open channel; `begin` makes it a consumer.

        Args:
            wire: The channel.
            queue: Where messages come from.
            intake: Group, window and order.
            clock: The site's.
            lease: Seconds after which the server closes the channel of an unsettled delivery.
            counted: The queue counts deliveries.
            depth: Returns how many messages wait in a queue.
        """
        self.epoch = Epoch(f"{queue}#{wire.number}", clock)
        self._wire, self._queue, self._clock, self._lease, self._counted = wire, queue, clock, lease, counted
        self._credit, self._ordered, self._depth = min(intake.window, 65_535), intake.order is not Order.NONE, depth
        self._bound = min(BOUND, lease / 4)
        self._buffer: deque[Delivery] = deque()
        self._low, self._high = 1, 0
        self._done: set[int] = set()
        """Tags above the lowest open one that are settled."""
        self._error: AdapterError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._consuming = self._stopped = self._closed = self._acked = False
        self._tag, self._consumers, self._granted = "", 0, 0
        wire.ears = self

    async def begin(self) -> None:
        """Join the group.

        Raises:
            AdapterError: The queue is gone (``TRANSIENT``), or refuses consumers.
        """
        await self._consume()

    @property
    def _open(self) -> int:
        """How many messages came and are not settled."""
        return self._high - self._low + 1 - len(self._done)

    async def _consume(self) -> None:
        self._consumers += 1  # RabbitMQ 3.10 crashes when a tag is used again while its old deliveries are out
        self._tag = f"ductape-{self._wire.number}.{self._consumers}"
        self._granted = max(1, self._credit - self._open)  # RabbitMQ counts what a consumer before this had apart
        try:
            await self._wire.call(commands.Basic.Qos(prefetch_count=self._granted), BOUND)
            await self._wire.call(commands.Basic.Consume(queue=self._queue, consumer_tag=self._tag), BOUND)
        except AdapterError as error:
            if error.text.startswith("404"):  # it was declared a moment ago
                raise AdapterError(Fault.TRANSIENT, error.text) from error
            raise
        self._consuming = True
        if self._stopped and not self._ordered:  # meanwhile
            await self._cancel()

    # -- what arrives

    def delivered(self, tag: int, content: Content) -> None:
        """Take a message."""
        until = self._clock.now() + self._lease
        self._high = tag
        self._buffer.append(delivery_of(self._queue, tag, content, self.epoch, until, counted=self._counted))
        if self._waiter is not None:
            self._wake()

    def lost(self, error: AdapterError) -> None:
        """Everything unsettled goes back to the queue."""
        if self._error is None:
            self._error = AdapterError(Fault.LOST, f"{self._queue}: {error.text}")
            self._buffer.clear()
            self.epoch.end()
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- what the kernel asks

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return what is there, or what comes first."""
        buffer = self._buffer
        if limit > 0 and not (buffer or self._stopped) and self._error is None:
            await self._resume()
        if limit > 0 and wait > 0 and not buffer and self._error is None and not self._stopped:
            self._waiter = asyncio.get_running_loop().create_future()
            timer = self._clock.call_later(wait, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if self._error is not None:
            raise self._error
        if self._stopped and self._ordered:
            return []  # what was not handed over goes back in order when the channel closes
        if limit >= len(buffer):
            taken = list(buffer)
            buffer.clear()
            return taken
        return [buffer.popleft() for _ in range(max(limit, 0))]

    async def _resume(self) -> None:
        """Consume again after `_rest`; once more when that was with little credit, and twice as much is free now."""
        if self._consuming and (self._granted == self._credit or 2 * self._granted > self._credit - self._open):
            return
        if rest := self._rest():
            self._wire.write(rest)
        try:
            await self._consume()
        except AdapterError as error:  # an answer that comes late would leave a second consumer
            self.lost(error)

    async def settle(self, settlements: Sequence[Settlement]) -> Answers:
        """Settle with as few frames as the order of tags allows."""
        if self._error is not None:
            return [self._error] * len(settlements)
        answers: Answers = [None] * len(settlements)
        acks: dict[int, int] = {}
        again: list[Delivery] = []
        frames: list[tuple[bytes, Sequence[int]]] = []
        number, done = self._wire.number, self._done
        for place, settlement in enumerate(settlements):
            delivery = settlement.delivery
            tag = cast(int, delivery.token[0])  # type: ignore[index]  # ours: see delivery_of
            if delivery.epoch is not self.epoch or tag < self._low or tag in done:
                answers[place] = AdapterError(Fault.LOST, "the message is not with this receiver")
            elif settlement.verdict is Verdict.ACK:
                done.add(tag)
                acks[tag] = place
            elif self._ordered:
                again.append(msgspec.structs.replace(delivery))
            else:
                done.add(tag)
                frames.append((self._rest() + nack(number, tag), (place,)))
        if again:
            self._again(again)
        low = self._low
        while low in done:
            done.remove(low)
            low += 1
        self._low = low
        # What is below the lowest open tag is settled with one frame: behind those that give others of it back.
        below = [tag for tag in acks if tag < low]
        if below:
            frames.append((ack(number, max(below), multiple=True), [acks[tag] for tag in below]))
        frames += [(ack(number, tag), (place,)) for tag, place in acks.items() if tag > low]
        self._acked |= bool(acks)
        await self._say(frames, answers)
        return answers

    async def _say(self, frames: Sequence[tuple[bytes, Sequence[int]]], answers: Answers) -> None:
        """Write a few frames at a time; those that the server does not confirm in time fail, and what depends on them.

        Args:
            frames: Each with the places of its settlements.
            answers: Where errors are put.
        """
        end, error = self._clock.now() + self._bound, None
        for start in range(0, len(frames), FEW):
            few = frames[start : start + FEW]
            error = self._error or error
            if self._error is None:
                self._wire.write(b"".join(each for each, _ in few))
            if error is None:
                error = await self._confirm(max(0.0, end - self._clock.now()))
            if error is not None:
                for _, places in few:
                    for place in places:
                        answers[place] = error

    async def _confirm(self, seconds: float) -> AdapterError | None:
        """Wait for the answer to what was said behind the settlements: then the server has taken them.

        AMQP answers no acknowledgement. Setting the credit of later consumers, which changes nothing, is answered.
        """
        try:
            await self._wire.call(commands.Basic.Qos(prefetch_count=self._granted), seconds)
        except AdapterError as error:
            return self._error or AdapterError(Fault.TRANSIENT, error.text)
        return None

    def _rest(self) -> bytes:
        """Return the frame that ends the consumer until somebody receives: what is given back is for others then."""
        if self._waiter is not None or self._stopped or not self._consuming:
            return b""
        self._consuming = False
        return marshal(commands.Basic.Cancel(consumer_tag=self._tag, nowait=True), self._wire.number)

    def _again(self, deliveries: list[Delivery]) -> None:
        """Keep the order: a message given back to its queue would come behind what we have of it already.

        As the single active consumer we would get it again, so it is handed over again; after `stop` the closing of
        the channel gives it to the next one, with everything else, in order.
        """
        if not self._stopped:
            deliveries += self._buffer
            self._buffer.clear()  # it is filled again, not replaced: a call may wait with it
            self._buffer.extend(sorted(deliveries, key=lambda each: each.token[0]))  # type: ignore[index]  # ours
            self._wake()

    async def lag(self) -> int | None:
        """Return how many messages wait in the queue and are with nobody."""
        return await self._depth(self._queue)

    async def stop(self) -> None:
        """Take no more. In order, the server is not told: it would make another one active while handlers run here."""
        if self._stopped:
            return
        self._stopped = True
        if self._consuming and not self._ordered and self._error is None:
            await self._cancel()
        self._wake()

    async def _cancel(self) -> None:
        try:
            await self._wire.call(commands.Basic.Cancel(consumer_tag=self._tag), STOPPING)
        finally:
            self._wake()

    async def close(self) -> None:
        """Close the channel: what was settled is, and what was not goes back to the queue."""
        if self._closed:
            return
        self._closed = self._stopped = True
        if self._acked and self._counted and self._error is None:
            await self._flush()
        self.lost(AdapterError(Fault.LOST, "the receiver is closed"))
        await self._wire.close(STOPPING)

    async def _flush(self) -> None:
        """See that a quorum queue has what was acknowledged, before the channel forgets what it keeps of it.

        To begin and to end a consumer are answered by the queue itself, behind what it was sent before; between the
        two the channel sends what it kept. This consumer comes after all others, and takes one message at most.
        """
        tag = f"ductape-{self._wire.number}.flush"
        consume = commands.Basic.Consume(queue=self._queue, consumer_tag=tag, arguments={"x-priority": -100})
        try:
            for each in (commands.Basic.Qos(prefetch_count=1), consume, commands.Basic.Cancel(consumer_tag=tag)):
                await self._wire.call(each, FLUSHING)
        except AdapterError:
            pass  # what it has not got comes again

    def __repr__(self) -> str:
        state = "closed" if self._closed else "lost" if self._error else "stopped" if self._stopped else "open"
        return f"<RabbitMQReceiver {self._queue} {state} buffer={len(self._buffer)} out={self._high - self._low + 1}>"
