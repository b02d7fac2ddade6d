"""The broker itself: the channels of one name, shared by all connections of one event loop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from weakref import WeakKeyDictionary

from ductape.adapter import Outgoing, Purpose
from ductape.errors import AdapterError

from ._faults import Faults
from ._rules import Rules
from ._state import State, place
from ._store import Store
from ._wire import Entry

__all__ = ["MemoryBroker"]


class MemoryBroker:
    """What a server would be: channels, groups and messages. Bound to one event loop, not thread-safe.

    Attributes:
        name: What configurations call it.
        faults: What it is to do wrong.
        state: What it knows; for the adapter.
        rules: What is set to go wrong; for the adapter.
    """

    def __init__(self, name: str = "default") -> None:
        """Start empty. Connections find a broker by `of`."""
        self.name = name
        self.state = State()
        self.rules = Rules()
        self.faults = Faults(self.state, self.rules)

    @classmethod
    def of(cls, name: str = "default") -> MemoryBroker:
        """Return the broker of this name in the running event loop; each loop has its own, empty at first."""
        for closed in [loop for loop in _BROKERS if loop.is_closed()]:
            del _BROKERS[closed]
        return _BROKERS.setdefault(asyncio.get_running_loop(), {}).setdefault(name, cls(name))

    def depth(self, channel: str, group: str = "", purpose: Purpose = Purpose.EVENTS) -> int:
        """Return how many messages a group has not settled: waiting, delayed and out.

        Args:
            channel: The name of the channel that applications publish to.
            group: The group; for RETRY and DEAD the one that the channel belongs to.
            purpose: What the channel is for.
        """
        store = self.state.stores.get(place(channel, purpose, group))
        return 0 if store is None else store.unsettled(group, idle=True)

    def messages(self, channel: str, group: str | None = None, purpose: Purpose = Purpose.EVENTS) -> list[Entry]:
        """Return what is stored on a channel, as stored; with a group, what it has not settled.

        Args:
            channel: The name of the channel that applications publish to.
            group: The group; for RETRY and DEAD the one that the channel belongs to.
            purpose: What the channel is for.
        """
        store = self.state.stores.get(place(channel, purpose, group or ""))
        return [] if store is None else store.entries(group)

    def pending(self, *, idle: bool = False) -> int:
        """Return how many messages are not settled, dead letters aside.

        Args:
            idle: Count groups that have no receiver, too.
        """
        return sum(store.unsettled(None, idle) for store in self._working())

    def next_due(self, *, idle: bool = False) -> float | None:
        """Return the instant on the clock at which a delayed or leased message becomes visible; None: there is none.

        Args:
            idle: Count groups that have no receiver, too.
        """
        due = min((store.next_due(idle) for store in self._working()), default=math.inf)
        return None if due == math.inf else due

    def put(
        self,
        channel: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        key: str | None = None,
        purpose: Purpose = Purpose.EVENTS,
        group: str = "",
    ) -> str:
        """Store a message as a foreign producer would, and return its position.

        Raises:
            KeyError: There is no such channel.
            AdapterError: It is full.
        """
        store, clock = self.state.stores[place(channel, purpose, group)], self.state.clock
        assert clock is not None
        answer = store.put(Outgoing(body, headers or {}, "", key), clock, clock.time(), raw=True)
        store.ring()
        if isinstance(answer, AdapterError):
            raise answer
        return answer.position

    def _working(self) -> Iterator[Store]:
        return (store for (_, purpose, _), store in self.state.stores.items() if purpose is not Purpose.DEAD)

    def __repr__(self) -> str:
        return f"<MemoryBroker {self.name} channels={len(self.state.stores)} connections={len(self.state.links)}>"


_BROKERS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, MemoryBroker]] = WeakKeyDictionary()
