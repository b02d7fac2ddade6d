"""What a subscription holds and has not started: ready, behind the head of its key, or waiting for its time. No I/O."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from ._capabilities import Capabilities
from ._records import Delivery, Verdict

READY, LANED, PARKED, RUNNING, MOVING, SETTLING, GONE = range(7)
"""Where an item is: queued, behind its lane's head, waiting for its time, in a handler, being stored elsewhere, being
settled, no longer ours."""


class Owner(Protocol):
    """The source that an item came from, as far as its subscription needs it."""

    can: Capabilities
    """What its channel can do."""

    def settle(self, item: Item, verdict: Verdict, delay: float = 0.0) -> None:
        """Queue a settlement."""

    def noted(self, item: Item) -> None:
        """Have the adapter keep that the item failed, where it can."""


class Holder(Protocol):
    """Whom an item was given to: a subscription."""

    def drop(self, item: Item) -> None:
        """Forget an item that has not started."""

    def moved(self, item: Item, where: str, reason: str) -> None:
        """A move ended: the copy is stored in `where`, or nowhere (empty), since the original is not ours any more."""


class Item(msgspec.Struct, eq=False):
    """One delivery on its way through the process."""

    delivery: Delivery
    source: Owner
    holder: Holder
    attempt: int = 1
    certain: bool = True
    lane: str | None = None
    state: int = READY
    verdict: Verdict = Verdict.ACK
    delay: float = 0.0
    failure: Exception | None = None
    """Why it failed apart from the others of its batch, before the handler was called."""


class Lanes:
    """Ready items, key lanes and parked items. A lane's first item is its head; the others wait until it is done."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever an item became ready."""
        self._wake = wake
        self._ready: deque[Item] = deque()
        self._tails: dict[str, deque[Item]] = {}
        self._parked: list[tuple[float, int, Item]] = []
        self._order = itertools.count()

    def put(self, item: Item) -> bool:
        """Queue an arrival that has a lane; False if it is now the head, and may be parked by the caller."""
        assert item.lane is not None
        tail = self._tails.get(item.lane)
        if tail is None:
            self._tails[item.lane] = deque()
            return False
        item.state = LANED
        tail.append(item)
        return True

    def ready(self, item: Item) -> None:
        """Queue an item for the next worker."""
        item.state = READY
        self._ready.append(item)
        self._wake()

    def next(self) -> Item | None:
        """Return the next item to start."""
        ready = self._ready
        while ready:
            item = ready.popleft()
            if item.state == READY:
                return item
        return None

    def park(self, item: Item, until: float) -> None:
        """Keep an item until a moment on the client's clock; its lane, if any, waits with it."""
        item.state = PARKED
        heapq.heappush(self._parked, (until, next(self._order), item))

    def ripen(self, now: float) -> float | None:
        """Make ready what is due; return when the next is."""
        parked = self._parked
        while parked and (parked[0][0] <= now or parked[0][2].state != PARKED):
            item = heapq.heappop(parked)[2]
            if item.state == PARKED:
                item.state = READY
                self._ready.appendleft(item)
                self._wake()
        return parked[0][0] if parked else None

    def finished(self, item: Item) -> None:
        """Let the next of its lane become the head."""
        lane = item.lane
        if lane is None:
            return
        tail = self._tails[lane]
        while tail:
            head = tail.popleft()
            if head.state == LANED:
                self.ready(head)
                return
        del self._tails[lane]

    def drop(self, item: Item) -> None:
        """Forget an item that has not started."""
        was, item.state = item.state, GONE
        if was in (READY, PARKED):
            self.finished(item)

    def behind(self, item: Item) -> Iterator[Item]:
        """Return what waits behind a lane's head, the last first."""
        tail = self._tails.get(item.lane or "", ())
        return reversed([each for each in tail if each.state == LANED])

    def due(self, item: Item) -> float:
        """Return the moment until which an item is parked."""
        return next((until for until, _, each in self._parked if each is item), 0.0)

    @property
    def queued(self) -> int:
        """How many are ready or behind a head."""
        laned = sum(item.state == LANED for tail in self._tails.values() for item in tail)
        return laned + sum(item.state == READY for item in self._ready)

    @property
    def parked(self) -> int:
        """How many wait for their time."""
        return sum(item.state == PARKED for _, _, item in self._parked)

    def __repr__(self) -> str:
        return f"<Lanes queued={self.queued} parked={self.parked} keys={len(self._tails)}>"
