"""What happens to a channel inside a transaction: storing, delays that end, retention. Runs on the file's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from ductape.adapter import AdapterError, Channel, Fault

from ._schema import SHIFT
from ._wire import Row, place_of, shown

__all__ = [
    "Retention",
    "channel_of",
    "create_channel",
    "listeners",
    "missing",
    "move_due",
    "store",
    "store_later",
    "trim",
]

MOST = 2000
"""Messages that one call moves or drops, so that no transaction is long."""

_INSERT = "INSERT INTO ductape_message (id, stored_at, key, headers, body, origin) VALUES (?, ?, ?, ?, ?, ?)"
_INSERT_LATER = (
    "INSERT INTO ductape_later (channel, due, stored_at, key, headers, body, origin) VALUES (?, ?, ?, ?, ?, ?, ?)"
)


class Retention(msgspec.Struct, frozen=True):
    """How much settled history a channel keeps."""

    length: int | None
    bytes: int | None
    age: float | None


def channel_of(db: sqlite3.Connection, channel: Channel) -> int | None:
    """Return the number of a channel, or None."""
    row = db.execute(
        "SELECT id FROM ductape_channel WHERE name = ? AND purpose = ? AND owner = ?", place_of(channel)
    ).fetchone()
    return None if row is None else row[0]


def create_channel(db: sqlite3.Connection, channel: Channel) -> int:
    """Return the number of a channel, which is created if it is missing."""
    known = channel_of(db, channel)
    if known is not None:
        return known
    db.execute("INSERT INTO ductape_channel (name, purpose, owner) VALUES (?, ?, ?)", place_of(channel))
    created = channel_of(db, channel)
    assert created is not None
    return created


def missing(channel: Channel) -> AdapterError:
    """Return what is raised when a channel that was there is gone; the kernel declares it again."""
    return AdapterError(Fault.LOST, f"channel {shown(channel)!r} is not there any more")


def store(db: sqlite3.Connection, channel: int, rows: Sequence[Row]) -> int | None:
    """Append rows; return the number of the last one, None if the channel is gone."""
    size = sum(len(row[3]) + len(row[2]) for row in rows)
    found = db.execute(
        "UPDATE ductape_channel SET head = head + ?, bytes = bytes + ? WHERE id = ? RETURNING head",
        (len(rows), size, channel),
    ).fetchall()
    if not found:
        return None
    last: int = found[0][0]
    first = channel * SHIFT + last - len(rows) + 1
    db.executemany(_INSERT, [(number, *row) for number, row in enumerate(rows, first)])
    return last


def store_later(db: sqlite3.Connection, channel: int, due: int, row: Row) -> int:
    """Keep a row that is to be appended when it is due; return its number among those."""
    number = db.execute(_INSERT_LATER, (channel, due, *row)).lastrowid
    assert number is not None
    return number


def move_due(db: sqlite3.Connection, channel: int, now: int) -> int:
    """Append what is due: it takes its place in the order now, behind what was stored before. Return how many."""
    found = db.execute(
        "SELECT id, stored_at, key, headers, body, origin, length(body) + coalesce(length(headers), 0)"
        " FROM ductape_later"
        " WHERE channel = ? AND due <= ? ORDER BY due, id LIMIT ?",
        (channel, now, MOST),
    ).fetchall()
    if not found:
        return 0
    size = sum(row[6] for row in found)
    [[last]] = db.execute(
        "UPDATE ductape_channel SET head = head + ?, bytes = bytes + ? WHERE id = ? RETURNING head",
        (len(found), size, channel),
    ).fetchall()
    first = channel * SHIFT + last - len(found) + 1
    # Texts came as bytes, whatever they are; the casts store them as the same texts.
    db.executemany(
        "INSERT INTO ductape_message (id, stored_at, key, headers, body, origin)"
        " VALUES (?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?, CAST(? AS TEXT))",
        [(number, *row[1:6]) for number, row in enumerate(found, first)],
    )
    db.executemany("DELETE FROM ductape_later WHERE id = ?", [row[:1] for row in found])
    return len(found)


def trim(db: sqlite3.Connection, channel: int, keep: Retention, now: int) -> int:
    """Drop the oldest settled messages that exceed what is kept, some at a time. Return how many."""
    base = channel * SHIFT
    found = db.execute(
        "SELECT head, bytes, (SELECT min(id) FROM ductape_message WHERE id BETWEEN ?2 AND ?2 + ?3)"
        " FROM ductape_channel WHERE id = ?1",
        (channel, base, SHIFT - 1),
    ).fetchone()
    if found is None or found[2] is None:
        return 0
    head, size, first = found[0], found[1], found[2] - base
    settled = min([head, *(_settled(db, *row) for row in _groups(db, channel))])
    last = _last(db, base, (first, settled), keep, size, now)
    if last < first:
        return 0
    [dropped, bytes_] = db.execute(
        "SELECT count(*), coalesce(sum(length(body) + coalesce(length(headers), 0)), 0)"
        " FROM ductape_message WHERE id BETWEEN ? AND ?",
        (base + first, base + last),
    ).fetchone()
    db.execute("DELETE FROM ductape_message WHERE id BETWEEN ? AND ?", (base + first, base + last))
    db.execute("UPDATE ductape_channel SET bytes = bytes - ? WHERE id = ?", (bytes_, channel))
    count: int = dropped
    return count


def _groups(db: sqlite3.Connection, channel: int) -> list[tuple[int, int]]:
    return db.execute("SELECT id, cursor FROM ductape_group WHERE channel = ?", (channel,)).fetchall()


def _settled(db: sqlite3.Connection, group: int, cursor: int) -> int:
    """Return up to which number a group has settled everything."""
    base = group * SHIFT
    [oldest] = db.execute(
        "SELECT min(id) FROM ductape_held WHERE id BETWEEN ? AND ?", (base, base + SHIFT - 1)
    ).fetchone()
    return cursor if oldest is None else oldest - base - 1


def _last(db: sqlite3.Connection, base: int, span: tuple[int, int], keep: Retention, size: int, now: int) -> int:
    """Return the number up to which messages are dropped; below `span`: none are."""
    first, settled = span
    settled = min(settled, first + MOST - 1)
    last = first - 1
    if keep.length is not None:
        last = max(last, min(settled, span[1] - keep.length))
    if keep.bytes is None and keep.age is None:
        return last
    oldest = 0 if keep.age is None else now - int(keep.age * 1e6)
    sizes = db.execute(
        "SELECT id, stored_at, length(body) + coalesce(length(headers), 0)"
        " FROM ductape_message WHERE id BETWEEN ? AND ? ORDER BY id",
        (base + first, base + settled),
    ).fetchall()
    for number, stored_at, length in sizes:
        if number - base > last and stored_at >= oldest and (keep.bytes is None or size <= keep.bytes):
            break
        last = max(last, number - base)
        size -= length
    return last


def listeners(db: sqlite3.Connection, channel: int) -> list[int]:
    """Return the ports of those who wait for what is stored on a channel."""
    return [row[0] for row in db.execute("SELECT port FROM ductape_listener WHERE channel = ?", (channel,))]
