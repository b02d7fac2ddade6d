"""Stores records: what one call brings is one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ductape.adapter import AdapterError, Channel, Fault, Limits, Order, Outgoing, Purpose, Sender, Stored

from ._log import listeners, missing, store, store_later, trim
from ._wire import Row, fault_of, microseconds, oversize, row_of, shown

if TYPE_CHECKING:
    from ._connection import SqliteConnection

__all__ = ["SqliteSender"]

Answer = Stored | AdapterError

TRIM = 500
"""Messages stored between two looks at what a channel keeps."""


class SqliteSender(Sender):
    """Appends to one channel."""

    def __init__(self, connection: SqliteConnection, channel: Channel, number: int) -> None:
        """Prepare; the channel is there."""
        self._connection, self._channel, self._number = connection, channel, number
        self._place = shown(channel)
        self._clock = connection.site.clock
        self._ordered = channel.order is not Order.NONE
        self._total = channel.order is Order.TOTAL
        self._copies = channel.purpose is Purpose.RETRY
        self._untrimmed = TRIM  # the first call looks
        self._closed = False
        self.limits = Limits(records=1000, bytes=8_000_000, calls=1, seconds=10.0)

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Answer]:
        """Store the records in one transaction; one answer each."""
        if self._closed:
            raise AdapterError(Fault.LOST, "the sender is closed")
        answers: list[Answer] = [Stored()] * len(records)
        now = microseconds(self._clock.time())
        places, rows, late = self._sorted(records, now, answers)
        self._untrimmed += len(rows)
        trimming = self._untrimmed >= TRIM

        def act(db: sqlite3.Connection) -> tuple[int, list[int], list[int]]:
            last = store(db, self._number, rows)
            if last is None:
                raise missing(self._channel)
            numbers = [store_later(db, self._number, due, row) for _, due, row in late]
            if trimming:
                trim(db, self._number, self._connection.retention(self._channel), now)
            return last, numbers, listeners(db, self._number)

        if rows or late:
            last, numbers, ports = await self._connection.file.write(act)
            if trimming:
                self._untrimmed = 0
            self._connection.bell.ring(self._number, ports)
            prefix = self._place + "@"
            for place, number in zip(places, range(last - len(rows) + 1, last + 1), strict=True):
                answers[place] = Stored(f"{prefix}{number}")
            for (place, _, _), number in zip(late, numbers, strict=True):
                answers[place] = Stored(f"{prefix}later-{number}")
        return answers

    def _sorted(
        self, records: Sequence[Outgoing], now: int, answers: list[Answer]
    ) -> tuple[list[int], list[Row], list[tuple[int, int, Row]]]:
        """Return what is stored now and what later, each with its place; the answers of what is refused are given."""
        places: list[int] = []
        rows: list[Row] = []
        late: list[tuple[int, int, Row]] = []
        failed: set[str | None] = set()
        for place, record in enumerate(records):
            key = "" if self._total else record.key
            if failed and key in failed:
                answers[place] = AdapterError(Fault.TRANSIENT, "an earlier record of the same key was not stored")
                continue
            row = self._row(record, now)
            if isinstance(row, AdapterError):
                answers[place] = row
                if self._ordered and key is not None:
                    failed.add(key)
            elif record.delay > 0:
                late.append((place, microseconds(self._clock.time(), record.delay), row))
            else:
                places.append(place)
                rows.append(row)
        return places, rows, late

    def _row(self, record: Outgoing, now: int) -> Row | AdapterError:
        reason = oversize(record)
        if reason:
            return AdapterError(Fault.MESSAGE, reason)
        try:
            return row_of(record, now, keep_origin=self._copies)
        except (TypeError, ValueError) as error:
            return fault_of(error)

    async def close(self) -> None:
        """Close; idempotent."""
        self._closed = True

    def __repr__(self) -> str:
        return f"<SqliteSender {self._place}{' closed' if self._closed else ''}>"
