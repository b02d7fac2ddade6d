"""The partitions that a member has: their windows, what moves at a rebalance, and what is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition, errors

from ductape.adapter import AdapterError, Clock, Epoch, Fault, FaultTable, Window, translate, translated

from ._wire import RECEIVING

__all__ = ["Assignment", "Partition", "agreed"]

COMMIT = 8.0
"""Seconds for a commit; the kernel allows 10."""
ROOM = 4000
"""Bytes of a commit's metadata; a broker takes 4096 unless its ``offset.metadata.max.bytes`` says less."""
SMALLEST = 60
"""Where the broker takes less than this, nothing is kept beside the mark."""
LAST_COMMIT = 3.0
"""Seconds for that before partitions move: the group waits."""
ASK = 10.0
"""Seconds for reading where the group is."""


class Partition:
    """One partition, from the moment it is ours until it is not."""

    __slots__ = ("out", "prefix", "sleeps", "stored", "tp", "window")

    def __init__(self, tp: TopicPartition, window: Window, stored: tuple[int, str] | None) -> None:
        """Begin an assignment.

        Args:
            tp: Topic and number.
            window: What is open.
            stored: What the group has committed; None: nothing.
        """
        self.tp, self.window, self.stored = tp, window, stored
        self.prefix = f"{tp.topic}[{tp.partition}]@"
        self.out: set[int] = set()
        """Offsets that were handed over and are not settled."""
        self.sleeps = 0.0
        """Its next record is not due before this instant, seconds since 1970; 0: it is not paused."""

    def __repr__(self) -> str:
        return f"<Partition {self.prefix}{self.window.mark} out={len(self.out)} sleeps={self.sleeps:g}>"


class Assignment(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Keeps the windows, and lets partitions go only when what runs on them is settled and committed.

    aiokafka knows the eager protocol: at every rebalance all partitions are revoked and assigned anew.
    """

    def __init__(self, drain: float, window: int, clock: Clock, changed: Callable[[], None]) -> None:
        """Prepare.

        Args:
            drain: Seconds for what runs when partitions are revoked.
            window: Bound of the receiver.
            clock: Drains by it.
            changed: Called when partitions came or went.
        """
        self.partitions: dict[TopicPartition, Partition] = {}
        self.open = False
        """Partitions are ours; False while the group rebalances."""
        self.since = clock.now()
        """When that changed."""
        self.error: AdapterError | None = None
        """Why the last assignment failed: aiokafka swallows what a listener raises."""
        self.joined = asyncio.Event()
        self.consumer: AIOKafkaConsumer | None = None
        self._drain, self._limit, self._clock, self._changed = drain, max(1000, window), clock, changed
        self._committing = asyncio.Lock()
        self._under_way: asyncio.Timeout | None = None
        """Bounds the commit that has the lock."""
        self._room = ROOM

    # -- a rebalance

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Start nothing more, wait for what runs and its settlements, commit. Called inside the rebalance."""
        self._turn(is_open=False)
        partitions = list(self.partitions.values())
        await asyncio.gather(*(each.window.epoch.drain(self._drain) for each in partitions))
        try:
            await self.commit(LAST_COMMIT)
        except AdapterError:
            pass  # what was settled since the last commit comes again
        if self._under_way is not None and not self._under_way.expired():
            # The client would send it again in the next assignment's name, and move marks of the next owner back.
            self._under_way.reschedule(0.0)
        self.partitions = {}

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Begin where the group is. What was polled before this is dropped, and read again."""
        partitions = sorted(assigned)
        try:
            async with asyncio.timeout(ASK):
                found = await self._begin(partitions)
        except Exception as error:
            self.error = translated(RECEIVING, error)
        else:
            self.partitions = found
            self._turn(is_open=True)
        self.joined.set()
        self._changed()

    async def _begin(self, partitions: list[TopicPartition]) -> dict[TopicPartition, Partition]:
        """Make a window for each, where the group is, or at the beginning."""
        if not partitions:
            return {}
        # The consumer's public call leaves the metadata out.
        known = await self._client._coordinator.fetch_committed_offsets(partitions)
        fresh = [tp for tp in partitions if tp not in known]
        begins = await self._client.beginning_offsets(fresh) if fresh else {}
        found: dict[TopicPartition, Partition] = {}
        for tp in partitions:
            stored = tuple(known[tp]) if tp in known else None
            begin, metadata = stored or (begins[tp], "")
            epoch = Epoch(f"{tp.topic}[{tp.partition}]", self._clock)
            found[tp] = Partition(tp, Window(epoch, begin, metadata, self._limit), stored)
            self._client.seek(tp, begin)
        return found

    def _turn(self, *, is_open: bool) -> None:
        self.open, self.since = is_open, self._clock.now()
        if not is_open:
            self._changed()

    @property
    def _client(self) -> Any:
        """The consumer; it is made after its listener."""
        return self.consumer

    def check(self, patience: float) -> None:
        """Look whether partitions are ours, or may be.

        Args:
            patience: Seconds that the group may take to give us some.

        Raises:
            AdapterError: ``LOST`` if a new member has to join; ``CONFIG`` if the group refuses it.
        """
        if self.error is not None:
            raise AdapterError(Fault.LOST, f"joining: {self.error.text}") from self.error
        if self.open:
            return
        with agreed(RECEIVING):
            self._client._coordinator.check_errors()  # a poll would ask; there is none now
        if self._clock.now() > self.since + patience:
            raise AdapterError(Fault.LOST, f"the group gave us nothing for {patience:g} s: joining anew")

    # -- commits

    async def commit(self, seconds: float = COMMIT) -> None:
        """Store every mark that moved and what is to be known beside it, in one call.

        Raises:
            AdapterError: ``TRANSIENT`` if it is not confirmed; ``LOST`` if the partitions are not ours any more: then
                their epochs have ended.
        """
        with translate(RECEIVING):
            async with asyncio.timeout(seconds) as bound, self._committing:
                self._under_way = bound
                try:
                    await self._commit()
                finally:
                    self._under_way = None

    async def _commit(self) -> None:
        partitions = self.partitions
        todo: dict[Partition, tuple[int, str]] = {}
        for each in partitions.values():
            now = (each.window.mark, each.window.metadata(self._room))
            if now != each.stored:
                todo[each] = now
        if not todo:
            return
        try:
            await self._client.commit({each.tp: OffsetAndMetadata(*now) for each, now in todo.items()})
        except errors.OffsetMetadataTooLargeError:
            if not self._room:
                raise
            self._room = self._room // 2 if self._room > SMALLEST else 0
            await self._commit()
            return
        except (errors.CommitFailedError, errors.IllegalStateError) as error:
            if self.partitions is partitions:  # else there is a new assignment, which this says nothing about
                self.end()
            raise AdapterError(Fault.LOST, "the partitions are with another member") from error
        for each, now in todo.items():
            each.stored = now

    def end(self) -> None:
        """Give all partitions up."""
        for each in self.partitions.values():
            each.window.epoch.end()
        self.partitions = {}
        self._turn(is_open=False)


@contextmanager
def agreed(table: FaultTable) -> Iterator[None]:
    """Translate what a group answers, and tell what to do about a group whose members do not agree."""
    try:
        with translate(table):
            yield
    except AdapterError as error:
        if not isinstance(error.__cause__, errors.InconsistentGroupProtocolError):
            raise
        text = (
            "another client of this group uses another assignor; set native.partition_assignment_strategy or another "
            "group_id"
        )
        raise AdapterError(Fault.CONFIG, text) from error.__cause__
