"""A connection: one file, its thread, and its bell."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TypeVar

import msgspec

from ductape.adapter import (
    AdapterError,
    Capabilities,
    Channel,
    Connection,
    Durability,
    Fault,
    Intake,
    Purpose,
    Removable,
    Site,
)

from . import SqliteAdapter
from ._bell import Bell
from ._config import SqliteConfig
from ._file import File
from ._group import Spot, create_group, group_of, raise_order
from ._log import Retention, channel_of, create_channel
from ._receiver import SqliteReceiver
from ._sender import SqliteSender
from ._wire import begins_at, shown

__all__ = ["SqliteConnection"]

T = TypeVar("T")

NOTHING = Retention(0, None, None)


class SqliteConnection(Connection, Removable):
    """Opens senders and receivers, and declares channels and groups.

    Attributes:
        config: How the file is used.
        site: Where we are.
        file: The file.
        bell: Wakes who waits.
    """

    def __init__(self, config: SqliteConfig, site: Site) -> None:
        """Describe a connection; `open` opens it."""
        self.config, self.site = config, site
        self.bell = Bell()
        self.file = File(config, site, self.bell.ring_all)
        self._receivers: list[SqliteReceiver] = []
        self._native: sqlite3.Connection | None = None

    @classmethod
    async def open(cls, config: SqliteConfig, site: Site) -> SqliteConnection:
        """Open the file."""
        connection = cls(config, site)
        await connection.file.open()
        return connection

    def capabilities(self, channel: Channel) -> Capabilities:
        """Return what holds under this config."""
        stored = self.config.synchronous in ("full", "extra")
        return msgspec.structs.replace(
            SqliteAdapter.capabilities,
            durability=Durability.STORED if stored else Durability.BUFFERED,
            lease=self.config.lease,
        )

    def retention(self, channel: Channel) -> Retention:
        """Return what a channel keeps; the private ones have no history."""
        if channel.purpose is not Purpose.EVENTS:
            return NOTHING
        return Retention(self.config.max_length, self.config.max_bytes, self.config.max_age)

    async def declare(self, channel: Channel) -> None:
        """Create the channel and its group, or verify them."""
        await self._declare(channel, channel.group, channel.start)

    async def _declare(self, channel: Channel, group: str, start: str | None) -> tuple[int, int]:
        begin = begins_at(start)

        def find(db: sqlite3.Connection) -> tuple[int, int] | None:
            number = channel_of(db, channel)
            if number is None:
                return None
            found = group_of(db, number, group) if group else 0
            return None if found is None else (number, found)

        def make(db: sqlite3.Connection) -> tuple[int, int]:
            number = create_channel(db, channel)
            return number, create_group(db, number, group, begin) if group else 0

        if self.site.create:
            return await self.file.write(make, peek=find)
        known = await self.file.read(find)
        if known is None:
            text = f"{shown(channel)!r} or its group {group!r} is missing, and may not be created here"
            raise AdapterError(Fault.CONFIG, text)
        return known

    async def sender(self, channel: Channel) -> SqliteSender:
        """Open a sender."""
        number = await self.file.read(lambda db: channel_of(db, channel))
        if number is None:
            raise AdapterError(Fault.LOST, f"channel {shown(channel)!r} is not there")
        return SqliteSender(self, channel, number)

    async def receiver(self, channel: Channel, intake: Intake) -> SqliteReceiver:
        """Open a receiver and join the group; a private channel has one group, that which it belongs to."""
        group = intake.group if channel.purpose is Purpose.EVENTS else channel.group
        numbers = await self._declare(channel, group, intake.start if intake.start is not None else channel.start)
        order = max(channel.order, intake.order)
        if order:
            await self.file.write(lambda db: raise_order(db, Spot(*numbers, 0), order))
        await self.bell.open()
        self.file.watching = True
        receiver = SqliteReceiver(self, channel, intake, numbers)
        self._receivers.append(receiver)
        return receiver

    def left(self, receiver: SqliteReceiver) -> None:
        """Forget a receiver that closed."""
        if receiver in self._receivers:
            self._receivers.remove(receiver)
        self.file.watching = bool(self._receivers)

    async def remove(self, channel: Channel) -> None:
        """Delete the group and its private channels; triggers delete what is theirs."""
        of = (channel.name, channel.group)

        def delete(db: sqlite3.Connection) -> None:
            there = "SELECT id FROM ductape_channel WHERE name = ? AND purpose = 'events'"
            db.execute(f"DELETE FROM ductape_group WHERE channel = ({there}) AND name = ?", of)
            db.execute("DELETE FROM ductape_channel WHERE name = ? AND owner = ? AND purpose <> 'events'", of)

        await self.file.write(delete)

    async def check(self) -> None:
        """Look into the file."""
        await self.file.read(lambda db: db.execute("SELECT 1 FROM ductape_meta").fetchone())

    async def close(self) -> None:
        """Close the receivers, then the file; idempotent."""
        await asyncio.gather(*(receiver.close() for receiver in self._receivers))
        self.bell.close()
        if self._native is not None:
            self._native.close()
            self._native = None
        await self.file.close()

    def unwrap(self, kind: type[T]) -> T:
        """Return a `sqlite3.Connection` to the same file, of its own, for one thread at a time."""
        if not issubclass(sqlite3.Connection, kind):
            return super().unwrap(kind)
        if self._native is None:
            # `close` closes it, on whatever thread it was asked for.
            self._native = sqlite3.connect(self.file.path, timeout=self.config.busy_timeout, check_same_thread=False)
        native: T = self._native  # type: ignore[assignment]  # it is of this type: see above
        return native

    def __repr__(self) -> str:
        return f"<SqliteConnection {self.file!r} receivers={len(self._receivers)}>"
