"""What happens to a group inside a transaction: joining, taking, settling, extending. Runs on the file's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from ductape.adapter import AdapterError, Fault, Order

from ._log import move_due
from ._ordered import candidates, examine, free, note
from ._schema import SHIFT, WAITS

__all__ = [
    "Back",
    "Look",
    "Spot",
    "Taken",
    "create_group",
    "extend",
    "group_of",
    "lag",
    "look",
    "raise_order",
    "settle",
    "take",
]

FULL = 16 * 1024 * 1024
"""Bytes of bodies after which a call hands over no more: a large window is not to fill the memory at once."""

_COLUMNS = "m.stored_at, m.key, m.headers, m.body, m.origin"


Rows = list[tuple[int, int, tuple[Any, ...]]]
"""Number, how often it was taken, and the row."""


class Spot(NamedTuple):
    """One member of a group."""

    channel: int
    group: int
    owner: int
    """A random number that nobody else has: what is held under it is this member's."""


class Look(NamedTuple):
    """What there is for a group."""

    head: int
    """The number of the last message."""
    cursor: int
    """The last one that the group looked at."""
    ordering: Order
    due: int
    """From when on something else may be taken, in microseconds since 1970."""


class Taken(NamedTuple):
    """What a call took."""

    rows: Rows
    due: int
    """When something else may be taken."""
    more: bool = False
    """There is more to look at, at once."""


class Back(NamedTuple):
    """One message that goes back."""

    id: int
    due: int
    tried: int
    """1 if this time counts."""


def group_of(db: sqlite3.Connection, channel: int, name: str) -> int | None:
    """Return the number of a group, or None."""
    row = db.execute("SELECT id FROM ductape_group WHERE channel = ? AND name = ?", (channel, name)).fetchone()
    return None if row is None else row[0]


def create_group(db: sqlite3.Connection, channel: int, name: str, begin: float | None) -> int:
    """Return the number of a group; a new one begins with what was stored at `begin` (None: with the next)."""
    known = group_of(db, channel, name)
    if known is None:
        db.execute(
            "INSERT INTO ductape_group (channel, name, cursor) VALUES (?, ?, ?)",
            (channel, name, _before(db, channel, begin)),
        )
        known = group_of(db, channel, name)
        assert known is not None
    return known


def _before(db: sqlite3.Connection, channel: int, begin: float | None) -> int:
    """Return the last number that was stored before an instant. Messages lie in the order of their storing."""
    base = channel * SHIFT
    [head] = db.execute("SELECT head FROM ductape_channel WHERE id = ?", (channel,)).fetchone()
    [first] = db.execute(
        "SELECT min(id) FROM ductape_message WHERE id BETWEEN ? AND ?", (base, base + SHIFT - 1)
    ).fetchone()
    if begin is None or first is None:
        last: int = head
        return last
    low, high = first - base, head + 1
    while low < high and begin > 0:
        middle = (low + high) // 2
        row = db.execute(
            "SELECT stored_at FROM ductape_message WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 1",
            (base + middle, base + head),
        ).fetchone()
        if row is not None and row[0] < begin * 1e6:
            low = middle + 1
        else:
            high = middle
    return int(low) - 1


def raise_order(db: sqlite3.Connection, spot: Spot, order: Order) -> None:
    """Have a group keep an order from now on, if it keeps less."""
    done = db.execute(
        "UPDATE ductape_group SET ordering = ? WHERE id = ? AND ordering < ?", (order, spot.group, order)
    ).rowcount
    if done and order is Order.TOTAL:
        db.execute("UPDATE ductape_held SET key = x'' WHERE grp = ?", (spot.group,))
    elif done:
        db.execute(
            "UPDATE ductape_held AS h SET key ="
            " (SELECT CAST(m.key AS BLOB) FROM ductape_message m WHERE m.id = h.id + ?) WHERE h.grp = ?",
            ((spot.channel - spot.group) * SHIFT, spot.group),
        )


def look(db: sqlite3.Connection, spot: Spot) -> Look:
    """Look what there is for a group; it may be locked for us, though, or wait behind another of its key.

    Raises:
        AdapterError: ``LOST``: the group is gone.
    """
    row = db.execute(
        "SELECT c.head, g.cursor, g.ordering,"
        " (SELECT min(due) FROM ductape_held WHERE grp = g.id),"
        " (SELECT min(due) FROM ductape_later WHERE channel = c.id)"
        " FROM ductape_group g JOIN ductape_channel c ON c.id = g.channel WHERE g.id = ? AND c.id = ?",
        (spot.group, spot.channel),
    ).fetchone()
    if row is None:
        raise AdapterError(Fault.LOST, "the group is not there any more")
    due = min(WAITS if when is None else when for when in row[3:])
    return Look(row[0], row[1], Order(row[2]), due)


def take(db: sqlite3.Connection, spot: Spot, room: int, clock: Callable[[], int], lease: int) -> Taken:
    """Take what may be taken: first what came back, then what is new."""
    now = clock()
    move_due(db, spot.channel, now)
    seen, until = look(db, spot), clock() + lease
    if seen.ordering is not Order.NONE:
        rows, more = _take_ordered(db, spot, room, now, until)
        return Taken(rows, look(db, spot).due, more and not rows)
    rows = _lease(db, spot, _again(db, spot, room, now), until)
    room -= len(rows)
    if room > 0 and seen.head > seen.cursor and _size(rows) < FULL:
        rows += _fresh(db, spot, seen, room, until)
    return Taken(rows, look(db, spot).due)


def _size(rows: Rows) -> int:
    return sum(len(row[3]) for _, _, row in rows)


def _again(db: sqlite3.Connection, spot: Spot, room: int, now: int) -> list[int]:
    """Return ids of what was released, delayed, or held for too long."""
    found = db.execute(
        "SELECT id FROM ductape_held WHERE grp = ? AND due <= ? ORDER BY due, id LIMIT ?", (spot.group, now, room)
    )
    return [row[0] for row in found]


def _take_ordered(db: sqlite3.Connection, spot: Spot, room: int, now: int, until: int) -> tuple[Rows, bool]:
    """Take what may be taken without overtaking anything; return whether there is more to look at."""
    rows = _lease(db, spot, candidates(db, spot.group, room, now), until)
    more, seen = False, look(db, spot)
    if len(rows) < room and seen.head > seen.cursor:
        more = examine(db, spot.channel, spot.group, max(room, 500))
        rows += _lease(db, spot, candidates(db, spot.group, room - len(rows), now), until)
    return rows, more


def _lease(db: sqlite3.Connection, spot: Spot, ids: Sequence[int], until: int) -> Rows:
    """Lease rows that are held already, and return them with their messages."""
    if not ids:
        return []
    base, shift = spot.group * SHIFT, (spot.channel - spot.group) * SHIFT
    found = db.execute(
        f"SELECT h.id, h.tries, m.id, {_COLUMNS} FROM json_each(?) j JOIN ductape_held h ON h.id = j.value"
        " LEFT JOIN ductape_message m ON m.id = h.id + ? ORDER BY j.key",
        (_list(ids), shift),
    )
    rows, taken, gone, size = [], [], [], 0
    for id, tries, message, *row in found:
        if message is None:  # somebody deleted it
            gone.append((id,))
            continue
        rows.append((id - base, tries + 1, tuple(row)))
        taken.append(id)
        size += len(row[3])
        if size >= FULL:
            break
    found.close()
    short = len(taken) < len(ids)
    if short:
        note(db, spot.owner, _list(set(ids).difference(taken)))
    db.executemany("DELETE FROM ductape_held WHERE id = ?", gone)
    db.execute(
        "UPDATE ductape_held SET owner = ?, due = ?, tries = tries + 1 WHERE id IN (SELECT value FROM json_each(?))",
        (spot.owner, until, _list(taken)),
    )
    if short:
        free(db, spot.group)
    return rows


def _fresh(db: sqlite3.Connection, spot: Spot, seen: Look, room: int, until: int) -> Rows:
    """Take what the group has not looked at yet."""
    base = spot.channel * SHIFT
    after, head = base + seen.cursor, base + seen.head
    found = db.execute(
        f"SELECT m.id, {_COLUMNS} FROM ductape_message m WHERE m.id > ? AND m.id <= ? ORDER BY m.id LIMIT ?",
        (after, head, room),
    )
    rows, size, last = [], 0, head
    for id, *row in found:
        rows.append((id - base, 1, tuple(row)))
        size += len(row[3])
        if len(rows) == room or size >= FULL:
            last = id
            break
    found.close()
    db.execute(
        "INSERT INTO ductape_held (id, grp, due, owner, tries)"
        " SELECT id + ?, ?, ?, ?, 1 FROM ductape_message WHERE id > ? AND id <= ? ORDER BY id",
        ((spot.group - spot.channel) * SHIFT, spot.group, until, spot.owner, after, last),
    )
    db.execute("UPDATE ductape_group SET cursor = ? WHERE id = ?", (last - base, spot.group))
    return rows


def _list(ids: Iterable[int]) -> str:
    """Return ids as one value to bind: one statement for all of them is one turn of the interpreter's lock."""
    return msgspec.json.encode(list(ids)).decode()


def _not_ours(db: sqlite3.Connection, spot: Spot, ids: str) -> set[int]:
    found = db.execute(
        "SELECT j.value FROM json_each(?) j LEFT JOIN ductape_held h ON h.id = j.value AND h.owner = ?"
        " WHERE h.id IS NULL",
        (ids, spot.owner),
    )
    return {row[0] for row in found}


def settle(db: sqlite3.Connection, spot: Spot, done: Collection[int], back: Sequence[Back]) -> tuple[set[int], bool]:
    """Settle what is ours.

    Args:
        db: The connection.
        spot: Whose.
        done: Ids that are acknowledged.
        back: What goes back.

    Returns:
        The ids that are not ours, and whether other members may find something now.
    """
    ids = _list([*done, *(one.id for one in back)])
    lost = _not_ours(db, spot, ids)
    [ordering] = db.execute("SELECT ordering FROM ductape_group WHERE id = ?", (spot.group,)).fetchone() or [0]
    if ordering:
        note(db, spot.owner, ids)
    if done:
        db.execute(
            "DELETE FROM ductape_held WHERE owner = ? AND id IN (SELECT value FROM json_each(?))",
            (spot.owner, _list(done)),
        )
    # What has a key waits for its turn; a delay holds up its key.
    db.executemany(
        "UPDATE ductape_held SET owner = NULL, due = iif(key IS NULL OR ?1 > 0, ?1, ?2), tries = tries - 1 + ?3"
        " WHERE id = ?4 AND owner = ?5",
        [(one.due, WAITS, one.tried, one.id, spot.owner) for one in back],
    )
    freed = bool(ordering) and free(db, spot.group)
    return lost, freed or bool(back)


def extend(db: sqlite3.Connection, spot: Spot, ids: Collection[int], until: int) -> set[int]:
    """Renew the leases of what is ours; return the ids that are not."""
    text = _list(ids)
    lost = _not_ours(db, spot, text)
    db.execute(
        "UPDATE ductape_held SET due = max(due, ?) WHERE owner = ? AND id IN (SELECT value FROM json_each(?))",
        (until, spot.owner, text),
    )
    return lost


def lag(db: sqlite3.Connection, spot: Spot, now: int) -> int:
    """Return how many messages the group has not been given."""
    seen = look(db, spot)
    [waiting] = db.execute(
        "SELECT count(*) FROM ductape_held WHERE grp = ? AND due IN (0, ?) AND tries = 0", (spot.group, WAITS)
    ).fetchone()
    [due] = db.execute(
        "SELECT count(*) FROM ductape_later WHERE channel = ? AND due <= ?", (spot.channel, now)
    ).fetchone()
    count: int = seen.head - seen.cursor + waiting + due
    return count
