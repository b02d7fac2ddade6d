"""What the three engines have in common: a store for each channel, a member for each receiver."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import msgspec

from ductape.adapter import Capabilities, Clock, Delivery, Durability, Epoch, Intake, Outgoing, Settlement, Stored
from ductape.errors import AdapterError, Fault

from ._wire import Entry, pack, roughly

__all__ = ["Bell", "Member", "Seat", "Store", "lost"]


def lost(text: str) -> AdapterError:
    """Return the fault of what belongs to somebody else, or to nobody."""
    return AdapterError(Fault.LOST, text)


class Bell:
    """What one receiver waits at."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        """Nobody waits yet."""
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Let the waiting receiver look again."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def break_(self, error: AdapterError) -> None:
        """Raise `error` from the waiting receiver."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    async def wait(self, clock: Clock, seconds: float) -> None:
        """Wait until it rings, at most `seconds`."""
        self._waiting = asyncio.get_running_loop().create_future()
        timer = clock.call_later(seconds, self.ring)
        try:
            await self._waiting
        finally:
            timer.cancel()
            self._waiting = None


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """Who takes part in a group, and on what terms."""

    caps: Capabilities
    clock: Clock
    intake: Intake
    create: bool
    """May the group be created?"""


class Member(ABC):
    """One receiver as its store sees it. Synchronous: whoever changes something rings the bells afterwards."""

    def __init__(self, seat: Seat) -> None:
        """Take the seat; the store adds it to its members."""
        self.caps, self.clock, self.window = seat.caps, seat.clock, seat.intake.window
        self.bell = Bell()
        self.gone = False

    @abstractmethod
    def take(self, limit: int) -> list[Delivery]:
        """Hand over what may be delivered now, inside the window."""

    @abstractmethod
    def owns(self, delivery: Delivery) -> bool:
        """Tell whether this delivery may still be settled here."""

    @abstractmethod
    def settle(self, settlements: Sequence[Settlement]) -> list[AdapterError | None]:
        """Settle; one answer each."""

    def extend(self, deliveries: Sequence[Delivery]) -> list[AdapterError | None]:
        """Renew leases; one answer each."""
        return [None if self.owns(one) else lost("the lease is gone") for one in deliveries]

    @abstractmethod
    def next_due(self) -> float:
        """Return the instant at which something may become deliverable by itself; infinity if none."""

    @abstractmethod
    def leave(self) -> None:
        """Give back what is out, end the epochs, be a member no more. Idempotent."""

    @abstractmethod
    def lag(self) -> int:
        """Return how many messages the group has not been given."""

    def dropped(self) -> int:
        """Return how many messages were dropped for want of room."""
        return 0


class Store(ABC):
    """One channel on the broker."""

    kind: ClassVar[str]

    def __init__(self, name: str, caps: Capabilities, *, messages: int, size: int) -> None:
        """Make an empty channel.

        Args:
            name: Its physical name.
            caps: What was declared by the connection that made it.
            messages: How many unsettled messages it takes.
            size: How many bytes of them it takes.
        """
        self.name, self.caps = name, caps
        self.max_messages, self.max_bytes = messages, size
        self.messages = self.bytes = 0

    def put(
        self, record: Outgoing, clock: Clock, stored_at: float, only: str | None = None, *, raw: bool = False
    ) -> Stored | AdapterError:
        """Store a record, for one group or for all; ring nobody. What is raw is never wrapped."""
        body, headers = record.body, record.headers
        if not self.caps.headers and not raw:
            body, headers = pack(headers, body), {}
        due = clock.now() + record.delay if record.delay > 0 else 0.0
        entry = Entry(0, body, dict(headers), record.key, stored_at, "", roughly(body, headers), due, only)
        if 0 < self.max_bytes < entry.size:
            text = f"{entry.size} bytes; {self.name} holds {self.max_bytes} in all. Raise config.max_bytes"
            return AdapterError(Fault.MESSAGE, text)
        if self._full(entry.size):
            return AdapterError(Fault.TRANSIENT, f"{self.name} is full: its groups settle too slowly")
        self._add(entry)
        return Stored(entry.position)

    def survive(self, now: float, keep: bool | None) -> bool:
        """Forget what a killed server forgets; False if nothing at all survives."""
        if keep is False or (keep is None and self.caps.durability is Durability.NONE):
            return False
        if keep is None and self.caps.durability is Durability.BUFFERED:
            self._forget_from(now - 1.0)
        return True

    def ring(self) -> None:
        """Let every waiting receiver look again."""
        for member in self.members():
            member.bell.ring()

    def _full(self, size: int) -> bool:
        return self.messages >= self.max_messages or self.bytes + size > self.max_bytes

    @abstractmethod
    def _add(self, entry: Entry) -> None:
        """Number the entry and lay it where its groups find it."""

    @abstractmethod
    def _forget_from(self, instant: float) -> None:
        """Drop everything stored after `instant`."""

    @abstractmethod
    def declare(self, group: str, start: str | None, create: bool) -> None:
        """Make sure that the group is there; without a name, only the channel matters."""

    @abstractmethod
    async def join(self, seat: Seat) -> Member:
        """Join a group, which is there afterwards."""

    @abstractmethod
    def members(self) -> Iterator[Member]:
        """Go through the members of all groups."""

    @abstractmethod
    def forget(self, group: str) -> None:
        """Lose a group and everything that it knew."""

    @abstractmethod
    def entries(self, group: str | None) -> list[Entry]:
        """Return what is stored, or what one group has not settled, as stored; everything while there is no group."""

    @abstractmethod
    def unsettled(self, group: str | None, idle: bool) -> int:
        """Return how many messages a group has not settled; None: all groups, those without members only if `idle`.

        While there is no group, everything stored counts for the one that is asked for.
        """

    @abstractmethod
    def next_due(self, idle: bool) -> float:
        """Return the instant at which something becomes visible by itself; infinity if nothing does."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} messages={self.messages} members={sum(1 for _ in self.members())}>"


def missing(store: Store, group: str) -> AdapterError:
    """Return the fault of a group that is not there and may not be created."""
    return AdapterError(Fault.CONFIG, f"{store.name} has no group {group!r}, and it may not be created here")


def epoch(store: Store, group: str, where: str = "") -> Epoch:
    """Begin an epoch that names store and group."""
    return Epoch(f"{store.name}{where} of {group or 'everyone'}")
