"""What is open on one partition of a log: the moving mark, and what a crash would otherwise forget."""

from __future__ import annotations

import base64
from collections import deque

import msgspec

from ._epoch import Epoch
from ._records import Delivery

_Notes = list[tuple[int, int, float]]
_Runs = list[tuple[int, int]]


class Window:
    """The unsettled records of one assignment of one partition.

    A log settles by a mark: everything below it is done. Deliveries are settled in any order, so the window keeps what
    is open and tells how far the mark may move. Its `metadata` carries, beside the mark, what was settled above it and
    how often open records failed, cut to what the broker stores (Kafka: 4096 bytes); what is cut is only run again.

    Attributes:
        epoch: The assignment.
        limit: Records that may be open at a time.
    """

    __slots__ = ("_done", "_held", "_next", "_notes", "_open", "_skip", "epoch", "limit")

    def __init__(self, epoch: Epoch, committed: int, metadata: str = "", limit: int = 1000) -> None:
        """Begin at a committed offset.

        Args:
            epoch: The assignment that this window belongs to.
            committed: The first offset that is not settled.
            metadata: What `metadata` returned when that offset was committed.
            limit: Records that may be open at a time.
        """
        self.epoch, self.limit = epoch, limit
        self._next = committed
        self._open: deque[int] = deque()
        self._done: set[int] = set()
        self._held: dict[int, Delivery] = {}
        self._notes: dict[int, tuple[int, float]] = {}
        self._skip: set[int] = set()
        if metadata:
            self._restore(metadata)

    @property
    def full(self) -> bool:
        """Too much is open behind an unfinished record: leave the partition out of the next poll."""
        return len(self._open) >= self.limit

    @property
    def mark(self) -> int:
        """The first offset that is not finished: what to commit. Gaps in the log do not matter."""
        return self._open[0] if self._open else self._next

    def take(self, offset: int, delivery: Delivery) -> bool:
        """Open a record; False if it was settled before a crash or rebalance and is to be left out."""
        self._next = offset + 1
        if offset in self._skip:
            self._skip.discard(offset)
            if self._open:
                self._open.append(offset)
                self.done(offset)
            return False
        delivery.failed, due = self._notes.pop(offset, (0, 0.0))
        delivery.due = due or None
        self._held[offset] = delivery
        self._open.append(offset)
        return True

    def done(self, offset: int) -> None:
        """Settle a record. Idempotent."""
        self._held.pop(offset, None)
        opened, done = self._open, self._done
        if not opened or offset < opened[0]:
            return
        if offset != opened[0]:
            done.add(offset)
            return
        opened.popleft()
        while opened and opened[0] in done:
            done.remove(opened.popleft())

    def metadata(self, room: int = 4000) -> str:
        """Return what is to be stored beside the mark, in at most `room` bytes of ASCII; empty if there is nothing."""
        mark = self.mark
        notes: _Notes = [
            (offset - mark, held.failed, round(held.due or 0.0, 1))
            for offset, held in self._held.items()
            if held.failed
        ]
        notes += [(offset - mark, failed, due) for offset, (failed, due) in self._notes.items() if offset >= mark]
        notes.sort()
        runs = self._runs(mark)
        while notes or runs:
            text = base64.b85encode(msgspec.msgpack.encode((notes, runs))).decode()
            if len(text) <= room:
                return text
            notes, runs = notes[: len(notes) * 3 // 4], runs[: len(runs) * 3 // 4]
        return ""

    def _runs(self, mark: int) -> _Runs:
        """Settled offsets above the mark, as (distance from the end of the last run, length)."""
        runs: list[list[int]] = []
        last = mark
        for offset in sorted(self._done | self._skip):
            if offset < mark:
                continue
            if runs and offset == last:
                runs[-1][1] += 1
            else:
                runs.append([offset - last, 1])
            last = offset + 1
        return [(gap, length) for gap, length in runs]

    def _restore(self, metadata: str) -> None:
        """Read what an earlier owner wrote; anything that is not ours is as good as nothing."""
        try:
            notes, runs = msgspec.msgpack.decode(base64.b85decode(metadata), type=tuple[_Notes, _Runs])
        except (ValueError, msgspec.MsgspecError):
            return
        at = self._next
        for gap, length in runs:
            self._skip.update(range(at + gap, at + gap + length))
            at += gap + length
        self._notes = {self._next + offset: (failed, due) for offset, failed, due in notes}

    def __repr__(self) -> str:
        return f"<Window {self.epoch.label} mark={self.mark} open={len(self._open)} done={len(self._done)}>"
