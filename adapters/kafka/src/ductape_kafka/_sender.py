"""Storing records: closed batches, one a partition at a time, and an answer for every record."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer

from ductape.adapter import AdapterError, Clock, Fault, Limits, Outgoing, Sender, Stored, translated

from ._producer import BATCH, DEADLINE, Producers
from ._topics import Topic
from ._wire import BATCH_REFUSED, SENDING, headers_of, partition_of, returned_header, text_bytes, tier_of

__all__ = ["KafkaSender"]

Answer = Stored | AdapterError

CALLS = 8
"""Calls at a time: one whose partition has no leader holds up no other."""
KEYS = 20_000
"""Keys whose partition is remembered: hashing one costs 2 µs and more."""
SUSPECTS = 10_000
PER_RECORD = 70
"""Bytes that a record has beside body, headers and key, at most."""


class KafkaSender(Sender):
    """Stores in one topic, or, on a RETRY channel, in that whose messages wait so long."""

    limits = Limits(records=1000, bytes=1_000_000, calls=CALLS, seconds=DEADLINE + 2)

    def __init__(
        self, producers: Producers, topics: Sequence[str], known: dict[str, Topic], clock: Clock, *, total: bool = False
    ) -> None:
        """Prepare.

        Args:
            producers: Gives the producer.
            topics: Of the channel, as `topics_of` has them.
            known: What they are like.
            clock: Times the copies on a RETRY channel.
            total: All records keep their order, those without a key too.
        """
        self._producers, self._topics, self._clock = producers, topics, clock
        self._partitions = known[topics[0]].partitions
        self._tiers = len(topics) > 1
        self._total = total and not self._tiers
        self._limit, self._compacted = known[topics[0]].limit, known[topics[0]].compacted
        self._keys: dict[str, int] = {}
        self._turn = 0
        self._suspects: OrderedDict[str, None] = OrderedDict()
        """Records of refused batches: each is sent alone, so that only the guilty one fails."""

    def lane(self, record: Outgoing) -> Hashable | None:
        """Return the partition of a record with a key; without one it may go anywhere, unless all keep their order."""
        if self._total:
            return 0
        key = record.key
        if key is None or self._tiers:
            return None
        found = self._keys.get(key)
        return found if found is not None else self._partition(key)

    def _partition(self, key: str) -> int:
        if len(self._keys) >= KEYS:
            self._keys.clear()
        found = self._keys[key] = partition_of(key, self._partitions)
        return found

    def _look(self) -> None:
        """See whether partitions were added, once the producer knows them: a key may belong to another one then."""
        producer = self._producers.current if not self._total else None
        found = producer.client.cluster.partitions_for_topic(self._topics[0]) if producer is not None else None
        if found and len(found) != self._partitions:
            self._partitions = len(found)
            self._keys.clear()

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Answer]:
        """Store the records, one batch after the other in each partition, partitions beside one another."""
        end = asyncio.get_running_loop().time() + DEADLINE
        answers: list[Any] = [None] * len(records)
        self._look()
        lanes = self._split(records, answers)
        if len(lanes) == 1:
            ((place, indexes),) = lanes.items()
            await self._store(place, indexes, records, answers, end)
        else:
            await asyncio.gather(
                *(self._store(place, indexes, records, answers, end) for place, indexes in lanes.items())
            )
        return answers

    def _split(self, records: Sequence[Outgoing], answers: list[Any]) -> dict[tuple[str, int], Sequence[int]]:
        """Return the indexes of the records by topic and partition; those without a key share one.

        What the broker would refuse is answered here, since it would refuse the whole batch with it.
        """
        limit, compacted, tiers, keys, free = self._limit, self._compacted, self._tiers, self._keys, -1
        lanes: dict[tuple[str, int], Sequence[int]] = {}
        found: dict[int, list[int]] = {}
        failed: set[str] = set()
        for index, record in enumerate(records):
            key = record.key
            if record.size > limit or len(record.body) > limit or (compacted and key is None):
                answers[index] = AdapterError(Fault.MESSAGE, self._refusal(record))
                if key is not None:
                    failed.add(key)
                continue
            if failed and key in failed:
                answers[index] = AdapterError(Fault.TRANSIENT, "an earlier record of the key failed")
                continue
            if tiers:
                partition = tier_of(record.delay)
            elif key is not None:
                known = keys.get(key)
                partition = known if known is not None else self._partition(key)
            else:
                partition = free = free if free >= 0 else self._next()
            if partition in found:
                found[partition].append(index)
            else:
                found[partition] = [index]
        for number, indexes in found.items():
            lanes[(self._topics[number], 0) if tiers else (self._topics[0], number)] = indexes
        return lanes

    def _refusal(self, record: Outgoing) -> str:
        topic = self._topics[0]
        if record.size > self._limit or len(record.body) > self._limit:
            size = max(record.size, len(record.body))
            return f"{size} bytes; topic {topic!r} takes {self._limit} (its max.message.bytes, less what a batch needs)"
        return f"topic {topic!r} is compacted: a record needs a key"

    def _next(self) -> int:
        """Return the next partition for records without a key: one that has a leader and no batch under way, if any."""
        number, topic = self._partitions, self._topics[0]
        self._turn += 1
        turns = [(self._turn + step) % number for step in range(number)]
        idle = [each for each in turns if not self._producers.locks[topic, each].locked()]
        producer = self._producers.current
        led = producer.client.cluster.available_partitions_for_topic(topic) if producer is not None else None
        return next((each for each in idle if not led or each in led), idle[0] if idle else turns[0])

    async def _store(
        self,
        place: tuple[str, int],
        indexes: Sequence[int],
        records: Sequence[Outgoing],
        answers: list[Any],
        end: float,
    ) -> None:
        """Store the records of one partition; after a failure everything behind it waits for its turn."""
        lock = self._producers.locks[place]
        try:
            async with asyncio.timeout_at(end if lock.locked() else None):
                await lock.acquire()
        except TimeoutError:
            busy = AdapterError(Fault.TRANSIENT, f"{_name(place)}: an earlier batch is not answered yet")
            _answer(answers, indexes, busy)
            return
        try:
            done = 0
            while done < len(indexes):
                stored = await self._batch(place, indexes[done:], records, answers, end)
                if stored == 0:
                    break
                done += stored
        finally:
            lock.release()
        if done < len(indexes):
            behind = AdapterError(Fault.TRANSIENT, f"{_name(place)}: an earlier record of the partition failed")
            _answer(answers, [index for index in indexes[done:] if answers[index] is None], behind)

    async def _batch(
        self,
        place: tuple[str, int],
        indexes: Sequence[int],
        records: Sequence[Outgoing],
        answers: list[Any],
        end: float,
    ) -> int:
        """Store as many of the first records as fit into a batch; answers them, and tells how many went well."""
        topic, partition = place
        try:
            producer = self._producers.current or await self._producers.get(end)
        except AdapterError as error:
            _answer(answers, indexes, error)
            return 0
        builder = producer.create_batch()
        try:
            taken = self._fill(builder, [records[index] for index in indexes])
        except (TypeError, ValueError) as error:
            # Its text may quote the value: only the class is named.
            answers[indexes[0]] = AdapterError(Fault.MESSAGE, f"cannot be written: {type(error).__name__}")
            return 0
        builder.close()  # a closed batch does not linger
        try:
            async with asyncio.timeout_at(end):
                future = await producer.send_batch(builder, topic, partition=partition)
                offset = (await future).offset
        except (Exception, asyncio.CancelledError) as error:
            self._failed(producer, place, [records[index] for index in indexes[:taken]], indexes, answers, error)
            return 0
        prefix = f"{topic}[{partition}]@"
        for place_in_log, index in enumerate(indexes[:taken], offset):
            # Of a batch that it had already, the broker does not tell where it is: -1.
            answers[index] = Stored(f"{prefix}{place_in_log}" if offset >= 0 else "")
        if self._suspects:
            for index in indexes[:taken]:
                self._suspects.pop(records[index].id, None)
        return taken

    def _fill(self, builder: Any, records: Sequence[Outgoing]) -> int:
        """Append the first records; a suspect goes alone. Returns how many were."""
        append, suspects, timed = builder.append, self._suspects, self._tiers
        size = taken = 0
        for record in records:
            if suspects and record.id in suspects and taken:
                break
            key = None if record.key is None else text_bytes(record.key)
            size += (record.size or len(record.body)) + PER_RECORD + (len(key) if key is not None else 0)
            if size > min(BATCH, self._limit) and taken:
                break
            headers = headers_of(record)
            if timed:
                headers.append(returned_header(record, self._clock.time()))
            try:
                full = append(timestamp=None, key=key, value=record.body, headers=headers) is None
            except (TypeError, ValueError):
                if taken:
                    break  # it is the first of the next batch, and fails there
                raise
            if full:
                break
            taken += 1
            if suspects and record.id in suspects:
                break
        return taken

    def _failed(
        self,
        producer: AIOKafkaProducer,
        place: tuple[str, int],
        batch: Sequence[Outgoing],
        indexes: Sequence[int],
        answers: list[Any],
        error: BaseException,
    ) -> None:
        """Answer a batch that was not stored, or may be: its producer is used no more."""
        certain = isinstance(error, BATCH_REFUSED)
        # What the client holds it would store later, behind what is sent again: only a refusal leaves nothing.
        self._producers.replace(producer, at_once=not certain)
        if isinstance(error, asyncio.CancelledError):
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise error
            error = TimeoutError("the client cancelled its own call")
        fault = translated(SENDING, error, clean=False)
        text = f"{_name(place)}: {_told(error, fault)}"
        if certain and len(batch) > 1:
            for record in batch:
                self._suspects[record.id] = None
            while len(self._suspects) > SUSPECTS:
                self._suspects.popitem(last=False)
            kind = Fault.TRANSIENT if fault.fault is Fault.MESSAGE else fault.fault
            fault = AdapterError(kind, f"{text}; one of a batch of {len(batch)}: each is sent alone now")
        else:
            self._suspects.pop(batch[0].id, None)
            fault = AdapterError(fault.fault, text)
        fault.__cause__ = error
        _answer(answers, indexes[: len(batch)], fault)

    def __repr__(self) -> str:
        return f"<KafkaSender {self._topics[0]} partitions={self._partitions} suspects={len(self._suspects)}>"


def _name(place: tuple[str, int]) -> str:
    return f"{place[0]}[{place[1]}]"


def _told(error: BaseException, fault: AdapterError) -> str:
    if fault.fault is Fault.MESSAGE:
        return f"the broker refuses it ({type(error).__name__}); see the topic's max.message.bytes"
    if isinstance(error, TimeoutError):
        return f"not confirmed within {DEADLINE:g} s"
    return type(error).__name__


def _answer(answers: list[Any], indexes: Sequence[int], error: AdapterError) -> None:
    for index in indexes:
        answers[index] = error
