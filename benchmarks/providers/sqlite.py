"""A file: plain SQL in a thread, as an application without a broker would write its queue, and ductape."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from . import HEADERS, Provider, Raw, Ways, Work

OURS, THEIRS = "ductape.db", "raw.db"
COUNT = 100


class SqliteRaw(Raw):
    """The standard library's sqlite3, in a thread of its own, at the same settings: WAL, synchronous full."""

    ways = Ways(
        publish="INSERT and COMMIT, each awaited",
        publish_bulk="transactions of 1,000 INSERT",
        consume="SELECT of 100, one DELETE and COMMIT a message",
        consume_bulk="SELECT of 1,000, one transaction of DELETE a read",
    )

    async def open(self, callers: int) -> None:
        """Open the file in its thread."""
        self.thread = ThreadPoolExecutor(1)
        await self.run(self._open)

    def _open(self) -> None:
        self.db = sqlite3.connect(Path(self.url, THEIRS), isolation_level=None)
        for pragma in ("journal_mode = wal", "synchronous = full"):
            self.db.execute(f"PRAGMA {pragma}")

    def run(self, call: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        """Have the thread do it."""
        return asyncio.get_running_loop().run_in_executor(self.thread, call, *arguments)

    async def close(self) -> None:
        """Close file and thread."""
        await self.run(self.db.close)
        self.thread.shutdown()

    async def declare(self) -> None:
        """Create the table that is the queue of the one group."""
        await self.run(
            self.db.execute, "CREATE TABLE IF NOT EXISTS raw (number INTEGER PRIMARY KEY, headers TEXT, body BLOB)"
        )

    def publish(self, body: bytes, id: str) -> Awaitable[object]:
        """Insert a row."""
        return self.run(self._insert, [(body, id)])

    def publish_bulk(self, messages: Sequence[tuple[bytes, str]]) -> Awaitable[object]:
        """Insert rows in one transaction."""
        return self.run(self._insert, messages)

    def _insert(self, messages: Sequence[tuple[bytes, str]]) -> None:
        rows = [(msgspec.json.encode({"id": id, **HEADERS}).decode(), body) for body, id in messages]
        self.db.execute("BEGIN IMMEDIATE")
        self.db.executemany("INSERT INTO raw (headers, body) VALUES (?, ?)", rows)
        self.db.execute("COMMIT")

    async def consume(self, work: Work) -> None:
        """Delete each when it was handled."""
        await self._consume(work, COUNT, each=True)

    async def consume_bulk(self, work: Work) -> None:
        """Delete those of a read together."""
        await self._consume(work, 1000, each=False)

    async def _consume(self, work: Work, count: int, *, each: bool) -> None:
        while work.ledger.handled < work.messages:
            rows = await self.run(self._read, count)
            if not rows:
                await asyncio.sleep(0.005)
            for number, body in rows:
                await work.handle(work.decode(body))
                if each:
                    await self.run(self._delete, [(number,)])
            if not each and rows:
                await self.run(self._delete, [(number,) for number, _ in rows])

    def _read(self, count: int) -> list[tuple[int, bytes]]:
        return self.db.execute("SELECT number, body FROM raw ORDER BY number LIMIT ?", (count,)).fetchall()

    def _delete(self, numbers: Sequence[tuple[int]]) -> None:
        self.db.execute("BEGIN IMMEDIATE")
        self.db.executemany("DELETE FROM raw WHERE number = ?", numbers)
        self.db.execute("COMMIT")

    async def empty(self) -> None:
        """Empty the tables of both files."""
        await self.run(self._empty)

    def _empty(self) -> None:
        self.db.execute("DROP TABLE IF EXISTS raw")
        with _at(self.url, OURS) as ours:
            known = ours.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ductape_channel'").fetchone()
            ours.execute("DELETE FROM ductape_channel" if known else "SELECT 1")
        ours.close()

    async def stored(self) -> int | None:
        """Count the rows of both."""
        return await self.run(self._count, "ductape_message")

    async def left(self) -> int | None:
        """Count what is not settled: rows of the table, and what the group has not deleted or looked at."""
        return await self.run(self._count, "")

    def _count(self, table: str) -> int:
        raw = self.db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'raw'").fetchone()[0]
        total: int = self.db.execute("SELECT count(*) FROM raw").fetchone()[0] if raw else 0
        ours = _at(self.url, OURS)
        try:
            if ours.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ductape_channel'").fetchone():
                text = f"SELECT count(*) FROM {table}" if table else _LEFT
                total += ours.execute(text).fetchone()[0]
        finally:
            ours.close()
        return total


_LEFT = (
    "SELECT coalesce(sum(c.head - g.cursor + (SELECT count(*) FROM ductape_held WHERE grp = g.id)), 0)"
    " FROM ductape_group g JOIN ductape_channel c ON c.id = g.channel"
)


def _at(folder: str, name: str) -> sqlite3.Connection:
    return sqlite3.connect(Path(folder, name), timeout=10.0)


class Sqlite(Provider):
    """The durable broker in a file: no server."""

    distribution = "ductape-sqlite"
    type = "SQLITE"
    settings = f"SQLite {sqlite3.sqlite_version}, `synchronous` full for all: one fsync a transaction"
    raw = SqliteRaw

    def config(self, url: str) -> dict[str, Any]:
        """Put the file into the folder of the run, and keep all: a run is counted in the end."""
        return {"path": str(Path(url, OURS)), "maxLength": None}


PROVIDER = Sqlite()
