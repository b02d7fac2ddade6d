"""Stores records: on a stream, or with whoever listens to a pub/sub channel now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import hiredis

from ductape.adapter import AdapterError, Fault, Limits, Outgoing, Sender, Stored

from ._link import Link, pack, reply_fault
from ._scripts import LATER
from ._wire import Keys, envelope, fields_of, milliseconds

__all__ = ["ChannelSender", "StreamSender"]

Answer = Stored | AdapterError


class _Sender(Sender):
    """Writes a call's commands at once. After a break what was answered keeps its answer, the rest is ``AMBIGUOUS``."""

    limits = Limits(records=1000, bytes=1_000_000, calls=1, seconds=10.0)

    def __init__(self, link: Link, name: str) -> None:
        self._link, self._name = link, name

    def _pack(self, record: Outgoing) -> bytes:
        raise NotImplementedError

    def _stored(self, reply: object) -> Answer:
        raise NotImplementedError

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Answer]:
        """Store the records with one write."""
        packed: list[bytes] = []
        refused: dict[int, AdapterError] = {}
        write = self._pack
        for place, record in enumerate(records):
            try:
                packed.append(write(record))
            except (TypeError, ValueError) as native:
                # Its text may quote the value: only the class is named.
                refused[place] = AdapterError(Fault.MESSAGE, f"cannot be written: {type(native).__name__}")
        answers: list[Answer] = []
        if packed:
            replies = await self._link.many(b"".join(packed), len(packed))
            answers = list(map(self._stored, replies))
            if len(replies) < len(packed):
                broken = AdapterError(Fault.AMBIGUOUS, f"{self._name}: {self._link.why}")
                answers += [broken] * (len(packed) - len(replies))
        for place, error in refused.items():
            answers.insert(place, error)
        return answers

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"


class StreamSender(_Sender):
    """Adds to a stream that must exist: one that was lost is noticed, and declared again by the kernel."""

    def __init__(self, link: Link, keys: Keys, *, keep_origin: bool, delayed: Callable[[float], None]) -> None:
        """Prepare.

        Args:
            link: The connection for publishing.
            keys: The channel's keys.
            keep_origin: Copies tell where their original was stored.
            delayed: Told the seconds until something is due.
        """
        super().__init__(link, keys.stream)
        self._due, self._keep_origin, self._delayed = keys.due.encode(), keep_origin, delayed
        self._head = (b"XADD", keys.stream.encode(), b"NOMKSTREAM", b"*")
        self._prefix = keys.stream + "@"

    def _pack(self, record: Outgoing) -> bytes:
        fields = fields_of(record, keep_origin=self._keep_origin)
        if record.delay > 0:
            self._delayed(record.delay)
            run = LATER.run([self._due], milliseconds(record.delay), record.dedup or record.id)
            return pack((*run, *fields))
        return pack((*self._head, *fields))

    def _stored(self, reply: object) -> Answer:
        if isinstance(reply, bytes):
            return Stored(self._prefix + reply.decode())
        if reply is None:
            return AdapterError(Fault.LOST, f"stream {self._name!r} is not there any more")
        if isinstance(reply, hiredis.ReplyError):
            return reply_fault(self._link, reply, self._name)
        return AdapterError(Fault.AMBIGUOUS, f"{self._name}: an answer of type {type(reply).__name__}")


class ChannelSender(_Sender):
    """Publishes to a pub/sub channel: a confirmed message reached the server, and nobody else for certain."""

    def _pack(self, record: Outgoing) -> bytes:
        return pack((b"PUBLISH", self._name, envelope(record)))

    def _stored(self, reply: object) -> Answer:
        if isinstance(reply, hiredis.ReplyError):
            return reply_fault(self._link, reply, self._name)
        return Stored(self._name)
