"""Stores records: published with confirms, many in one write, and matched with what comes back by an id of our own."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Callable, Sequence

from ductape.adapter import AdapterError, Channel, Clock, Fault, Limits, Order, Outgoing, Purpose, Sender, Stored

from ._channel import Channel as Wire
from ._channel import Ears
from ._link import BOUND, GOODBYE, Link
from ._topology import Topology, bucket
from ._wire import Content, Framer, message_id_of

__all__ = ["RabbitMQSender"]

Answer = Stored | AdapterError

_TOO_LARGE = re.compile(r"larger than configured max size (\d+)")
CALLS = 4


class _Call:
    """What one call wrote: consecutive tags, and what became of them."""

    __slots__ = ("answers", "done", "first", "last", "left", "low", "records", "seen")

    def __init__(self, first: int, records: Sequence[Outgoing], done: asyncio.Future[None]) -> None:
        self.first, self.last, self.left = first, first + len(records) - 1, len(records)
        self.records, self.done = records, done
        self.low = 0
        """All before it are confirmed."""
        self.seen = bytearray(len(records))
        """Which are confirmed: one that came back is confirmed, too."""
        self.answers: list[bool | AdapterError] = [False] * len(records)
        """True: stored; False: no answer."""

    def confirm(self, start: int, stop: int, answer: bool | AdapterError) -> None:
        """Confirm a range; what came back keeps its error."""
        seen, answers = self.seen, self.answers
        for place in range(start, stop):
            if not seen[place]:
                seen[place] = 1
                self.left -= 1
                if answers[place] is False:
                    answers[place] = answer
        if not self.left:
            self.end()

    def end(self) -> None:
        """Have the caller go on."""
        if not self.done.done():
            self.done.set_result(None)


class RabbitMQSender(Sender, Ears):
    """Publishes on a channel of its own. After it closed, what had no answer may be stored: ``AMBIGUOUS``."""

    def __init__(
        self, link: Link, wire: Wire, topology: Topology, channel: Channel, clock: Clock, *,
        most: Callable[[], int], learned: Callable[[int], None],
    ) -> None:  # fmt: skip
        """Take over a channel on which confirms are on.

        Args:
            link: The connection for publishing.
            wire: The open channel.
            topology: Knows where records go.
            channel: What they are stored on.
            clock: The site's.
            most: Returns the bytes that a body may have.
            learned: Told when the server takes fewer.
        """
        self.limits = Limits(records=500, calls=1 if channel.order is Order.TOTAL else CALLS, seconds=BOUND + 2.0)
        self._link, self._wire, self._topology, self._channel, self._clock = link, wire, topology, channel, clock
        self._most, self._learned = most, learned
        self._framer = Framer(wire.number, link.frame_max, copies=channel.purpose is not Purpose.EVENTS)
        self._nonce = secrets.token_hex(4)
        exchange, key = topology.route(channel)
        self._where = f"{exchange}/{key}" if exchange else key
        self._at_once = self._framer.method(exchange, key), self._where + "@"
        self._later: dict[int, tuple[bytes, str]] = {}
        """What publishes to a delay queue, and how positions in it begin."""
        self._tag = 0
        self._calls: deque[_Call] = deque()
        self._routed = self._heard = False
        self._closed: AdapterError | None = None
        wire.ears = self

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Answer]:
        """Store the records with one write."""
        refusal = self._refusal() or await self._prepare(records)
        if refusal is not None:
            return [refusal] * len(records)
        parts: list[bytes] = []
        places: list[str] = []
        written: list[Outgoing] = []
        refused: dict[int, AdapterError] = {}
        stamp, first, most = int(self._clock.time()), self._tag + 1, self._most()
        for place, record in enumerate(records):
            id_ = f"{self._nonce}.{first + len(parts):x}"
            try:
                if len(record.body) > most:
                    raise ValueError(f"its body has more than the {most} bytes that the server takes")
                if refused and self._behind(record, refused, records):
                    refused[place] = AdapterError(Fault.TRANSIENT, "a record of its key before it was refused")
                    continue
                method, where = self._at_once if record.delay <= 0 else self._later[bucket(record.delay)]
                parts.append(self._framer.frames(method, record, id_.encode(), stamp))
            except ValueError as error:  # ours, or of an encoding: neither quotes what it is about
                why = error if type(error) is ValueError else type(error).__name__
                refused[place] = AdapterError(Fault.MESSAGE, f"{self._where}: cannot be written: {why}")
                continue
            places.append(where + id_)
            written.append(record)
        answers: list[Answer] = await self._store(parts, written, places) if parts else []
        for place, refusal in refused.items():
            answers.insert(place, refusal)
        return answers

    def _refusal(self) -> AdapterError | None:
        if self._closed is not None:
            return AdapterError(Fault.LOST, self._closed.text)
        if self._link.blocked:
            return AdapterError(Fault.TRANSIENT, f"the server takes no messages now: {self._link.blocked}")
        return None

    def _behind(self, record: Outgoing, refused: dict[int, AdapterError], records: Sequence[Outgoing]) -> bool:
        order = self._channel.order
        if order is Order.NONE:
            return False
        return order is Order.TOTAL or (record.key is not None and any(records[p].key == record.key for p in refused))

    async def _prepare(self, records: Sequence[Outgoing]) -> AdapterError | None:
        """Wait until the server reads, and see that the delay queues are there."""
        if not await self._link.drained(1.0):
            return AdapterError(Fault.TRANSIENT, "the server does not read what was sent")
        for seconds in {bucket(record.delay) for record in records if record.delay > 0} - self._later.keys():
            try:
                queue = await self._topology.delay(self._channel, seconds)
            except AdapterError as error:
                return error if error.fault is not Fault.LOST else AdapterError(Fault.TRANSIENT, error.text)
            self._later[seconds] = self._framer.method("", queue), queue + "@"
        return self._refusal()

    async def _store(self, parts: list[bytes], records: list[Outgoing], places: list[str]) -> list[Answer]:
        call = _Call(self._tag + 1, records, asyncio.get_running_loop().create_future())
        self._tag += len(parts)
        self._calls.append(call)
        self._wire.write(b"".join(parts))
        timer = asyncio.get_running_loop().call_later(BOUND, self._late, call)
        await call.done
        timer.cancel()
        answers: list[Answer] = []
        for place, answer in zip(places, call.answers, strict=True):
            answers.append(answer if isinstance(answer, AdapterError) else Stored(place))
            self._routed |= answer is True
        return answers

    def _late(self, call: _Call) -> None:
        """Give a call up. Its confirms may still come: to a sender that is not used any more."""
        error = AdapterError(Fault.AMBIGUOUS, f"{self._where}: not confirmed within {BOUND:g} s")
        self._closed = self._closed or AdapterError(Fault.LOST, error.text)
        call.answers = [answer or error for answer in call.answers]
        call.end()

    # -- what arrives

    def confirmed(self, tag: int, *, multiple: bool, stored: bool) -> None:
        """Answer a record, or all up to it."""
        self._heard = True
        answer: bool | AdapterError = stored
        if not stored:
            text = f"{self._where}: refused by a queue that is full, or has no leader now"
            answer = AdapterError(Fault.TRANSIENT, text)
        calls = self._calls
        if not multiple:
            for call in calls:
                if tag <= call.last:
                    call.confirm(tag - call.first, tag - call.first + 1, answer)
                    break
        else:
            for call in calls:
                if tag < call.first:
                    break
                stop = min(tag, call.last) - call.first + 1
                call.confirm(call.low, stop, answer)
                call.low = stop
        while calls and not calls[0].left:
            calls.popleft()

    def returned(self, code: int, text: str, content: Content) -> None:
        """Find what came back by its id. Where there was a queue before, it is declared anew with the next sender."""
        nonce, _, tag = message_id_of(content).partition(".")
        if nonce == self._nonce:
            fault = Fault.LOST if self._routed else Fault.CONFIG
            error = AdapterError(fault, f"{self._where}: no queue is bound to get it ({code} {text})")
            for call in self._calls:
                if call.first <= (number := int(tag, 16)) <= call.last:
                    call.answers[number - call.first] = error

    def lost(self, error: AdapterError) -> None:
        """The channel closed: what has no answer may be stored, but for what it closed for and all behind that."""
        self._closed = AdapterError(Fault.LOST, error.text)
        found = _TOO_LARGE.search(error.text)
        most = int(found[1]) if found else None
        if most is not None:
            self._learned(most)
        unknown = AdapterError(Fault.AMBIGUOUS, f"{self._where}: {error.text}")
        if error.text.startswith("403") and not self._heard:  # else it was allowed before, and some may be stored
            unknown = AdapterError(Fault.CONFIG, f"{self._where}: {error.text}")
        for call in self._calls:
            for place, record in enumerate(call.records):
                if most is not None and len(record.body) > most:
                    text = f"{self._where}: its body has more than the {most} bytes that the server takes"
                    call.answers[place] = AdapterError(Fault.MESSAGE, text)
                    unknown = self._closed
                elif call.answers[place] is False:
                    call.answers[place] = unknown
            call.end()
        self._calls.clear()

    async def close(self) -> None:
        """Close the channel."""
        self._closed = self._closed or AdapterError(Fault.LOST, "the sender is closed")
        await self._wire.close(GOODBYE)
        self.lost(self._closed)

    def __repr__(self) -> str:
        return f"<RabbitMQSender {self._where} {'closed' if self._closed else 'open'} calls={len(self._calls)}>"
