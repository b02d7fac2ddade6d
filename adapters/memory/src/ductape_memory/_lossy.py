"""Fire and forget: whoever listens gets a copy; a full buffer drops, and counts what it drops."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence

from ductape.adapter import Capabilities, Delivery, Settlement, Verdict
from ductape.errors import AdapterError

from ._store import Member, Seat, Store, epoch, lost
from ._wire import Entry, unpack

__all__ = ["LossyMember", "LossyStore"]


class LossyStore(Store):
    """A channel that stores nothing."""

    kind = "lossy"

    def __init__(self, name: str, caps: Capabilities, *, buffer: int) -> None:
        """Make a channel that nobody listens to; `buffer` messages wait for one receiver before more are dropped."""
        super().__init__(name, caps, messages=0, size=0)
        self.buffer = buffer
        self._members: list[LossyMember] = []
        self._numbers = 0

    def _full(self, size: int) -> bool:
        return False

    def _add(self, entry: Entry) -> None:
        self._numbers = entry.seq = self._numbers + 1
        entry.position = f"{self.name}@{entry.seq}"
        for member in self._members:
            member.offer(entry)

    def declare(self, group: str, start: str | None, create: bool) -> None:
        """Nothing to do: there are no groups."""

    async def join(self, seat: Seat) -> Member:
        """Listen from now on."""
        member = LossyMember(self, seat)
        self._members.append(member)
        return member

    def members(self) -> Iterator[LossyMember]:
        """Go through everybody who listens."""
        return iter(tuple(self._members))

    def remove(self, member: LossyMember) -> None:
        """Do not listen any more."""
        if member in self._members:
            self._members.remove(member)

    def forget(self, group: str) -> None:
        """Nothing to do: there are no groups."""

    def entries(self, group: str | None) -> list[Entry]:
        """Return what waits for somebody."""
        found = {entry.seq: entry for member in self._members for entry in member.waiting}
        return [found[seq] for seq in sorted(found)]

    def unsettled(self, group: str | None, idle: bool) -> int:
        """Return how many messages wait or are out, those of every listener added."""
        return sum(len(member.waiting) + len(member.held) for member in self._members)

    def next_due(self, idle: bool) -> float:
        """Nothing becomes visible by itself."""
        return math.inf

    def _forget_from(self, instant: float) -> None:
        pass


class LossyMember(Member):
    """One listener and its buffer."""

    def __init__(self, store: LossyStore, seat: Seat) -> None:
        """Begin with an empty buffer."""
        super().__init__(seat)
        self.store = store
        self.epoch = epoch(store, seat.intake.group)
        self.waiting: deque[Entry] = deque()
        self.held: dict[Delivery, Entry] = {}
        self._dropped = 0

    def offer(self, entry: Entry) -> None:
        """Take a copy if there is room."""
        if len(self.waiting) < self.store.buffer:
            self.waiting.append(entry)
        else:
            self._dropped += 1

    def take(self, limit: int) -> list[Delivery]:
        """Hand over what waits."""
        deliveries = []
        for _ in range(min(limit, self.window - len(self.held), len(self.waiting))):
            entry = self.waiting.popleft()
            delivery = Delivery(
                body=entry.body,
                headers=entry.headers,
                epoch=self.epoch,
                token=entry.seq,
                key=entry.key,
                stored_at=entry.stored_at,
                position=entry.position,
            )
            if not self.caps.headers:
                delivery.body, delivery.headers, delivery.error = unpack(entry.body)
            self.held[delivery] = entry
            deliveries.append(delivery)
        return deliveries

    def owns(self, delivery: Delivery) -> bool:
        """Tell whether this delivery is out."""
        return delivery in self.held

    def settle(self, settlements: Sequence[Settlement]) -> list[AdapterError | None]:
        """Forget what is done; lay the rest back into the own buffer, in its order."""
        answers: list[AdapterError | None] = []
        back: list[Entry] = []
        for settlement in settlements:
            entry = self.held.pop(settlement.delivery, None)
            answers.append(lost("the message is not out") if entry is None else None)
            if entry is not None and settlement.verdict is not Verdict.ACK:
                back.append(entry)
        self.waiting.extendleft(sorted(back, key=lambda entry: -entry.seq))
        return answers

    def next_due(self) -> float:
        """Nothing becomes visible by itself."""
        return math.inf

    def leave(self) -> None:
        """Stop listening; what waits is lost."""
        if not self.gone:
            self.gone = True
            self.store.remove(self)
            self.waiting.clear()
            self.held.clear()
            self.epoch.end()
            self.bell.ring()

    def lag(self) -> int:
        """Return how many messages wait in the buffer."""
        return len(self.waiting)

    def dropped(self) -> int:
        """Return how many messages found the buffer full."""
        return self._dropped
