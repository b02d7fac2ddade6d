"""The SQLite adapter of ductape: a durable broker in one file, shared by the processes of a machine."""

from __future__ import annotations

import math

from ductape.adapter import Adapter, Capabilities, Connection, Count, Durability, Groups, Order, Site

from ._config import SqliteConfig

__all__ = ["SqliteAdapter", "SqliteConfig"]


class SqliteAdapter(Adapter[SqliteConfig]):
    """Events in an SQLite file: a log for each channel, and a cursor with leases for each group."""

    api = 1
    config = SqliteConfig
    channel_field = "channel"
    group_field = "group"
    capabilities = Capabilities(
        durability=Durability.STORED,
        groups=Groups.MANY,
        order=Order.TOTAL,
        count=Count.EXACT,
        history=True,
        lease=30.0,
        lease_total=math.inf,
        order_locks=True,
        retry_delay=math.inf,
        send_delay=math.inf,
        max_body=64 * 1024 * 1024,
        max_message=64 * 1024 * 1024,
    )

    async def connect(self, config: SqliteConfig, site: Site) -> Connection:
        """Open the file, and create or migrate what is ours in it.

        Args:
            config: Which file, and how it is used.
            site: Where this adapter finds itself.

        Returns:
            The connection, with a thread of its own.

        Raises:
            AdapterError: ``CONFIG`` for what only an operator can mend (no right to write, a damaged file or one of
                a newer version), ``TRANSIENT`` if another process has locked it for too long.
        """
        from ._connection import SqliteConnection  # sqlite3 is loaded only when it is used

        return await SqliteConnection.open(config, site)
