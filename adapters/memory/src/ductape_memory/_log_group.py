"""One group on a log: who owns which partition, and how far each is settled."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Sequence
from typing import Protocol

from ductape.adapter import Delivery, Epoch, Order, Settlement, Verdict, Window
from ductape.errors import AdapterError, Fault

from ._partition import Partition
from ._store import Member, Seat, lost
from ._wire import Entry, unpack

__all__ = ["LogGroup", "LogMember", "Share"]

_DRAIN = 20.0
"""Seconds that a member which loses a partition has for what runs: well below the 60 s of opening a receiver."""
_BEHIND = 1000
"""Records that may be settled behind one that is not."""


class Log(Protocol):
    """The channel, as a member sees it."""

    def sweep(self, now: float) -> None:
        """Append what is due."""

    def trim(self) -> None:
        """Drop what nobody needs."""

    def next_entry(self) -> float:
        """Return when the next record enters the log."""


class Share:
    """One assignment of one partition to one member."""

    def __init__(self, group: LogGroup, partition: Partition, member: LogMember) -> None:
        """Begin where the group is."""
        self.group, self.partition, self.member = group, partition, member
        self.epoch = Epoch(f"{group.label}[{partition.index}]")
        mark, notes = max(group.marks[partition.index], partition.first), group.notes[partition.index]
        self.window = Window(self.epoch, mark, notes, max(_BEHIND, member.window))
        self.next = mark
        self.out: dict[int, Delivery] = {}
        self._again: list[int] = []
        self._returned: dict[int, Delivery] = {}
        self._restored = bool(notes)
        self._noted: dict[int, tuple[int, float | None]] = {}

    @property
    def mark(self) -> int:
        """The first offset that is not settled."""
        return self.window.mark if self.out or self._returned or self._restored else self.next

    def take(self, limit: int, into: list[Delivery]) -> None:
        """Hand over what was handed back, in its order, then what is new."""
        full = len(into) + limit
        while self._again and len(into) < full:
            offset = heapq.heappop(self._again)
            delivery = self.out[offset] = self._returned.pop(offset)
            into.append(delivery)
        while len(into) < full and self.next < self.partition.end and not self.window.full:
            self._read(full - len(into), into)

    def _read(self, limit: int, into: list[Delivery]) -> None:
        window, out, name = self.window, self.out, self.group.name
        lane = str(self.partition.index) if self.member.total else None
        for entry in self.partition.read(self.next, limit):
            if window.full:
                return
            offset = entry.seq
            self.next = offset + 1
            if entry.only is not None and entry.only != name:
                continue
            delivery = self._delivery(entry, lane)
            if window.take(offset, delivery):
                if delivery.failed:
                    self._noted[offset] = delivery.failed, delivery.due
                out[offset] = delivery
                into.append(delivery)

    def _delivery(self, entry: Entry, lane: str | None) -> Delivery:
        delivery = Delivery(
            entry.body,
            entry.headers,
            self.epoch,
            (self, entry.seq),
            entry.key,
            lane,
            None,
            None,
            entry.stored_at,
            entry.position,
        )
        if not self.member.caps.headers:
            delivery.body, delivery.headers, delivery.error = unpack(entry.body)
        return delivery

    def settle(self, offset: int, settlement: Settlement) -> None:
        """Settle what is out; what comes back comes from memory, in its order."""
        delivery = self.out.pop(offset)
        if settlement.verdict is Verdict.ACK:
            self.window.done(offset)
            self._noted.pop(offset, None)
        else:
            self._returned[offset] = delivery
            self._noted[offset] = delivery.failed, delivery.due
            heapq.heappush(self._again, offset)

    def note(self, offset: int) -> None:
        """Keep what the kernel knows of a delivery that is out."""
        delivery = self.out[offset]
        self._noted[offset] = delivery.failed, delivery.due

    def end(self) -> None:
        """Commit and give up. What was never noted is not known to anybody else, as on a broker."""
        index, held = self.partition.index, {**self.out, **self._returned}
        known = {offset: (delivery.failed, delivery.due) for offset, delivery in held.items()}
        for offset, delivery in held.items():
            delivery.failed, delivery.due = self._noted.get(offset, (0, None))
        self.group.marks[index] = self.mark
        self.group.notes[index] = self.window.metadata() if held or self._restored else ""
        for offset, delivery in held.items():
            delivery.failed, delivery.due = known[offset]
        self.epoch.end()

    def has(self, offset: int) -> bool:
        """Tell whether a record is out, or was handed back."""
        return offset in self.out or offset in self._returned

    def waiting(self) -> int:
        """Return how many records the member has not been given."""
        return max(self.partition.end - self.next, 0) + len(self._again)


class LogGroup:
    """The members of one group and what they own."""

    def __init__(self, name: str, label: str, partitions: Sequence[Partition], since: float) -> None:
        """Begin at an instant; no partition is owned."""
        self.name, self.label, self.partitions = name, label, partitions
        self.members: list[LogMember] = []
        self.marks = [partition.since(since) for partition in partitions]
        self.notes = [""] * len(partitions)
        self.shares: list[Share | None] = [None] * len(partitions)
        self._rebalancing = asyncio.Lock()

    async def join(self, member: LogMember) -> None:
        """Give the new member its part, once those who have it now are done with what runs."""
        async with self._rebalancing:
            self.members.append(member)
            self.spread()
            async with asyncio.TaskGroup() as tasks:
                for share in self._revoked(member):
                    tasks.create_task(self._move(share, member))

    def _revoked(self, member: LogMember) -> list[Share]:
        """Choose what the new member gets, from whoever has most."""
        owned = {id(other): list(other.shares()) for other in self.members if other is not member}
        wanted = len(self.partitions) // len(self.members) - sum(1 for _ in member.shares())
        chosen: list[Share] = []
        for _ in range(max(wanted, 0)):
            richest = max(owned.values(), key=len)
            chosen.append(richest.pop())
        return chosen

    async def _move(self, share: Share, member: LogMember) -> None:
        await share.epoch.drain(_DRAIN)
        index = share.partition.index
        if self.shares[index] is share:  # else its owner left meanwhile, and it was given away then
            share.end()
            self.shares[index] = None
            if member.gone:
                self.spread()
            else:
                self._assign(index, member)

    def leave(self, member: LogMember) -> None:
        """Take back what a member owns, and give it to the others."""
        self.members.remove(member)
        for share in tuple(member.shares()):
            share.end()
            self.shares[share.partition.index] = None
        self.spread()

    def spread(self) -> None:
        """Give what nobody owns to whoever has least."""
        for index, share in enumerate(self.shares):
            if share is None and self.members:
                self._assign(index, min(self.members, key=lambda one: sum(1 for _ in one.shares())))

    def seek(self, member: LogMember, since: float) -> None:
        """Move the group.

        Raises:
            AdapterError: ``CONFIG`` if there are other members, or deliveries are out.
        """
        if self.members != [member] or any(share.out for share in member.shares()):
            raise AdapterError(Fault.CONFIG, f"{self.label} cannot be moved while it is being worked on")
        self.leave(member)
        self.marks = [partition.since(since) for partition in self.partitions]
        self.notes = [""] * len(self.partitions)
        self.members.append(member)
        self.spread()

    def _assign(self, index: int, member: LogMember) -> None:
        self.shares[index] = Share(self, self.partitions[index], member)
        member.bell.ring()

    def mark(self, index: int) -> int:
        """Return the first offset of a partition that is not settled."""
        share = self.shares[index]
        return self.marks[index] if share is None else share.mark

    def waiting(self) -> int:
        """Return how many records the group has not been given."""
        owned = sum(share.waiting() for share in self.shares if share)
        return owned + sum(len(self.open(one)) for one in self.partitions if self.shares[one.index] is None)

    def open(self, partition: Partition) -> list[Entry]:
        """Return what is not settled of a partition, also behind the mark."""
        share, mark = self.shares[partition.index], max(self.mark(partition.index), partition.first)
        records = partition.read(mark, max(partition.end - mark, 0))
        if share is not None:
            return [one for one in records if one.seq >= share.next or share.has(one.seq)]
        probe = Window(Epoch(), mark, self.notes[partition.index], len(records) + 1)
        return [one for one in records if probe.take(one.seq, Delivery(b"", {}, probe.epoch))]

    def unsettled(self) -> int:
        """Return how many records the group has not settled."""
        return self.waiting() + sum(len(share.out) for share in self.shares if share)


class LogMember(Member):
    """One receiver of one group of a log."""

    def __init__(self, group: LogGroup, seat: Seat, log: Log) -> None:
        """Own nothing yet."""
        super().__init__(seat)
        self.group = group
        self.total = min(seat.intake.order, seat.caps.order) is Order.TOTAL
        self._log = log
        self._first = 0

    def shares(self) -> Iterator[Share]:
        """Go through what it owns."""
        return (share for share in self.group.shares if share is not None and share.member is self)

    def take(self, limit: int) -> list[Delivery]:
        """Hand over records, beginning with another partition each time."""
        self._log.sweep(self.clock.now())
        shares = list(self.shares())
        limit = min(limit, self.window - sum(len(share.out) for share in shares))
        taken: list[Delivery] = []
        self._first += 1
        for turn in range(len(shares)):
            share = shares[(self._first + turn) % len(shares)]
            if len(taken) >= limit:
                break
            if share.epoch.accepting:
                share.take(limit - len(taken), taken)
        return taken

    def owns(self, delivery: Delivery) -> bool:
        """Tell whether this delivery may still be settled here."""
        return self._share(delivery) is not None

    def _share(self, delivery: Delivery) -> Share | None:
        if not isinstance(delivery.token, tuple):
            return None
        share, offset = delivery.token
        return share if isinstance(share, Share) and share.epoch.alive and share.out.get(offset) is delivery else None

    def settle(self, settlements: Sequence[Settlement]) -> list[AdapterError | None]:
        """Settle; the mark moves with it."""
        answers: list[AdapterError | None] = []
        for settlement in settlements:
            share = self._share(settlement.delivery)
            if share is None:
                answers.append(lost("the partition is with somebody else"))
                continue
            share.settle(settlement.delivery.token[1], settlement)  # type: ignore[index]
            answers.append(None)
        self._log.trim()
        return answers

    def note(self, deliveries: Sequence[Delivery]) -> None:
        """Keep how often they failed and when they are due."""
        for delivery in deliveries:
            share = self._share(delivery)
            if share is not None:
                share.note(delivery.token[1])  # type: ignore[index]

    def seek(self, since: float) -> None:
        """Move the group to an instant."""
        self.group.seek(self, since)

    def next_due(self) -> float:
        """Return when the next record enters the log."""
        return self._log.next_entry()

    def leave(self) -> None:
        """Commit, and give everything to the others."""
        if not self.gone:
            self.gone = True
            if self in self.group.members:
                self.group.leave(self)
            self.bell.ring()

    def lag(self) -> int:
        """Return how many records the group has not been given."""
        return self.group.waiting()
