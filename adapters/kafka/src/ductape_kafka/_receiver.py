"""Hands over the messages of one group, and settles them by marks."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from ductape.adapter import (
    AdapterError,
    Annotating,
    Clock,
    Delivery,
    Fault,
    Intake,
    Measurable,
    Receiver,
    Settlement,
    Verdict,
    translate,
)

from ._assignment import Assignment, Partition, agreed
from ._client import Options, leave, plainly, watch
from ._config import KafkaConfig
from ._wire import OPENING, RECEIVING, delivery_of, returned_of, texts_of

__all__ = ["KafkaReceiver"]

NOWHERE = TopicPartition("", 0)
"""A poll for it serves the client and returns nothing; one for no partition would return all."""
MOST = 500
"""Records that are taken at a time: of more each takes longer, and handlers begin later."""
JOIN = 55.0
"""Seconds for joining a group, which waits for its other members; the kernel allows 60."""
ASK = 5.0
LEAVE = 2.0
REBALANCE = 10.0
"""Seconds that a rebalance takes beside draining."""

Answers = list[AdapterError | None]
_Token = tuple[Partition, int]


class KafkaReceiver(Receiver, Measurable, Annotating):
    """One member of a consumer group."""

    def __init__(
        self, config: KafkaConfig, intake: Intake, clock: Clock, *, tiers: bool, left: Callable[[KafkaReceiver], None]
    ) -> None:
        """Prepare; `join` connects.

        Args:
            config: Of the connection.
            intake: How the kernel opens it.
            clock: The kernel's.
            tiers: Every record tells when it is due: the topics of a RETRY channel.
            left: Called when it has closed.
        """
        self.assignment = Assignment(config.drain, intake.window, clock, self._changed)
        self.stopped = False
        self.consumer: Any = None
        self._config, self._window, self._clock, self._tiers, self._left = config, intake.window, clock, tiers, left
        self._held = 0
        """Handed over and not settled, or taken and not handed over."""
        self._ready: deque[Delivery] = deque()
        self._again: list[tuple[float, int, Delivery]] = []
        """Handed back: delivered again at an instant of the clock."""
        self._numbers = count()
        self._poll: asyncio.Task[None] | None = None
        self._partial = False
        """The poll under way leaves partitions out."""
        self._waiter: asyncio.Future[None] | None = None
        self._error: AdapterError | None = None
        self._joining: asyncio.Timeout | None = None
        self._closed = False

    async def join(self, topics: Sequence[str], group: str, options: Options) -> None:
        """Join the group, and wait for the first assignment.

        Raises:
            AdapterError: It cannot be joined now.
        """
        consumer = self.consumer = _consumer(self._config, group, options)
        self.assignment.consumer = consumer
        consumer.subscribe(list(topics), listener=self.assignment)
        try:
            try:
                with agreed(OPENING):
                    async with asyncio.timeout(JOIN) as self._joining:
                        await consumer.start()
                        await self.assignment.joined.wait()
            finally:
                self._joining = None
            if self._closed:
                raise AdapterError(Fault.LOST, "the receiver is closed")
            if self.assignment.error is not None:
                raise self.assignment.error
            watch(consumer, self._broke)
        except BaseException as error:
            closed, self._closed = self._closed, True
            await self._leave()
            if closed and isinstance(error, AdapterError):
                raise AdapterError(Fault.LOST, "the receiver is closed") from error
            raise

    def _broke(self, error: AdapterError) -> None:
        self._error = error
        self._wake()

    # -- in

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return what is there, or what comes first. A poll goes on between calls."""
        end = self._clock.now() + wait
        while True:
            self._check()
            if (taken := self._take(limit)) or self.stopped:
                return taken
            if self.assignment.open and await self._polled(limit):
                continue
            left = end - self._clock.now()
            if limit <= 0 or left <= 0:
                return []
            await self._wait(left)

    def _check(self) -> None:
        if self._closed:
            raise AdapterError(Fault.LOST, "the receiver is closed")
        if self.stopped:
            return
        error, self._error = self._error, None
        if error is not None:
            raise error
        self.assignment.check(2 * (self._config.session + self._config.drain + REBALANCE))

    def _take(self, limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        again, now = self._again, self._clock.now()
        while again and again[0][0] <= now and len(taken) < limit and not self.stopped:
            delivery = heapq.heappop(again)[2]
            if delivery.epoch.accepting:
                token: _Token = delivery.token  # type: ignore[assignment]  # ours: see _accept
                token[0].out.add(token[1])
                taken.append(delivery)
        ready = self._ready
        while ready and len(taken) < limit:
            delivery = ready.popleft()
            if delivery.epoch.accepting:
                taken.append(delivery)
        return taken

    async def _polled(self, limit: int) -> bool:
        """Look for records; tell whether there are some. Leaves a poll open that waits for others."""
        if self._poll is not None:
            return False
        room = min(limit, self._window - self._held, MOST)
        ready, everything = self._pollable()
        if room <= 0 or not ready:
            self._partial = True  # a settlement may change that
            with translate(RECEIVING):
                await self.consumer.getmany(NOWHERE)
            return False
        with translate(RECEIVING):
            # This returns at once: no partition is being moved.
            plainly(self.consumer)
            self._accept(await self.consumer.getmany(*(() if everything else ready), max_records=room))
        if self._ready:
            return True
        self._partial = not everything
        self._poll = asyncio.get_running_loop().create_task(self._wait_records(() if everything else ready, room))
        return False

    def _pollable(self) -> tuple[list[TopicPartition], bool]:
        """Return the partitions that may be polled, and whether these are all."""
        now, partitions = self._clock.time(), self.assignment.partitions
        ready: list[TopicPartition] = []
        for tp, each in partitions.items():
            if each.sleeps and each.sleeps <= now:
                each.sleeps = 0.0
                self.consumer.resume(tp)
            if not each.sleeps and not each.window.full:
                ready.append(tp)
        return ready, len(ready) == len(partitions)

    async def _wait_records(self, partitions: Sequence[TopicPartition], room: int) -> None:
        """Poll until there is something. Records are accepted in the step in which the client gives them."""
        try:
            with translate(RECEIVING):
                while not self._ready:
                    self._accept(await self.consumer.getmany(*partitions, timeout_ms=60_000, max_records=room))
                    if any(each.sleeps for each in self.assignment.partitions.values()):
                        break
        except AdapterError as error:
            self._error = error
        finally:
            if self._poll is asyncio.current_task():  # else it was ended, and there may be another
                self._poll = None
            self._wake()

    def _accept(self, found: dict[TopicPartition, list[Any]]) -> None:
        """Open what the client gave in the windows of now; a partition that has none is read again when it has."""
        for tp, records in found.items():
            partition = self.assignment.partitions.get(tp)
            if partition is None:
                continue
            prefix, tiers = partition.prefix, self._tiers
            epoch, take = partition.window.epoch, partition.window.take
            out, ready = partition.out.add, self._ready.append
            for record in records:
                offset = record.offset
                delivery = delivery_of(record, epoch, (partition, offset), f"{prefix}{offset}")
                if tiers and not self._due(partition, record, delivery):
                    break
                if take(offset, delivery):
                    out(offset)
                    ready(delivery)
        self._held = self._count()

    def _due(self, partition: Partition, record: Any, delivery: Delivery) -> bool:
        """Read what a retry topic's record says; one that has to wait is put back, and its partition sleeps."""
        returned = returned_of(record.headers)
        if returned is None:
            return True
        if returned.due > self._clock.time():
            self.consumer.seek(partition.tp, record.offset)
            self.consumer.pause(partition.tp)
            partition.sleeps = returned.due
            return False
        delivery.headers = texts_of(record.headers[:-1])
        if returned.position:
            delivery.position, delivery.stored_at = returned.position, returned.stored_at
        return True

    def _count(self) -> int:
        return sum(len(each.out) for each in self.assignment.partitions.values()) + len(self._again)

    async def _wait(self, seconds: float) -> None:
        """Wait for records, for something that was handed back, for a partition to wake, or for the end."""
        if instants := [each.sleeps for each in self.assignment.partitions.values() if each.sleeps]:
            seconds = min(seconds, max(0.001, min(instants) - self._clock.time()))
        if self._again:
            seconds = min(seconds, max(0.001, self._again[0][0] - self._clock.now()))
        if self._ready or self._error is not None:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None
        if instants and self._clock.time() >= min(instants):
            self._end_poll()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end_poll(self) -> None:
        """End the poll that waits: it knows other partitions than there are now. It has taken nothing."""
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None

    def _changed(self) -> None:
        """Partitions came or went: what was taken of the old ones is not ours any more."""
        self._end_poll()
        if not self.assignment.open:
            self._ready.clear()
            self._again.clear()
        self._held = self._count()
        self._wake()

    # -- out

    async def settle(self, settlements: Sequence[Settlement]) -> Answers:
        """Settle; what is acknowledged is committed when this returns."""
        answers: Answers = [None] * len(settlements)
        closed, acknowledged = self._closed, Verdict.ACK
        for place, settlement in enumerate(settlements):
            token: _Token = settlement.delivery.token  # type: ignore[assignment]  # ours: see _accept
            partition, offset = token
            window = partition.window
            if closed or not window.epoch.alive:
                answers[place] = AdapterError(Fault.LOST, "its partition is, or will be, with another member")
            elif settlement.verdict is acknowledged:
                partition.out.discard(offset)
                window.done(offset)
            elif offset in partition.out:
                partition.out.discard(offset)
                self._hand_back(settlement)
        try:
            await self.assignment.commit()
        except AdapterError as error:
            for place, settlement in enumerate(settlements):
                # What was handed back needs no commit: answered so, it would be handed back twice.
                if error.fault is Fault.LOST or settlement.verdict is acknowledged:
                    answers[place] = answers[place] or error
        self._held = self._count()
        if self._partial or self._again:
            self._partial = False
            self._end_poll()
            self._wake()
        return answers

    def _hand_back(self, settlement: Settlement) -> None:
        """Deliver it again, here: the partition is ours. Once we take no more, its next owner gets it."""
        if not self.stopped:
            delay = settlement.delay if settlement.verdict is Verdict.RETRY else 0.0
            heapq.heappush(self._again, (self._clock.now() + delay, next(self._numbers), settlement.delivery))

    async def note(self, deliveries: Sequence[Delivery]) -> None:
        """Keep how often they failed, beside the mark."""
        await self.assignment.commit()

    async def lag(self) -> int | None:
        """Return what the partitions of this member still have for the group; None while the group rebalances."""
        if not self.assignment.open:
            return None
        partitions = list(self.assignment.partitions)
        with translate(RECEIVING):
            async with asyncio.timeout(ASK):
                ends = await self.consumer.end_offsets(partitions) if partitions else {}
                return int(sum([ends[tp] - await self.consumer.position(tp) for tp in partitions]))

    async def stop(self) -> None:
        """Take no more."""
        self.stopped = True
        self._end_poll()
        self._wake()

    async def close(self) -> None:
        """Commit, and leave the group: what is not settled is delivered to its next member."""
        if self._closed:
            return
        self._closed = True
        if self._joining is None:
            await self._leave()
        elif not self._joining.expired():
            self._joining.reschedule(0.0)  # `join` leaves

    async def _leave(self) -> None:
        await self.stop()
        self._ready.clear()
        try:
            await self.assignment.commit(LEAVE)
        except AdapterError:
            pass  # what was settled since the last commit comes again
        self.assignment.end()
        if self.consumer is not None:
            await leave(self.consumer, LEAVE)
        self._left(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "stopped" if self.stopped else "open"
        return f"<KafkaReceiver {state} partitions={len(self.assignment.partitions)} held={self._held}/{self._window}>"


def _consumer(config: KafkaConfig, group: str, options: Options) -> AIOKafkaConsumer:
    rebalance = config.drain + REBALANCE
    settings: dict[str, Any] = {
        "session_timeout_ms": int(config.session * 1000),
        "heartbeat_interval_ms": int(min(3.0, config.session / 4) * 1000),
        "rebalance_timeout_ms": int(rebalance * 1000),
        "request_timeout_ms": int((rebalance + REBALANCE) * 1000),
        "auto_offset_reset": "earliest",
        # What a transaction took back was never published.
        "isolation_level": "read_committed",
        # One: the client joins once for each that it has.
        "partition_assignment_strategy": (RoundRobinPartitionAssignor,),
        **options.consumer,
    }
    try:
        # The kernel sees whether we poll. The client's own watch would have us leave the group, for good if it gave
        # us no partition.
        return AIOKafkaConsumer(
            **options.common, group_id=group, enable_auto_commit=False, max_poll_interval_ms=2**31 - 1, **settings
        )
    except (ValueError, TypeError, RuntimeError) as error:
        text = f"config.native: aiokafka refuses the options ({type(error).__name__}: {error})"
        raise AdapterError(Fault.CONFIG, text) from error
