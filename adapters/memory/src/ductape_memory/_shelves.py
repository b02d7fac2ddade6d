"""In which order a queue hands out what waits: as it lies, or one key in one member's hands at a time."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Protocol

import msgspec

from ductape.adapter import Delivery

from ._wire import Entry

__all__ = ["Item", "Keyed", "Lane", "Plain", "Shelf", "Turn"]


class Item(msgspec.Struct, eq=False):
    """One message as one group sees it."""

    entry: Entry
    rank: int
    """Its place in the stored order of the group."""
    count: int = 0
    due: float = 0.0
    """Not visible before."""
    until: float = 0.0
    """The end of its lease."""
    since: float = 0.0
    """When its first lease of this delivery began."""
    out: Delivery | None = None
    """The delivery that is out: only this very one can be settled."""
    lane: Lane | None = None


Turn = deque["Lane"]
"""Lanes that one member, or anybody, may take from next."""


class Lane:
    """What waits of one key, and in whose hands the key is."""

    __slots__ = ("back", "call", "fresh", "key", "out", "owner", "place")

    def __init__(self, key: Hashable) -> None:
        """Begin an empty lane."""
        self.key = key
        self.fresh: deque[Item] = deque()
        self.back: list[tuple[int, Item]] = []
        """What was out already: earlier than everything fresh."""
        self.owner: Turn | None = None
        """The turn of the member that has the key."""
        self.out = 0
        self.call: object = None
        """The call that took of it last."""
        self.place: Turn | None = None
        """Where it stands in line; an older place that is still in some line does not count."""

    def pop(self, now: float) -> Item | None:
        """Take the head, unless there is none or it is not due: then nothing behind it may overtake it."""
        if self.back:
            return heapq.heappop(self.back)[1] if self.back[0][1].due <= now else None
        return self.fresh.popleft() if self.fresh else None

    def __len__(self) -> int:
        return len(self.back) + len(self.fresh)


class Shelf(Protocol):
    """What waits for the members of a group. What is delayed is kept by the group until it is due."""

    ordered: bool
    total: bool

    def add(self, item: Item, /) -> None:
        """Lay down a new message, behind all others."""

    def put_back(self, item: Item, /) -> None:
        """Lay down a message that was out, in its place."""

    def put_off(self, item: Item, /) -> None:
        """Lay down a message that failed; it may have to wait until it is due."""

    def arrive(self, item: Item, /) -> None:
        """Make visible what was delayed and is due now."""

    def done(self, item: Item, /) -> None:
        """Forget a message that was out."""

    def take(self, turn: Turn, limit: int, now: float) -> list[Item]:
        """Hand out up to `limit` messages to the member with this turn."""

    def items(self) -> Iterator[Item]:
        """Go through everything on the shelf."""


class Plain:
    """Any member gets any message: handed-back ones first, then as stored; failed ones wait at the end."""

    ordered = False
    total = False

    def __init__(self) -> None:
        """Begin empty."""
        self._ready: deque[Item] = deque()
        self._back: list[tuple[int, Item]] = []
        self.add: Callable[[Item], None] = self._ready.append
        self.arrive: Callable[[Item], None] = self._ready.append

    def put_back(self, item: Item) -> None:
        heapq.heappush(self._back, (item.rank, item))

    def put_off(self, item: Item) -> None:
        if not item.due:
            self._ready.append(item)

    def done(self, item: Item) -> None:
        pass

    def take(self, turn: Turn, limit: int, now: float) -> list[Item]:
        taken: list[Item] = []
        while self._back and len(taken) < limit:
            taken.append(heapq.heappop(self._back)[1])
        next_ready = self._ready.popleft
        taken += [next_ready() for _ in range(min(limit - len(taken), len(self._ready)))]
        return taken

    def items(self) -> Iterator[Item]:
        yield from (item for _, item in self._back)
        yield from self._ready


class Keyed:
    """The messages of one key are handed out as stored, to one member at a time; keyless ones to anybody."""

    ordered = True

    def __init__(self, total: bool, locks: bool = False) -> None:
        """Begin empty; `total` makes all messages one key, `locks` keeps a key back while some of it is out."""
        self.total, self.locks = total, locks
        self._lanes: dict[Hashable, Lane] = {}
        self._free: Turn = deque()

    def add(self, item: Item) -> None:
        lane = item.lane = self._lane(item)
        lane.fresh.append(item)
        if lane.place is None:
            self._enqueue(lane)

    def put_back(self, item: Item) -> None:
        lane = self._return(item)
        heapq.heappush(lane.back, (item.rank, item))
        self._enqueue(lane)

    put_off = put_back

    def arrive(self, item: Item) -> None:
        if item.lane is None:
            self.add(item)
        else:
            self._enqueue(item.lane)

    def done(self, item: Item) -> None:
        lane = self._return(item)
        if lane:
            self._enqueue(lane)
        elif not lane.out:
            self._lanes.pop(lane.key, None)

    def take(self, turn: Turn, limit: int, now: float) -> list[Item]:
        """Take one message a lane, from this member's lanes and free ones by turns, so that no key fills it all."""
        taken: list[Item] = []
        mine = False
        while len(taken) < limit and (turn or self._free):
            mine = not mine
            line = turn if (mine and turn) or not self._free else self._free
            lane = line.popleft()
            if lane.place is not line:
                continue
            lane.place = None
            if self.locks and lane.out and lane.call is not taken:
                continue  # it is laid out again when the last of it comes back
            lane.call = taken
            item = lane.pop(now)
            if item is None:
                continue
            lane.owner = turn
            lane.out += 1
            taken.append(item)
            if lane:
                self._enqueue(lane)
        return taken

    def items(self) -> Iterator[Item]:
        for lane in self._lanes.values():
            yield from (item for _, item in lane.back)
            yield from lane.fresh

    def _lane(self, item: Item) -> Lane:
        key = item.entry.key
        name: Hashable = "" if self.total else (item.rank,) if key is None else key
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(name)
        return lane

    def _return(self, item: Item) -> Lane:
        """Take a message out of its owner's hands; it may be out since before there was an order."""
        if item.lane is None:
            item.lane = self._lane(item)
            return item.lane
        lane = item.lane
        lane.out -= 1
        if not lane.out:
            lane.owner = None
        return lane

    def _enqueue(self, lane: Lane) -> None:
        line = self._free if lane.owner is None else lane.owner
        if lane.place is not line:
            lane.place = line
            line.append(lane)
