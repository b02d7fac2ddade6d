"""Storing records."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

from ductape.adapter import Capabilities, Channel, Clock, Limits, Order, Outgoing, Purpose, Sender, Stored
from ductape.errors import AdapterError, Fault

from ._log import LogStore
from ._rules import Rules
from ._store import Store, lost
from ._wire import limited, oversize

__all__ = ["MemorySender"]


class MemorySender(Sender):
    """Stores records on one channel."""

    def __init__(
        self,
        store: Store,
        channel: Channel,
        caps: Capabilities,
        clock: Clock,
        rules: Rules,
        alive: Callable[[], None],
    ) -> None:
        """Open.

        Args:
            store: Where records go.
            channel: The channel that was asked for; another than the store's where RETRY joins EVENTS.
            caps: What holds for it.
            clock: The clock of the site.
            rules: What is set to go wrong.
            alive: Raises if the connection is dead.
        """
        self._store, self._caps, self._clock, self._rules, self._alive = store, caps, clock, rules, alive
        self._order = min(channel.order, caps.order)
        self._limited = limited(caps)
        self._only = channel.group if channel.purpose is Purpose.RETRY and caps.retry_joins else None
        self._closed = False
        if isinstance(store, LogStore):
            self.limits = Limits(calls=len(store.partitions))

    def lane(self, record: Outgoing) -> Hashable | None:
        """Return the partition of this record; None where any will do, or where there are none."""
        return self._store.lane(record.key) if isinstance(self._store, LogStore) else None

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Stored | AdapterError]:
        """Store the records; one answer each."""
        rules = self._rules
        rules.calls["send"] += 1
        self._usable()
        if not rules.armed:
            return self._put(records)
        return await rules.around("send", self._clock, lambda: self._put(records), len(records))

    async def close(self) -> None:
        """Close; idempotent."""
        self._rules.calls["close"] += 1
        if not self._closed:
            self._closed = True
            if self._rules.armed:
                await self._rules.gate("close", self._clock)

    def _usable(self) -> None:
        self._alive()
        if self._closed:
            raise lost("the sender is closed")

    def _put(self, records: Sequence[Outgoing]) -> list[Stored | AdapterError]:
        self._usable()  # once more: a stalled call may have outlived its connection
        store, clock, only, now = self._store, self._clock, self._only, self._clock.time()
        longest = self._caps.send_delay
        late = longest != math.inf and any(record.delay > longest for record in records)
        if late or self._limited or self._order is not Order.NONE or self._rules.poisons:
            answers = self._put_carefully(records, now)
        else:
            put = store.put
            answers = [put(record, clock, now, only) for record in records]
        store.ring()
        return answers

    def _put_carefully(self, records: Sequence[Outgoing], now: float) -> list[Stored | AdapterError]:
        """Refuse what can never be stored; store nothing of a key behind what was not stored of it."""
        answers: list[Stored | AdapterError] = []
        failed: set[str | None] = set()
        total = self._order is Order.TOTAL
        for record in records:
            key = "" if total else record.key
            if key in failed:
                answers.append(AdapterError(Fault.TRANSIENT, "an earlier record of the same key was not stored"))
                continue
            answer = self._one(record, now)
            if isinstance(answer, AdapterError) and self._order is not Order.NONE and key is not None:
                failed.add(key)
            answers.append(answer)
        return answers

    def _one(self, record: Outgoing, now: float) -> Stored | AdapterError:
        reason = oversize(record, self._caps) if self._limited else ""
        if record.delay > self._caps.send_delay:
            reason = f"a delay of {record.delay:g} s; the channel delays {self._caps.send_delay:g} s at most"
        if reason:
            return AdapterError(Fault.MESSAGE, reason)
        poison = self._rules.poisoned(record) if self._rules.poisons else None
        if poison is None:
            return self._store.put(record, self._clock, now, self._only)
        error, stored = poison
        if stored:
            self._store.put(record, self._clock, now, self._only)
        return error

    def __repr__(self) -> str:
        return f"<MemorySender {self._store.name}{' closed' if self._closed else ''}>"
