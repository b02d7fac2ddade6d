"""Stores records on a queue, ten a call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from ductape.adapter import AdapterError, Fault, Limits, Outgoing, Sender, Stored

from ._client import CALL, Client
from ._shapes import Batch, Entry, Sent
from ._wire import Target, batches, entry_fault, entry_of

__all__ = ["QueueSender"]

Answer = Stored | AdapterError
Ready = tuple[int, Entry, int]
"""Place, entry and bytes."""

BEGIN = 5.0
"""Seconds within which the rounds of a call begin: what is not begun by then is sent by the next."""


class QueueSender(Sender):
    """Cuts a call into batches of ten that are under way together; in order, a key has one record in one batch."""

    limits = Limits(records=100, bytes=1_000_000, calls=2, seconds=10.0)

    def __init__(self, client: Client, url: str, target: Target) -> None:
        """Prepare.

        Args:
            client: Makes the calls.
            url: The queue.
            target: What the queue takes.
        """
        self._client, self._url, self._target = client, url, target

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Answer]:
        """Store the records."""
        answers: list[Answer] = [AdapterError(Fault.TRANSIENT, "not sent in time")] * len(records)
        ready: list[Ready] = []
        for place, record in enumerate(records):
            try:
                entry, size = entry_of(record, self._target)
            except AdapterError as error:
                answers[place] = error
            except ValueError as error:  # a lone surrogate: its text quotes the value
                answers[place] = AdapterError(Fault.MESSAGE, f"cannot be written: {type(error).__name__}")
            else:
                ready.append((place, entry, size))
        begin = asyncio.get_running_loop().time() + BEGIN
        if self._target.ordered and self._target.fifo:
            await self._in_order(records, ready, answers, begin)
        else:
            await self._together(ready, answers, begin + CALL)
        return answers

    async def _together(self, ready: Sequence[Ready], answers: list[Answer], end: float) -> None:
        calls = list(batches(ready, self._target.largest))
        if len(calls) == 1:
            await self._call(calls[0], answers, end)
        else:
            await asyncio.gather(*(self._call(call, answers, end) for call in calls))

    async def _in_order(
        self, records: Sequence[Outgoing], ready: Sequence[Ready], answers: list[Answer], begin: float
    ) -> None:
        """Send one record of each key, then, where that was stored, the next: entries of a batch fail one by one."""
        entries = {place: (place, entry, size) for place, entry, size in ready}
        keys: dict[str, deque[int]] = {}
        for place, record in enumerate(records):
            keys.setdefault(record.id if record.key is None else f"={record.key}", deque()).append(place)
        loop = asyncio.get_running_loop()
        waiting = list(keys.values())
        while waiting and loop.time() < begin:
            heads = [places.popleft() for places in waiting]
            await self._together([entries[place] for place in heads if place in entries], answers, begin + CALL)
            following: list[deque[int]] = []
            for head, places in zip(heads, waiting, strict=True):
                if isinstance(answers[head], Stored):
                    following.append(places)
                else:
                    for place in places:
                        answers[place] = AdapterError(Fault.TRANSIENT, "not sent: one before it of its key failed")
            waiting = [places for places in following if places]

    async def _call(self, batch: Sequence[tuple[int, Entry]], answers: list[Answer], end: float) -> None:
        left = end - asyncio.get_running_loop().time()
        if left <= 0:
            return  # their answer says so already
        request = Batch(self._url, [entry for _, entry in batch])
        try:
            sent = await self._client.call("SendMessageBatch", request, Sent, min(CALL, left))
        except AdapterError as error:
            if error.fault is Fault.MESSAGE and len(batch) > 1:  # refused as a whole: find the one that is not taken
                half = len(batch) // 2
                await asyncio.gather(*(self._call(part, answers, end) for part in (batch[:half], batch[half:])))
                return
            for place, _ in batch:
                answers[place] = error
            return
        said: dict[str, Answer] = {bad.id: entry_fault("SendMessageBatch", bad) for bad in sent.failed}
        for good in sent.successful:
            said[good.id] = Stored(f"{self._target.name}@{good.sequence_number or good.message_id}")
        for place, entry in batch:
            answers[place] = said.get(entry.id) or AdapterError(Fault.AMBIGUOUS, "SendMessageBatch: no answer for it")

    def __repr__(self) -> str:
        return f"<QueueSender {self._target.name}>"
