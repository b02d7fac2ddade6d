"""One stream as one group reads it in this process, and what all of a connection's readers share."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Protocol

from ductape.adapter import AdapterError, Clock, Delivery, Epoch

from ._config import RedisConfig
from ._link import BOUND, Link, pack
from ._wire import Raw

__all__ = ["Desk", "Source", "Taker", "entries_of", "id_key"]


class Taker(Protocol):
    """A receiver, as those see it that read for it."""

    credit: int
    """How many more entries it has room for."""

    def put(self, source: Source, entries: Sequence[Raw], until: float) -> None:
        """Take entries, leased until then."""

    def fail(self, error: AdapterError) -> None:
        """Have the next `receive` raise `error`."""


class Desk:
    """What the hubs, the keeper and the receivers of a connection share.

    Attributes:
        control: The connection for everything that does not block.
        consumer: Our name in every group; no other live process has it.
        bound: Seconds for one settlement.
        quiet_until: No message of another member is claimed before this: after an outage its owner must extend first.
        broken: Something was lost on the way since the keeper last renewed what we hold.
    """

    def __init__(self, config: RedisConfig, clock: Clock, log: logging.Logger, control: Link, consumer: str) -> None:
        """Begin with nothing broken."""
        self.config, self.clock, self.log, self.control, self.consumer = config, clock, log, control, consumer
        self.bound = min(BOUND, max(config.lease / 3, 0.5))
        self.lease_ms = math.ceil(config.lease * 1000)
        self.quiet_until = -math.inf
        self.broken = False

    def broke(self) -> None:
        """Note that a connection was lost."""
        self.broken = True
        self.quiet_until = self.clock.now() + self.config.lease / 2


class Source:
    """A stream and a group.

    Attributes:
        name: The stream.
        group: The group.
        due: The sorted set that feeds the stream.
        back: The stream on which its messages come back.
        back_due: The sorted set that feeds `back`.
        private: The stream is this group's alone, so what it settled is deleted.
        keep_origin: A message that comes back keeps where it was stored first.
        held: What is in our hands, by id.
        takers: The receivers that read it.
        hot: There may be more right now.
        after: The group was given everything up to this id; None: unknown.
        recover: An answer got lost; what it contained is pending with us.
        claim: There are expired leases.
        acked: Something was settled since the last trimming.
    """

    def __init__(self, desk: Desk, name: str, group: str, due: str, *, back: str, back_due: str, private: bool) -> None:
        """Begin without knowing anything about it."""
        self.name, self.group, self.due = name, group, due
        self.back, self.back_due, self.private = back, back_due, private
        self.key = name.encode()
        self.keep_origin = not private or not name.endswith(":dead")
        self.held: dict[bytes, Delivery] = {}
        self.takers: list[Taker] = []
        self.hot, self.recover, self.claim, self.acked = True, False, False, False
        self.after: bytes | None = None
        self.inspect = pack(("XINFO", "GROUPS", name))
        self.overdue = pack(("XPENDING", name, group, "IDLE", desk.lease_ms, "-", "+", 1))

    def acks(self, ids: Sequence[bytes]) -> list[bytes]:
        """Return the commands that settle entries."""
        commands = [pack((b"XACK", self.key, self.group, *ids))]
        if self.private:
            commands.append(pack((b"XDEL", self.key, *ids)))
        return commands

    def facts(self, reply: object) -> dict[bytes, object]:
        """Return what XINFO GROUPS says about this group; empty: it is not there."""
        group = self.group.encode()
        for flat in reply if isinstance(reply, list) else ():
            facts: dict[bytes, object] = dict(zip(flat[::2], flat[1::2], strict=False))
            if facts.get(b"name") == group:
                return facts
        return {}

    def drop(self, epoch: Epoch) -> None:
        """Forget what is held of an epoch that ends."""
        for id_ in [id_ for id_, delivery in self.held.items() if delivery.epoch is epoch]:
            del self.held[id_]

    def __repr__(self) -> str:
        return f"<Source {self.name}/{self.group} held={len(self.held)} {'hot' if self.hot else 'quiet'}>"


def entries_of(reply: object) -> list[tuple[bytes, list[Raw]]]:
    """Return what a read answered, by stream; every entry is in its first delivery."""
    streams: list[tuple[bytes, list[Raw]]] = []
    for name, entries in reply if isinstance(reply, list) else ():
        streams.append((name, [(id_, 1, fields) for id_, fields in entries if fields is not None]))
    return streams


def id_key(id_: bytes) -> tuple[int, int]:
    """Return a stream id as something that compares."""
    milliseconds, _, number = id_.partition(b"-")
    return int(milliseconds), int(number or 0)
