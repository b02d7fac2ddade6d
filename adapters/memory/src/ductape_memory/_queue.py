"""A queue for each group: leases, exact counts, delays of any length, order where it is asked for."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from ductape.adapter import Capabilities, Count, Delivery, Groups, Order, Settlement, Verdict
from ductape.errors import AdapterError

from ._shelves import Item, Keyed, Plain, Shelf, Turn
from ._store import Member, Seat, Store, epoch, lost, missing
from ._wire import Entry, instant, unpack

__all__ = ["QueueGroup", "QueueMember", "QueueStore"]


class QueueStore(Store):
    """A channel whose groups each have a queue of their own.

    A message is dropped when every group has settled it. A channel that keeps history, or has no group yet, keeps what
    nobody has to settle as a ring: bounded like the channel, the oldest gives way.
    """

    kind = "queue"

    def __init__(self, name: str, caps: Capabilities, *, messages: int, size: int) -> None:
        """Make an empty channel."""
        super().__init__(name, caps, messages=messages, size=size)
        self.groups: dict[str, QueueGroup] = {}
        self._numbers = 0
        self._ring: deque[Entry] = deque()
        self._ring_bytes = 0
        self._prefix = f"{name}@"

    def _add(self, entry: Entry) -> None:
        self._numbers = entry.seq = self._numbers + 1
        entry.position = f"{self._prefix}{entry.seq}"
        groups: Iterable[QueueGroup] = self.groups.values()
        if entry.only is not None:
            only = self.groups.get(self.named(entry.only))
            groups = [only] if only else []
        for group in groups:
            entry.refs += 1
            group.add(entry)
        if entry.refs:
            self.messages += 1
            self.bytes += entry.size
        if (self.caps.history or not entry.refs) and entry.only is None:
            self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        if not self.caps.history and self.groups:
            return
        self._ring.append(entry)
        self._ring_bytes += entry.size
        while len(self._ring) > self.max_messages or self._ring_bytes > self.max_bytes:
            self._ring_bytes -= self._ring.popleft().size

    def settled(self, entry: Entry) -> None:
        """One group is done with the entry."""
        entry.refs -= 1
        if not entry.refs:
            self.messages -= 1
            self.bytes -= entry.size

    def declare(self, group: str, start: str | None, create: bool) -> None:
        """Make sure that the group is there; where the channel is the one group, that is the channel itself."""
        group = self.named(group)
        if group in self.groups or (not group and self.caps.groups is not Groups.ONE):
            return
        if not create:
            raise missing(self, group)
        first = not self.groups
        since = instant(start, self.caps.history or first)
        made = self.groups[group] = QueueGroup(self, group)
        for entry in self._ring:
            if entry.stored_at >= since:
                if not entry.refs:
                    self.messages += 1
                    self.bytes += entry.size
                entry.refs += 1
                made.add(entry)
        if not self.caps.history:
            self._ring.clear()
            self._ring_bytes = 0

    def named(self, group: str) -> str:
        """Return the group that is meant: the channel itself where it is the one group."""
        return "" if self.caps.groups is Groups.ONE else group

    async def join(self, seat: Seat) -> Member:
        """Join a group; the strictest order that a member asks for holds for the group."""
        self.declare(seat.intake.group, seat.intake.start, seat.create)
        group = self.groups[self.named(seat.intake.group)]
        member = QueueMember(group, seat)
        group.members.append(member)
        group.reorder()
        return member

    def members(self) -> Iterator[Member]:
        """Go through the members of all groups."""
        for group in self.groups.values():
            yield from group.members

    def forget(self, group: str) -> None:
        """Lose a group and everything that it knew."""
        gone = self.groups.pop(self.named(group), None)
        if gone is not None:
            for member in tuple(gone.members):
                member.leave()
            for item in gone.items():
                self.settled(item.entry)

    def entries(self, group: str | None) -> list[Entry]:
        """Return what is stored, or what one group has not settled, as stored."""
        whole = group is None or not self.groups
        named = self.groups.get(self.named(group or ""))
        groups = self.groups.values() if whole else [named] if named else []
        found = {item.entry.seq: item.entry for one in groups for item in one.items()}
        if whole:
            found.update((entry.seq, entry) for entry in self._ring)
        return [found[seq] for seq in sorted(found)]

    def unsettled(self, group: str | None, idle: bool) -> int:
        """Return how many messages are not settled."""
        if group is None:
            return sum(one.size for one in self.groups.values() if idle or one.members)
        found = self.groups.get(self.named(group))
        return found.size if found else 0 if self.groups else len(self._ring)

    def next_due(self, idle: bool) -> float:
        """Return when the next delay or lease ends."""
        groups = [one for one in self.groups.values() if idle or one.members]
        for member in (member for one in groups for member in one.members):
            member.tighten()
        return min((one.next_due() for one in groups), default=math.inf)

    def _forget_from(self, instant: float) -> None:
        self._ring = deque(entry for entry in self._ring if entry.stored_at < instant)
        self._ring_bytes = sum(entry.size for entry in self._ring)
        for group in self.groups.values():
            group.keep(instant)


class QueueGroup:
    """One group: its shelf, what is delayed, and its members."""

    __slots__ = ("_delayed", "_rank", "members", "name", "shelf", "size", "store")

    def __init__(self, store: QueueStore, name: str) -> None:
        """Begin empty."""
        self.store, self.name = store, name
        self.shelf: Shelf = Plain()
        self.members: list[QueueMember] = []
        self.size = 0
        self._rank = 0
        self._delayed: list[tuple[float, int, Item]] = []

    def add(self, entry: Entry) -> None:
        """Take in a new message."""
        self._rank += 1
        self.size += 1
        item = Item(entry, self._rank, 0, entry.due)
        if entry.due:
            heapq.heappush(self._delayed, (entry.due, self._rank, item))
        else:
            self.shelf.add(item)

    def sweep(self, now: float) -> None:
        """Make visible what is due, and take back what was leased for too long."""
        while self._delayed and self._delayed[0][0] <= now:
            item = heapq.heappop(self._delayed)[2]
            item.due = 0.0
            if item.lane is None:
                # A delayed record takes its place in the order when it becomes visible, behind what was before.
                self._rank = item.rank = self._rank + 1
            self.shelf.arrive(item)
        for member in tuple(self.members):
            if member.first_end <= now:
                member.expire(now)

    def again(self, item: Item, due: float) -> None:
        """Take back what failed."""
        item.due = due
        if due:
            heapq.heappush(self._delayed, (due, item.rank, item))
        self.shelf.put_off(item)

    def done(self, item: Item) -> None:
        """Forget what is done."""
        self.size -= 1
        self.shelf.done(item)
        self.store.settled(item.entry)

    def reorder(self) -> None:
        """Keep the order that the strictest member asks for."""
        order = max((member.order for member in self.members), default=Order.NONE)
        if (order is not Order.NONE, order is Order.TOTAL) == (self.shelf.ordered, self.shelf.total):
            return
        locks = self.store.caps.order_locks
        shelf: Shelf = Plain() if order is Order.NONE else Keyed(order is Order.TOTAL, locks)
        for member in self.members:
            member.turn.clear()
            for item in member.held:
                item.lane = None
        self._lay(shelf, self.shelf.items())

    def keep(self, stored_before: float) -> None:
        """Forget what was stored later; nothing is out."""
        for item in self.items():
            if item.entry.stored_at >= stored_before:
                self.size -= 1
                self.store.settled(item.entry)
        self._delayed = [row for row in self._delayed if row[2].entry.stored_at < stored_before]
        heapq.heapify(self._delayed)
        self._lay(Plain(), (item for item in self.shelf.items() if item.entry.stored_at < stored_before))

    def _lay(self, shelf: Shelf, items: Iterable[Item]) -> None:
        """Move everything that waits to another shelf."""
        waiting = {item.rank: item for item in items}
        waiting.update((item.rank, item) for _, _, item in self._delayed if item.count)
        self.shelf = shelf
        for rank in sorted(waiting):
            item = waiting[rank]
            item.lane = None
            if item.count:
                shelf.put_off(item)
            else:
                shelf.add(item)

    def items(self) -> list[Item]:
        """Return everything that is not settled, once."""
        found = {item.rank: item for item in self.shelf.items()}
        found.update((item.rank, item) for _, _, item in self._delayed)
        found.update((item.rank, item) for member in self.members for item in member.held)
        return [found[rank] for rank in sorted(found)]

    def next_due(self) -> float:
        """Return when the next delay or lease ends."""
        due = self._delayed[0][0] if self._delayed else math.inf
        return min([due, *(member.first_end for member in self.members)])


class QueueMember(Member):
    """One receiver of one group of a queue."""

    def __init__(self, group: QueueGroup, seat: Seat) -> None:
        """Join with nothing out."""
        super().__init__(seat)
        self.group = group
        self.epoch = epoch(group.store, group.name)
        self.order = min(seat.intake.order, seat.caps.order)
        self.turn: Turn = deque()
        self.held: dict[Item, None] = {}
        self.first_end = math.inf
        """No lease ends before this instant."""
        self._counts = seat.caps.count is not Count.NONE
        self._exact = seat.caps.count is Count.EXACT

    def take(self, limit: int) -> list[Delivery]:
        """Hand over what may be delivered now, leased from now on."""
        now = self.clock.now()
        self.group.sweep(now)
        limit = min(limit, self.window - len(self.held))
        if limit <= 0 or self.gone:
            return []
        lease, counts, epoch, held = self.caps.lease, self._counts, self.epoch, self.held
        until = None if lease is None else now + lease
        deliveries = []
        for item in self.group.shelf.take(self.turn, limit, now):
            entry = item.entry
            item.count = count = item.count + 1
            delivery = item.out = Delivery(
                entry.body,
                entry.headers,
                epoch,
                item,
                entry.key,
                None,
                count if counts else None,
                until,
                entry.stored_at,
                entry.position,
            )
            if until is not None:
                item.since, item.until = now, until
            held[item] = None
            deliveries.append(delivery)
        if until is not None and deliveries:
            self.first_end = min(self.first_end, until)
        if not self.caps.headers:
            for delivery in deliveries:
                delivery.body, delivery.headers, delivery.error = unpack(delivery.body)
        return deliveries

    def owns(self, delivery: Delivery) -> bool:
        """Tell whether this delivery may still be settled here."""
        item = delivery.token
        return isinstance(item, Item) and item.out is delivery and item in self.held

    def settle(self, settlements: Sequence[Settlement]) -> list[AdapterError | None]:
        """Settle; one answer each."""
        group, held = self.group, self.held
        now = self.clock.now()
        group.sweep(now)
        answers: list[AdapterError | None] = []
        for settlement in settlements:
            delivery = settlement.delivery
            item = delivery.token
            if not isinstance(item, Item) or item.out is not delivery or item not in held:
                answers.append(lost("the message is with somebody else"))
                continue
            del held[item]
            item.out = None
            if settlement.verdict is Verdict.ACK:
                group.done(item)
            elif settlement.verdict is Verdict.RETRY:
                group.again(item, self._due(now, settlement.delay))
            else:
                item.count -= self._exact
                group.shelf.put_back(item)
            answers.append(None)
        return answers

    def _due(self, now: float, delay: float) -> float:
        """Return until when a failed message is kept: as long as was declared, in the steps that were declared."""
        step, longest = self.caps.retry_step, self.caps.retry_delay
        if step:
            delay = math.ceil(delay / step) * step
        delay = min(delay, longest)
        return now + delay if delay > 0 else 0.0

    def extend(self, deliveries: Sequence[Delivery]) -> list[AdapterError | None]:
        """Renew leases, up to what was declared as their sum."""
        now = self.clock.now()
        self.group.sweep(now)
        lease, total = self.caps.lease, self.caps.lease_total
        answers: list[AdapterError | None] = []
        for delivery in deliveries:
            item = delivery.token
            if not self.owns(delivery) or not isinstance(item, Item):
                answers.append(lost("the lease ended, the message is with somebody else"))
                continue
            if lease is not None and total is not None:
                item.until = delivery.leased_until = max(item.until, min(now + lease, item.since + total))
            answers.append(None)
        return answers

    def expire(self, now: float) -> None:
        """Give back what was held for longer than its lease."""
        ended = [item for item in self.held if item.until <= now]
        if ended and self.caps.lease_shared:
            self.leave()
            return
        for item in ended:
            self._drop(item)
        self.tighten()

    def tighten(self) -> None:
        """Find out when the first lease really ends."""
        if self.caps.lease is not None:
            self.first_end = min((item.until for item in self.held), default=math.inf)

    def next_due(self) -> float:
        """Return when the next delay or lease of the group ends."""
        return self.group.next_due()

    def leave(self) -> None:
        """Give back what is out: it may have run, so its count stays."""
        if self.gone:
            return
        self.gone = True
        for item in tuple(self.held):
            self._drop(item)
        self.first_end = math.inf
        if self in self.group.members:
            self.group.members.remove(self)
        self.epoch.end()
        self.group.store.ring()
        self.bell.ring()

    def _drop(self, item: Item) -> None:
        del self.held[item]
        item.out = None
        self.group.shelf.put_back(item)

    def lag(self) -> int:
        """Return how many messages wait for the group, the delayed ones included."""
        return self.group.size - sum(len(member.held) for member in self.group.members)
