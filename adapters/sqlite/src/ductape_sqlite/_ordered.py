"""Order: which of a group's messages may be taken without overtaking another of their key.

What a group has looked at is held. Of each key some rows in front are out, or wait for their delay, and all behind them
wait (`WAITS`); if none is out the first one is due. A call takes several of a key at once, its run, and until all of
them are settled nobody gets another one of that key: neither another member nor the same. In total order all messages
have one key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from ductape.adapter import Order

from ._schema import SHIFT, WAITS

__all__ = ["candidates", "examine", "free", "note"]


def examine(db: sqlite3.Connection, channel: int, group: int, limit: int) -> bool:
    """Look at what is new: the first one of a free key is due, others wait. Return whether there is more."""
    base, shift = channel * SHIFT, (group - channel) * SHIFT
    [cursor, head, ordering] = db.execute(
        "SELECT g.cursor, c.head, g.ordering FROM ductape_group g JOIN ductape_channel c ON c.id = g.channel"
        " WHERE g.id = ?",
        (group,),
    ).fetchone()
    if ordering == Order.TOTAL and _held(db, group):
        return False
    key = "x''" if ordering == Order.TOTAL else "CAST(key AS BLOB)"
    last = min(head, cursor + limit)
    db.execute(
        f"""
        INSERT INTO ductape_held (id, grp, due, tries, key)
        SELECT id + ?1, ?2,
            iif(lane IS NULL OR (place = 1 AND NOT EXISTS
                (SELECT 1 FROM ductape_held h WHERE h.grp = ?2 AND h.key = lane)), 0, ?3), 0, lane
        FROM (SELECT id, lane, row_number() OVER (PARTITION BY lane ORDER BY id) AS place
            FROM (SELECT id, {key} AS lane FROM ductape_message WHERE id > ?4 AND id <= ?5))
        ORDER BY id
        """,
        (shift, group, WAITS, base + cursor, base + last),
    )
    db.execute("UPDATE ductape_group SET cursor = ? WHERE id = ?", (last, group))
    return bool(last < head)


def _held(db: sqlite3.Connection, group: int) -> bool:
    return db.execute("SELECT 1 FROM ductape_held WHERE grp = ? LIMIT 1", (group,)).fetchone() is not None


def candidates(db: sqlite3.Connection, group: int, room: int, now: int) -> list[int]:
    """Return ids that may be taken: of each key that is free its first ones, as many as there is room for all keys."""
    due = db.execute(
        "SELECT id, key FROM ductape_held WHERE grp = ? AND due <= ? ORDER BY due, id LIMIT ?", (group, now, room)
    ).fetchall()
    found = [id for id, key in due if key is None]
    keys = dict.fromkeys(key for _, key in due if key is not None)
    if keys:
        _note(db, keys)
        found += _runs(db, group, (room - len(found)) // len(keys), now)
    return found


def _runs(db: sqlite3.Connection, group: int, share: int, now: int) -> list[int]:
    """Return the first ones of each noted key, unless one of it is out or its first waits for a delay."""
    # What is due is nobody's any more: a lease that ended, a delay that is over, or simply the first.
    db.execute(
        "UPDATE ductape_held SET owner = NULL, due = ? WHERE grp = ? AND due <= ? AND key IN temp.ductape_keys",
        (WAITS, group, now),
    )
    rows = db.execute(
        "SELECT k.key, r.id, r.due FROM temp.ductape_keys k CROSS JOIN ductape_held r ON r.id IN"
        " (SELECT h.id FROM ductape_held h WHERE h.grp = ?1 AND h.key = k.key ORDER BY h.id LIMIT ?2)"
        f" WHERE NOT EXISTS ({_OUT}) ORDER BY k.key, r.id",
        (group, share),
    ).fetchall()
    runs, closed = [], set()
    for key, id, due in rows:
        if due != WAITS:
            closed.add(key)
        elif key not in closed:
            runs.append(id)
    return runs


_OUT = "SELECT 1 FROM ductape_held o WHERE o.grp = ?1 AND o.key = k.key AND o.key IS NOT NULL AND o.owner IS NOT NULL"


def _note(db: sqlite3.Connection, keys: Iterable[bytes]) -> None:
    db.execute("DELETE FROM temp.ductape_keys")
    db.executemany("INSERT INTO temp.ductape_keys VALUES (?)", [(key,) for key in keys])


def note(db: sqlite3.Connection, owner: int, ids: str) -> None:
    """Note the keys of rows (a JSON array of ids) that this owner has, or nobody, for `free`."""
    db.execute("DELETE FROM temp.ductape_keys")
    db.execute(
        "INSERT INTO temp.ductape_keys SELECT DISTINCT key FROM ductape_held WHERE key IS NOT NULL"
        " AND coalesce(owner, ?1) = ?1 AND id IN (SELECT value FROM json_each(?2))",
        (owner, ids),
    )


def free(db: sqlite3.Connection, group: int) -> bool:
    """Let the first one of each noted key that nobody has be due. Return whether there is something to take."""
    promoted = db.execute(
        "UPDATE ductape_held SET due = 0 WHERE due = ?2 AND id IN"
        " (SELECT (SELECT h.id FROM ductape_held h WHERE h.grp = ?1 AND h.key = k.key ORDER BY h.id LIMIT 1)"
        f" FROM temp.ductape_keys k WHERE NOT EXISTS ({_OUT}))",
        (group, WAITS),
    ).rowcount
    # In total order what comes next was not looked at.
    return promoted > 0 or db.execute("SELECT 1 FROM temp.ductape_keys WHERE key = x''").fetchone() is not None
