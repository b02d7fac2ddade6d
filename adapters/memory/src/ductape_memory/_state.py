"""What the broker knows: channels by place, and who is connected."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from ductape.adapter import Capabilities, Channel, Clock, Groups, Order, Purpose
from ductape.errors import AdapterError, Fault

from ._config import MemoryConfig
from ._log import LogStore
from ._lossy import LossyStore
from ._queue import QueueStore
from ._store import Store
from ._wire import physical

__all__ = ["Holder", "Link", "Place", "State", "place"]

Place = tuple[str, Purpose, str]


class Holder(Protocol):
    """A receiver, as a fault sees it."""

    @property
    def channel(self) -> str:
        """The name of its channel."""

    @property
    def group(self) -> str:
        """Its group."""

    def lose(self, why: str) -> None:
        """Lose what is out, and the place in the group."""


class Link(Protocol):
    """A connection, as a fault sees it."""

    @property
    def holders(self) -> Collection[Holder]:
        """Its receivers."""

    def die(self, why: str) -> None:
        """Be dead for good."""


def place(channel: str, purpose: Purpose, group: str) -> Place:
    """Return where a channel lies: only RETRY and DEAD belong to a group."""
    return channel, purpose, "" if purpose is Purpose.EVENTS else group


class State:
    """Channels and connections of one broker.

    Attributes:
        stores: The channels.
        links: The connections that are open.
        clock: What the last connection brought.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self.stores: dict[Place, Store] = {}
        self.links: list[Link] = []
        self.clock: Clock | None = None

    def store(self, channel: Channel, caps: Capabilities, config: MemoryConfig, *, create: bool) -> Store:
        """Return the channel, made if it is missing.

        Raises:
            AdapterError: ``CONFIG`` if it may not be created, or is of another kind.
        """
        at = place(channel.name, channel.purpose, channel.group)
        kind = "lossy" if caps.groups is Groups.NONE else "log" if caps.watermark else "queue"
        store = self.stores.get(at)
        if store is None:
            if not create:
                text = f"there is no channel {physical(channel)}, and it may not be created here"
                raise AdapterError(Fault.CONFIG, text)
            store = self.stores[at] = _made(kind, physical(channel), caps, config, channel.options)
        if store.kind != kind:
            raise AdapterError(Fault.CONFIG, f"{store.name} is a {store.kind} on this broker, not a {kind}")
        if isinstance(store, LogStore) and channel.order is Order.TOTAL:
            store.total = True
        return store

    def receivers(self) -> Iterator[Holder]:
        """Go through all receivers that are open."""
        for link in tuple(self.links):
            yield from tuple(link.holders)

    def now(self) -> float:
        """Return the time on the clock of the last connection."""
        return self.clock.now() if self.clock else -math.inf

    def forget(self, channel: str, group: str, purpose: Purpose) -> None:
        """Lose a group."""
        store = self.stores.get(place(channel, purpose, group))
        if store is not None:
            store.forget(group)

    def remove(self, channel: str, group: str) -> None:
        """Remove a group with its private channels."""
        self.forget(channel, group, Purpose.EVENTS)
        for purpose in (Purpose.RETRY, Purpose.DEAD):
            self.stores.pop(place(channel, purpose, group), None)

    def reset(self, keep: bool | None) -> None:
        """Lose what a killed server loses."""
        now = self.clock.time() if self.clock else 0.0
        self.stores = {at: store for at, store in self.stores.items() if store.survive(now, keep)}


def _made(kind: str, name: str, caps: Capabilities, config: MemoryConfig, options: Mapping[str, object]) -> Store:
    if kind == "lossy":
        return LossyStore(name, caps, buffer=config.buffer)
    if kind == "queue":
        return QueueStore(name, caps, messages=config.max_messages, size=config.max_bytes)
    partitions = options.get("partitions", config.partitions)
    if not isinstance(partitions, int) or partitions < 1:
        raise AdapterError(Fault.CONFIG, f"{name}: partitions is {partitions!r}, not a number from 1")
    return LogStore(name, caps, messages=config.max_messages, size=config.max_bytes, partitions=partitions)
