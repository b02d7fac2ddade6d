"""Stores records on a topic."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from ductape.adapter import AdapterError, Clock, Fault, Limits, Outgoing, Sender, Stored

from ._api import CALL, Api, PublishRequest
from ._wire import fill

__all__ = ["TopicSender"]

Answers = list[Stored | AdapterError]

REQUEST: Final = 9_500_000
"""Bytes of a request that is not cut; the service takes 10,000,000."""
RECORDS: Final = 1000
MARGIN: Final = 60
"""Bytes of a record's key and of what frames it, about."""


class TopicSender(Sender):
    """Publishes a call's records in one request; on an ordered topic in one request for each key."""

    limits = Limits(records=RECORDS, bytes=9_000_000, calls=4, seconds=10.0)

    def __init__(self, api: Api, topic: str, *, ordered: bool, clock: Clock) -> None:
        """Prepare.

        Args:
            api: The methods.
            topic: The whole name of the topic.
            ordered: Keys are ordering keys.
            clock: The kernel's.
        """
        self._api, self._topic, self._ordered, self._clock = api, topic, ordered, clock
        self._prefix = topic.rpartition("/")[2] + "@"

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Stored | AdapterError]:
        """Store the records."""
        answers: Answers = [_unsent()] * len(records)
        end = self._clock.now() + CALL
        if not self._ordered:
            await self._store(records, range(len(records)), answers, end, together=False)
            return answers
        keys: dict[str, list[int]] = {}
        for place, record in enumerate(records):
            keys.setdefault(record.key or "", []).append(place)
        # One key never has two requests under way; those of several keys run side by side.
        await asyncio.gather(
            *(self._store(records, places, answers, end, together=bool(key)) for key, places in keys.items())
        )
        return answers

    async def _store(
        self, records: Sequence[Outgoing], places: Sequence[int], answers: Answers, end: float, *, together: bool
    ) -> bool:
        """Store records in order, cut to what a request takes; `together`: after one failed, the rest stays unsent."""
        part: list[int] = []
        size = 0
        for place in places:
            more = _size(records[place])
            if part and (len(part) >= RECORDS or size + more > REQUEST):
                if not await self._request(records, part, answers, end, together=together) and together:
                    return False
                part, size = [], 0
            part.append(place)
            size += more
        return not part or await self._request(records, part, answers, end, together=together)

    async def _request(
        self, records: Sequence[Outgoing], places: Sequence[int], answers: Answers, end: float, *, together: bool
    ) -> bool:
        """Store records in one request. One that is refused for a record is halved until that record is alone."""
        error: AdapterError
        if _size(records[places[0]]) > REQUEST + 400_000:  # it is alone: see `_store`
            error = AdapterError(Fault.MESSAGE, f"{self._topic}: larger than the 10 MB that Pub/Sub takes")
        else:
            try:
                await self._publish(records, places, answers, end)
            except AdapterError as native:
                error = native.with_traceback(None)  # it would keep this frame, and with it the records
            else:
                return True
        if error.fault is Fault.MESSAGE and len(places) > 1:
            half = len(places) // 2
            first = await self._request(records, places[:half], answers, end, together=together)
            if not first and together:
                return False
            return await self._request(records, places[half:], answers, end, together=together) and first
        for place in places:
            answers[place] = error
        return False

    async def _publish(self, records: Sequence[Outgoing], places: Sequence[int], answers: Answers, end: float) -> None:
        request = PublishRequest(topic=self._topic)
        add, ordered = request.messages.add, self._ordered
        try:
            for place in places:
                fill(add(), records[place], ordered=ordered)
        except (TypeError, ValueError) as error:  # its text may quote the value: only the class is named
            raise AdapterError(Fault.MESSAGE, f"{self._topic}: cannot be written: {type(error).__name__}") from None
        left = end - self._clock.now()
        if left <= 0:
            raise _unsent()
        reply = await self._api.publish(request, timeout=left, where=self._topic, wrote=True)
        prefix = self._prefix
        for place, id_ in zip(places, reply.message_ids, strict=True):
            answers[place] = Stored(prefix + id_)

    def __repr__(self) -> str:
        return f"<TopicSender {self._topic}>"


def _unsent() -> AdapterError:
    return AdapterError(Fault.TRANSIENT, "not sent: a record before it, of its key, failed, or time was up")


def _size(record: Outgoing) -> int:
    return (record.size or len(record.body)) + MARGIN
