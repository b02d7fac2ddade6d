"""A partitioned log: it keeps what is settled as history, until room is needed."""

from __future__ import annotations

import heapq
import itertools
import math
import zlib
from collections.abc import Iterator

from ductape.adapter import Capabilities, Groups, Order

from ._log_group import LogGroup, LogMember
from ._partition import Partition
from ._store import Member, Seat, Store, missing
from ._wire import Entry, instant

__all__ = ["LogStore"]


class LogStore(Store):
    """A channel that is a log."""

    kind = "log"

    def __init__(self, name: str, caps: Capabilities, *, messages: int, size: int, partitions: int) -> None:
        """Make an empty log."""
        super().__init__(name, caps, messages=messages, size=size)
        self.partitions = [Partition(index) for index in range(partitions)]
        self.groups: dict[str, LogGroup] = {}
        self.total = False
        """Everything goes to one partition, because the topic asks for one order of all."""
        self._turn = itertools.cycle(range(partitions))
        self._later: list[tuple[float, int, Entry]] = []
        self._tie = itertools.count()

    def lane(self, key: str | None) -> int | None:
        """Return the partition of a key; None: whichever is next."""
        if self.total:
            return 0
        if key is None or self.caps.order is Order.NONE:
            return None
        return zlib.crc32(key.encode()) % len(self.partitions)

    def _full(self, size: int) -> bool:
        while super()._full(size):
            head = min(self._removable(), key=lambda one: one[1], default=None)
            if head is None:
                return True
            self._evict(head[0])
        return False

    def _removable(self) -> Iterator[tuple[Partition, float]]:
        """Go through the partitions whose first record nobody needs; with the instant it was stored at."""
        for partition in self.partitions:
            if partition.first < min(partition.end, self._needed(partition)):
                (entry,) = partition.read(partition.first, 1)
                yield partition, entry.stored_at

    def _needed(self, partition: Partition) -> float:
        """Return the first offset that some group has not settled."""
        return min((group.mark(partition.index) for group in self.groups.values()), default=math.inf)

    def _evict(self, partition: Partition) -> None:
        entry = partition.evict()
        self.messages -= 1
        self.bytes -= entry.size

    def trim(self) -> None:
        """Drop what everybody settled, where the log keeps no history."""
        if not self.caps.history and self.groups:
            for partition in self.partitions:
                for _ in range(partition.first, int(min(partition.end, self._needed(partition)))):
                    self._evict(partition)

    def _add(self, entry: Entry) -> None:
        self.messages += 1
        self.bytes += entry.size
        if entry.due:
            # It enters the log when it is due, so that it holds up nothing that was stored behind it.
            entry.position = f"{self.name}@later"
            heapq.heappush(self._later, (entry.due, next(self._tie), entry))
        else:
            self._append(entry)

    def _append(self, entry: Entry) -> None:
        lane = self.lane(entry.key)
        partition = self.partitions[next(self._turn) if lane is None else lane]
        entry.seq = partition.append(entry)
        entry.position = f"{self.name}[{partition.index}]@{entry.seq}"

    def sweep(self, now: float) -> None:
        """Append what is due."""
        while self._later and self._later[0][0] <= now:
            self._append(heapq.heappop(self._later)[2])

    def named(self, group: str) -> str:
        """Return the group that is meant: the channel itself where it is the one group."""
        return "" if self.caps.groups is Groups.ONE else group

    def declare(self, group: str, start: str | None, create: bool) -> None:
        """Make sure that the group is there."""
        group = self.named(group)
        if group in self.groups or (not group and self.caps.groups is not Groups.ONE):
            return
        if not create:
            raise missing(self, group)
        since = instant(start, self.caps.history or not self.groups)
        self.groups[group] = LogGroup(group, f"{group or 'everyone'} on {self.name}", self.partitions, since)

    async def join(self, seat: Seat) -> Member:
        """Join a group; returns when partitions are assigned."""
        self.declare(seat.intake.group, seat.intake.start, seat.create)
        group = self.groups[self.named(seat.intake.group)]
        member = LogMember(group, seat, self)
        await group.join(member)
        return member

    def members(self) -> Iterator[Member]:
        """Go through the members of all groups."""
        for group in self.groups.values():
            yield from group.members

    def forget(self, group: str) -> None:
        """Lose a group and how far it was."""
        gone = self.groups.pop(self.named(group), None)
        for member in tuple(gone.members) if gone else ():
            member.leave()

    def entries(self, group: str | None) -> list[Entry]:
        """Return what is stored, or what one group has not settled, as stored."""
        found = [entry for _, _, entry in self._later]
        named = self.groups.get(self.named(group or ""))
        for partition in self.partitions:
            if group is not None and named is not None:
                found += named.open(partition)
            elif group is None or not self.groups:
                found += partition.read(partition.first, partition.end)
        return sorted(found, key=lambda entry: entry.stored_at)

    def unsettled(self, group: str | None, idle: bool) -> int:
        """Return how many records are not settled, and how many are still to enter the log."""
        if group is None:
            counted = [one for one in self.groups.values() if idle or one.members]
            return sum(one.unsettled() for one in counted) + len(self._later) * len(counted)
        found = self.groups.get(self.named(group))
        if found is None:
            return 0 if self.groups else self.messages
        return found.unsettled() + len(self._later)

    def next_due(self, idle: bool) -> float:
        """Return when the next record enters the log."""
        wanted = any(idle or one.members for one in self.groups.values())
        return self.next_entry() if wanted else math.inf

    def next_entry(self) -> float:
        """Return when the next record enters the log."""
        return self._later[0][0] if self._later else math.inf

    def _forget_from(self, instant: float) -> None:
        self._later = [row for row in self._later if row[2].stored_at < instant]
        heapq.heapify(self._later)
        dropped = [entry for partition in self.partitions for entry in partition.truncate(instant)]
        self.messages = sum(part.end - part.first for part in self.partitions) + len(self._later)
        self.bytes -= sum(entry.size for entry in dropped)
        for group in self.groups.values():
            group.marks = [min(mark, part.end) for mark, part in zip(group.marks, self.partitions, strict=True)]
