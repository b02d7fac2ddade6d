"""The records of one partition of a log."""

from __future__ import annotations

import math
from bisect import bisect_left

from ._wire import Entry

__all__ = ["Partition"]


class Partition:
    """Records by offset, from `first` on."""

    __slots__ = ("_base", "entries", "first", "index")

    def __init__(self, index: int) -> None:
        """Begin empty."""
        self.index = index
        self.entries: list[Entry | None] = []
        self.first = 0
        self._base = 0

    @property
    def end(self) -> int:
        """The offset of the next record."""
        return self._base + len(self.entries)

    def append(self, entry: Entry) -> int:
        """Store a record and return its offset."""
        self.entries.append(entry)
        return self._base + len(self.entries) - 1

    def read(self, offset: int, limit: int) -> list[Entry]:
        """Return up to `limit` records from this offset on, which is not before `first`."""
        at = offset - self._base
        return [entry for entry in self.entries[at : at + limit] if entry is not None]

    def evict(self) -> Entry:
        """Drop the first record and return it."""
        at = self.first - self._base
        entry = self.entries[at]
        assert entry is not None
        self.entries[at] = None
        self.first += 1
        if at >= 1024 and at * 2 > len(self.entries):
            del self.entries[: at + 1]
            self._base = self.first
        return entry

    def truncate(self, moment: float) -> list[Entry]:
        """Drop what was stored at `moment` or later, from its end, and return it."""
        dropped: list[Entry] = []
        while self.end > self.first and (last := self.entries[-1]) is not None and last.stored_at >= moment:
            self.entries.pop()
            dropped.append(last)
        return dropped

    def since(self, moment: float) -> int:
        """Return the offset of the first record stored at `moment` or later."""
        if moment == math.inf:
            return self.end
        at = bisect_left(self.entries, moment, key=lambda entry: -1.0 if entry is None else entry.stored_at)
        return max(self.first, self._base + at)
