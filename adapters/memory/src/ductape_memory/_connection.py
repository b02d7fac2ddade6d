"""A connection: what one client sees of the broker."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

import msgspec

from ductape.adapter import Capabilities, Channel, Connection, Intake, Purpose, Removable, Site

from ._broker import MemoryBroker
from ._config import MemoryConfig
from ._log_group import LogMember
from ._receiver import MemoryLogReceiver, MemoryReceiver
from ._sender import MemorySender
from ._store import Seat, Store, lost

__all__ = ["MemoryConnection"]

T = TypeVar("T")


class MemoryConnection(Connection, Removable):
    """One connection to a broker in the same process."""

    def __init__(
        self,
        broker: MemoryBroker,
        config: MemoryConfig,
        site: Site,
        capabilities: Mapping[Purpose, Capabilities],
    ) -> None:
        """Connect; `capabilities` tells what holds for the channels of each purpose."""
        self._broker, self._config, self._site, self._claims = broker, config, site, capabilities
        self._receivers: list[MemoryReceiver] = []
        self._dead = ""
        broker.state.links.append(self)
        broker.state.clock = site.clock

    @property
    def holders(self) -> Collection[MemoryReceiver]:
        """Return its receivers."""
        return self._receivers

    def capabilities(self, channel: Channel) -> Capabilities:
        """Return what holds for this channel here."""
        return self._claims[channel.purpose]

    async def declare(self, channel: Channel) -> None:
        """Make sure that the channel and its group are there."""
        await self._gate("declare")
        store = self._store(channel)
        store.declare(channel.group, channel.start, self._site.create)

    async def sender(self, channel: Channel) -> MemorySender:
        """Open a sender."""
        await self._gate("sender")
        caps = self.capabilities(channel)
        return MemorySender(self._store(channel), channel, caps, self._site.clock, self._broker.rules, self._alive)

    async def receiver(self, channel: Channel, intake: Intake) -> MemoryReceiver:
        """Open a receiver and join the group."""
        await self._gate("receiver")
        store = self._store(channel, joins=False)
        seat = Seat(caps=self.capabilities(channel), clock=self._site.clock, intake=intake, create=self._site.create)
        member = await store.join(seat)
        if self._dead:  # the connection died while the others finished what they had
            member.leave()
            raise lost(self._dead)
        kind = MemoryLogReceiver if isinstance(member, LogMember) else MemoryReceiver
        receiver = kind(store, member, channel, intake, self._broker.rules, self._left)
        self._receivers.append(receiver)
        return receiver

    async def remove(self, channel: Channel) -> None:
        """Remove the group, and its private channels."""
        await self._gate("remove")
        self._broker.state.remove(channel.name, channel.group)

    async def check(self) -> None:
        """Tell whether the connection lives."""
        await self._gate("check")

    async def close(self) -> None:
        """Close; idempotent."""
        self._broker.rules.calls["close"] += 1
        if not self._dead:
            self.die("the connection is closed")
        if self._broker.rules.armed:
            await self._broker.rules.gate("close", self._site.clock)

    def unwrap(self, kind: type[T]) -> T:
        """Return the `MemoryBroker`."""
        if isinstance(self._broker, kind):
            return self._broker
        return super().unwrap(kind)

    def die(self, why: str) -> None:
        """Be dead for good, and lose what is out: for faults."""
        self._dead = why
        if self in self._broker.state.links:
            self._broker.state.links.remove(self)
        for receiver in tuple(self._receivers):
            receiver.lose(why)
        self._receivers.clear()

    def _store(self, channel: Channel, *, joins: bool = True) -> Store:
        """Return the channel, or the one that its records join."""
        caps = self.capabilities(channel)
        if joins and channel.purpose is Purpose.RETRY and caps.retry_joins:
            channel = msgspec.structs.replace(channel, purpose=Purpose.EVENTS)
            caps = self.capabilities(channel)
        return self._broker.state.store(channel, caps, self._config, create=self._site.create)

    async def _gate(self, method: str) -> None:
        rules = self._broker.rules
        rules.calls[method] += 1
        self._alive()
        if rules.armed:
            await rules.gate(method, self._site.clock)
            self._alive()

    def _alive(self) -> None:
        if self._dead:
            raise lost(self._dead)

    def _left(self, receiver: MemoryReceiver) -> None:
        if receiver in self._receivers:
            self._receivers.remove(receiver)

    def __repr__(self) -> str:
        state = "dead" if self._dead else "open"
        return f"<MemoryConnection {self._broker.name} {state} receivers={len(self._receivers)}>"
