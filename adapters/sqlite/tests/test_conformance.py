"""The SQLite adapter keeps every promise that it makes."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ductape.adapter import Adapter, AdapterError, Connection, Fault
from ductape_conformance import Harness, VirtualClock, random_suite, suite
from ductape_sqlite import SqliteAdapter, SqliteConfig
from ductape_sqlite._connection import SqliteConnection
from ductape_sqlite._file import File, _Job


class Observed(SqliteAdapter):
    """Keeps what it connected, so that all of it can be broken."""

    def __init__(self, connections: list[SqliteConnection]) -> None:
        self._connections = connections

    async def connect(self, config: SqliteConfig, site: Any) -> Connection:
        connection = await super().connect(config, site)
        assert isinstance(connection, SqliteConnection)
        self._connections.append(connection)
        return connection


class Sqlite(Harness):
    """A file of its own. A process that locks it stalls it; what kills a process leaves handles that nobody closed."""

    adapter = "sqlite"
    server = f"SQLite {sqlite3.sqlite_version}"
    redelivery_bound = 2.5
    lease = 1.5

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.connections: list[SqliteConnection] = []
        self.other: sqlite3.Connection | None = None

    async def config(self, namespace: str) -> Mapping[str, Any]:
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.path = Path(folder, "events.db")
        return {"path": str(self.path), "lease": self.lease, "busyTimeout": 1.0}

    def make(self) -> Adapter[Any]:
        return Observed(self.connections)

    async def cut(self) -> None:
        for connection in [one for one in self.connections if not one.file.closed]:
            await connection.file.read(lambda db: db.close())  # and every call after it fails

    async def stall(self) -> None:
        await self.lock("BEGIN IMMEDIATE")

    async def resume(self) -> None:
        self.unlock()

    async def kill(self) -> None:
        for connection in self.connections:
            await self.crash(connection)
        await self.lock("PRAGMA locking_mode = exclusive", "BEGIN EXCLUSIVE")

    async def restart(self) -> None:
        self.unlock()

    async def lock(self, *statements: str) -> None:
        self.other = sqlite3.connect(self.path, isolation_level=None, timeout=0.0)
        self.stack.callback(self.unlock)
        while not self.other.in_transaction:
            try:
                for statement in statements:
                    self.other.execute(statement)
            except sqlite3.OperationalError:
                await asyncio.sleep(0.001)

    def unlock(self) -> None:
        if self.other is not None:
            self.other.close()
            self.other = None

    async def crash(self, connection: Connection) -> None:
        assert isinstance(connection, SqliteConnection)
        connection.bell.close()
        await connection.file.close()

    async def forget(self, channel: str, group: str) -> None:
        db = sqlite3.connect(self.path)
        db.execute("DELETE FROM ductape_group WHERE name = ?", (group,))
        db.commit()
        db.close()


class Inline(File):
    """Does everything on the loop, so that time may jump whenever nothing else happens."""

    away = False

    async def open(self) -> None:
        self.gone()
        self.db = self._open()

    def _job(self, *args: Any, **options: Any) -> Any:
        if self.closed:
            raise AdapterError(Fault.LOST, "the connection is closed")
        job = _Job(*args, options.get("durable", False), time.monotonic() + 1.0)
        self.gone()
        before = self.changes()
        self._round(self.db, [job])
        if self.changes() > before:
            self._changed()
        return job

    def changes(self) -> int:
        try:
            return self.db.total_changes
        except sqlite3.ProgrammingError:  # the connection was cut
            return 0

    def gone(self) -> None:
        if Inline.away:
            raise AdapterError(Fault.TRANSIENT, "the disk is away")

    def _tell(self, call: Callable[[], None]) -> None:
        call()

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.db.close()


class InlineAdapter(Observed):
    """Its connections ring for one another: there are no other processes."""

    async def connect(self, config: SqliteConfig, site: Any) -> Connection:
        connection = SqliteConnection(config, site)
        connection.file = Inline(config, site, self.ring)
        connection.bell.open = self.deaf  # type: ignore[method-assign]  # no port: time would wait for it
        await connection.file.open()
        self._connections.append(connection)
        return connection

    async def deaf(self) -> None:
        pass

    def ring(self) -> None:
        for connection in self._connections:
            connection.bell.ring_all()


class Jumping(Sqlite):
    """The same file in virtual time: hours take milliseconds."""

    lease = 30.0
    redelivery_bound = 40.0

    def clock(self) -> VirtualClock:
        return VirtualClock()

    def make(self) -> Adapter[Any]:
        return InlineAdapter(self.connections)

    async def kill(self) -> None:
        Inline.away = True
        self.stack.callback(self.back)
        for connection in self.connections:
            await self.crash(connection)

    async def restart(self) -> None:
        self.back()

    def back(self) -> None:
        Inline.away = False


test_sqlite = suite(Sqlite)
test_jumping = suite(Jumping, only=("retry.", "kernel.", "lanes.", "lease.", "bounds.", "outages.a", "stop."))
test_random = random_suite(Jumping, examples=60)
