"""A file of its own for every test, and short words for the contract."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from ductape.adapter import (
    AdapterError,
    Channel,
    Clock,
    Delivery,
    Intake,
    Outgoing,
    Purpose,
    Settlement,
    Site,
    Verdict,
)
from ductape_sqlite import SqliteAdapter, SqliteConfig
from ductape_sqlite._connection import SqliteConnection
from ductape_sqlite._receiver import SqliteReceiver


class Now:
    """The clock of the system, as far as an adapter needs it."""

    ahead = 0.0

    def now(self) -> float:
        return time.monotonic() + self.ahead

    def time(self) -> float:
        return time.time() + self.ahead

    def call_later(self, delay: float, callback: Any, *args: object) -> Any:
        return asyncio.get_running_loop().call_later(delay, callback, *args)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)


class World:
    """One file, and whoever uses it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.path, self.stack, self.clock = folder / "events.db", stack, Now()

    def site(self, create: bool = True) -> Site:
        clock: Clock = self.clock
        return Site(product="p", env="e", broker="b", clock=clock, log=logging.getLogger("test"), create=create)

    async def connect(self, *, create: bool = True, **config: Any) -> SqliteConnection:
        config.setdefault("path", str(self.path))
        found = await SqliteAdapter().connect(SqliteConfig(**config), self.site(create))
        assert isinstance(found, SqliteConnection)
        self.stack.push_async_callback(found.close)
        return found

    @staticmethod
    def channel(group: str = "billing", **fields: Any) -> Channel:
        return Channel(name="orders", group=group, **fields)

    @staticmethod
    def record(text: str, key: str | None = None, **fields: Any) -> Outgoing:
        return Outgoing(text.encode(), {"ductape-id": text}, text, key, **fields)

    async def send(self, connection: SqliteConnection, *records: Outgoing | str, **fields: Any) -> Sequence[Any]:
        channel = self.channel(**fields)
        await connection.declare(channel)
        sender = await connection.sender(channel)
        return await sender.send([self.record(one) if isinstance(one, str) else one for one in records])

    async def receiver(
        self, connection: SqliteConnection, group: str = "billing", window: int = 100, **fields: Any
    ) -> SqliteReceiver:
        start = fields.pop("start", None)
        channel = self.channel(group, **fields)
        return await connection.receiver(channel, Intake(group=group, window=window, order=channel.order, start=start))

    @staticmethod
    async def settle(receiver: SqliteReceiver, verdict: Verdict, *deliveries: Delivery, delay: float = 0.0) -> None:
        answers = await receiver.settle([Settlement(one, verdict, delay) for one in deliveries])
        assert not any(answers), answers

    async def ack(self, receiver: SqliteReceiver, *deliveries: Delivery) -> None:
        await self.settle(receiver, Verdict.ACK, *deliveries)

    @staticmethod
    def bodies(deliveries: Sequence[Delivery]) -> list[str]:
        return [one.body.decode() for one in deliveries]

    def sql(self, statement: str, *values: Any) -> list[Any]:
        db = sqlite3.connect(self.path, isolation_level=None, timeout=5.0)
        try:
            return db.execute(statement, values).fetchall()
        finally:
            db.close()

    def stored(self) -> list[str]:
        found = self.sql("SELECT body FROM ductape_message ORDER BY id")
        return [body.decode() for (body,) in found]

    RETRY, DEAD = Purpose.RETRY, Purpose.DEAD
    Error = AdapterError


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(tmp_path, stack)
