"""Tables, and how a file of an older version becomes one of this.

A message has the id ``channel * 2**40 + number``, what a group has in hand of it ``group * 2**40 + number``: so a
channel's messages and a group's rows lie side by side in the tree, in their order. A group's cursor is the last number
that it looked at. What it looked at and has not settled is a row of ``ductape_held``: whose it is, how often it was
taken, and from when on (microseconds since 1970) it may be taken, so that a lease, a delay, a retry and the recovery of
what a dead process held are one thing. Numbers of channels and groups are never given again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from ductape.adapter import AdapterError, Fault

__all__ = ["SHIFT", "STEPS", "WAITS", "prepare"]

SHIFT: Final = 1 << 40
"""Numbers of one channel, or of what one group holds."""
WAITS: Final = 1 << 62
"""Due at this: it waits behind another of its key."""

_FIRST: Final = """
CREATE TABLE ductape_meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE ductape_channel (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, purpose TEXT NOT NULL, owner TEXT NOT NULL,
    head INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0, UNIQUE (name, purpose, owner)
);
CREATE TABLE ductape_group (
    id INTEGER PRIMARY KEY AUTOINCREMENT, channel INTEGER NOT NULL REFERENCES ductape_channel, name TEXT NOT NULL,
    cursor INTEGER NOT NULL, ordering INTEGER NOT NULL DEFAULT 0, UNIQUE (channel, name)
);
CREATE TABLE ductape_message (
    id INTEGER PRIMARY KEY, stored_at INTEGER NOT NULL, key TEXT, headers TEXT, body BLOB NOT NULL, origin TEXT
);
CREATE TABLE ductape_held (
    id INTEGER PRIMARY KEY, grp INTEGER NOT NULL, due INTEGER NOT NULL, owner INTEGER, tries INTEGER NOT NULL, key BLOB
);
CREATE INDEX ductape_held_due ON ductape_held (grp, due);
CREATE INDEX ductape_held_key ON ductape_held (grp, key) WHERE key IS NOT NULL;
CREATE INDEX ductape_held_out ON ductape_held (grp, key) WHERE key IS NOT NULL AND owner IS NOT NULL;
CREATE TABLE ductape_later (
    id INTEGER PRIMARY KEY AUTOINCREMENT, channel INTEGER NOT NULL, due INTEGER NOT NULL,
    stored_at INTEGER NOT NULL, key TEXT, headers TEXT, body BLOB NOT NULL, origin TEXT
);
CREATE INDEX ductape_later_due ON ductape_later (channel, due);
CREATE TABLE ductape_listener (
    channel INTEGER NOT NULL, port INTEGER NOT NULL, seen INTEGER NOT NULL, PRIMARY KEY (channel, port)
) WITHOUT ROWID;
CREATE TRIGGER ductape_group_gone AFTER DELETE ON ductape_group
BEGIN
    DELETE FROM ductape_held WHERE grp = OLD.id;
END;
CREATE TRIGGER ductape_channel_gone AFTER DELETE ON ductape_channel
BEGIN
    DELETE FROM ductape_group WHERE channel = OLD.id;
    DELETE FROM ductape_later WHERE channel = OLD.id;
    DELETE FROM ductape_message WHERE id BETWEEN OLD.id * (1 << 40) AND (OLD.id + 1) * (1 << 40) - 1;
END;
CREATE VIEW ductape_publish (channel, body, headers, key) AS SELECT '', x'', NULL, NULL WHERE 0;
CREATE TRIGGER ductape_publish_insert INSTEAD OF INSERT ON ductape_publish
BEGIN
    SELECT raise(ABORT, 'ductape_publish: there is no such channel') WHERE NOT EXISTS
        (SELECT 1 FROM ductape_channel WHERE name = NEW.channel AND purpose = 'events');
    UPDATE ductape_channel SET head = head + 1,
        bytes = bytes + length(NEW.body) + coalesce(length(NEW.headers), 0)
        WHERE name = NEW.channel AND purpose = 'events';
    INSERT INTO ductape_message (id, stored_at, key, headers, body)
        SELECT id * (1 << 40) + head, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER),
            NEW.key, NEW.headers, NEW.body
        FROM ductape_channel WHERE name = NEW.channel AND purpose = 'events';
END;
"""

STEPS: Final = (_FIRST,)
"""What brings a file from version n to n + 1. Only ever added to."""


def prepare(db: sqlite3.Connection, create: bool, steps: Sequence[str] = STEPS) -> None:
    """Create or migrate what is ours in the file, in one transaction.

    Raises:
        AdapterError: ``CONFIG``: it is newer than we are, or would have to be written and may not be.
    """
    if _known(db, steps) == len(steps):
        return
    if not create:
        raise AdapterError(Fault.CONFIG, "the file holds no broker of this version, and nothing may be created here")
    db.execute("BEGIN IMMEDIATE")
    try:
        for step in steps[_known(db, steps) :]:  # another process may have been quicker
            for statement in _statements(step):
                db.execute(statement)
        db.execute("INSERT OR REPLACE INTO ductape_meta VALUES ('version', ?)", (len(steps),))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _known(db: sqlite3.Connection, steps: Sequence[str]) -> int:
    """Return the file's version; 0: nothing of ours is in it."""
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ductape_meta'").fetchone():
        return 0
    [version] = db.execute("SELECT value FROM ductape_meta WHERE name = 'version'").fetchone() or [0]
    if not isinstance(version, int) or version > len(steps):
        text = (
            f"the file is of version {version!r}, this adapter reads up to {len(steps)}: install a newer ductape-sqlite"
        )
        raise AdapterError(Fault.CONFIG, text)
    return version


def _statements(script: str) -> list[str]:
    """Return the statements of a script: `executescript` would commit."""
    found, text = [], ""
    for line in script.strip().splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            found.append(text)
            text = ""
    return found
