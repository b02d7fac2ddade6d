"""Handing over deliveries, and settling them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ductape.adapter import (
    Annotating,
    Channel,
    Clock,
    Delivery,
    Intake,
    Measurable,
    Receiver,
    Seekable,
    Settlement,
    Verdict,
)
from ductape.errors import AdapterError

from ._log_group import LogMember
from ._rules import Rules
from ._store import Member, Store, lost
from ._wire import instant

__all__ = ["MemoryLogReceiver", "MemoryReceiver"]


class MemoryReceiver(Receiver, Measurable):
    """One member of one group.

    Attributes:
        channel: The name of its channel.
        group: Its group.
    """

    def __init__(
        self,
        store: Store,
        member: Member,
        channel: Channel,
        intake: Intake,
        rules: Rules,
        left: Callable[[MemoryReceiver], None],
    ) -> None:
        """Open; the member has joined already."""
        self.channel, self.group = channel.name, intake.group
        self._store, self._member, self._rules, self._left = store, member, rules, left
        self._clock: Clock = member.clock
        self._stopped = self._closed = False
        self._unconfirmed: list[Settlement] = []
        self._dead = ""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return deliveries as soon as there is one, after at most `wait` seconds."""
        self._rules.calls["receive"] += 1
        clock = self._clock
        end = clock.now() + wait
        if self._rules.armed:
            await self._rules.gate("receive", clock)
        else:
            await asyncio.sleep(0)  # a broker always suspends: who calls in a loop must not starve the others
        while True:
            self._usable()
            self._confirm()
            taken = [] if self._stopped or limit <= 0 else self._member.take(limit)
            self._usable()  # taking notices a lease that ended the epoch of all
            now = clock.now()
            if taken or self._stopped or limit <= 0 or now >= end:
                return taken
            until = min(end, self._member.next_due())
            await self._member.bell.wait(clock, max(until - now, 0.0))

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[AdapterError | None]:
        """Settle; one answer each."""
        rules = self._rules
        rules.calls["settle"] += 1
        self._usable()
        if not rules.armed:
            return self._settle(settlements)
        return await rules.around("settle", self._clock, lambda: self._settle(settlements), len(settlements))

    def _settle(self, settlements: Sequence[Settlement]) -> list[AdapterError | None]:
        self._usable()
        if not self._member.caps.confirmed_ack:
            return self._settle_later(settlements)
        answers = self._member.settle(settlements)
        self._store.ring()
        return answers

    def _settle_later(self, settlements: Sequence[Settlement]) -> list[AdapterError | None]:
        """Answer at once, tell the broker a moment later: what is lost in between is delivered again."""
        self._confirm()
        answers: list[AdapterError | None] = []
        for settlement in settlements:
            if settlement.verdict is not Verdict.ACK:
                answers += self._member.settle([settlement])
            elif self._member.owns(settlement.delivery):
                self._unconfirmed.append(settlement)
                answers.append(None)
            else:
                answers.append(lost("the message is with somebody else"))
        self._store.ring()
        self._clock.call_later(0.0, self._confirm)
        return answers

    def _confirm(self) -> None:
        if self._unconfirmed and not self._dead:
            settlements, self._unconfirmed = self._unconfirmed, []
            self._member.settle(settlements)
            self._store.ring()

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[AdapterError | None]:
        """Renew leases; one answer each."""
        rules = self._rules
        rules.calls["extend"] += 1
        self._usable()
        if not rules.armed:
            return self._extend(deliveries)
        return await rules.around("extend", self._clock, lambda: self._extend(deliveries), len(deliveries))

    def _extend(self, deliveries: Sequence[Delivery]) -> list[AdapterError | None]:
        self._usable()
        self._confirm()
        return self._member.extend(deliveries)

    async def lag(self) -> int | None:
        """Return how many messages the group has not been given."""
        self._rules.calls["lag"] += 1
        self._usable()
        if self._rules.armed:
            await self._rules.gate("lag", self._clock)
        return self._member.lag()

    def dropped(self) -> int:
        """Return how many messages this receiver dropped."""
        return self._member.dropped()

    async def stop(self) -> None:
        """Take no more; idempotent."""
        self._rules.calls["stop"] += 1
        self._stopped = True
        self._member.bell.ring()
        if self._rules.armed:
            await self._rules.gate("stop", self._clock)

    async def close(self) -> None:
        """Settle what was settled, hand back the rest, leave the group, end the epochs. Idempotent."""
        self._rules.calls["close"] += 1
        if self._closed:
            return
        self._stopped = self._closed = True
        self._confirm()
        self._member.leave()
        self._store.ring()
        self._left(self)
        if self._rules.armed:
            await self._rules.gate("close", self._clock)

    def lose(self, why: str) -> None:
        """Lose what is out, and the place in the group: for faults."""
        self._dead = why
        self._unconfirmed.clear()
        self._member.leave()
        self._store.ring()

    def _usable(self) -> None:
        if self._dead:
            raise lost(self._dead)
        if self._closed or self._member.gone:
            raise lost("the receiver is closed" if self._closed else "the broker ended this membership")

    def __repr__(self) -> str:
        state = "dead" if self._dead else "closed" if self._closed else "stopped" if self._stopped else "open"
        return f"<MemoryReceiver {self._store.name} group={self.group} {state}>"


class MemoryLogReceiver(MemoryReceiver, Annotating, Seekable):
    """One member of one group of a log: it keeps notes, and its group can be moved."""

    _member: LogMember

    async def note(self, deliveries: Sequence[Delivery]) -> None:
        """Keep how often they failed and when they are due."""
        self._rules.calls["note"] += 1
        self._usable()
        if self._rules.armed:
            await self._rules.gate("note", self._clock)
        self._member.note(deliveries)

    async def seek(self, start: str) -> None:
        """Move the group."""
        self._rules.calls["seek"] += 1
        self._usable()
        if self._rules.armed:
            await self._rules.gate("seek", self._clock)
        self._member.seek(instant(start, history=True))
