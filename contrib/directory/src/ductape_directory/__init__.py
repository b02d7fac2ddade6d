"""The directory adapter of ductape: a channel is a directory, a group a directory in it, a message a file.

Read the modules in this order: `_config`, `_wire`, `_connection`, `_sender`, `_receiver`.
"""

from __future__ import annotations

import asyncio
import math

import msgspec

from ductape.adapter import Adapter, Capabilities, Connection, Count, Durability, Groups, Site

from ._config import DirectoryConfig
from ._wire import LARGEST, YEAR, Run

__all__ = ["DirectoryAdapter", "DirectoryConfig"]


class DirectoryAdapter(Adapter[DirectoryConfig]):
    """Events as files, for processes that share a file system."""

    api = 1
    config = DirectoryConfig
    channel_field = "channel"
    group_field = "group"
    capabilities = Capabilities(
        durability=Durability.STORED,
        groups=Groups.MANY,
        count=Count.EXACT,
        lease=30.0,
        lease_total=math.inf,
        retry_delay=YEAR,
        send_delay=YEAR,
        max_message=LARGEST,
    )

    def __init__(self, run: Run = asyncio.to_thread) -> None:
        """Files block, so they are used in threads; `run` is what tests put in between."""
        self._run = run

    async def connect(self, config: DirectoryConfig, site: Site) -> Connection:
        """Make sure that the directory is there."""
        from ._connection import DirectoryConnection  # a client library would be imported there, and only when used

        durability = Durability.STORED if config.sync else Durability.BUFFERED
        can = msgspec.structs.replace(self.capabilities, durability=durability, lease=config.lease)
        connection = DirectoryConnection(config, site, can, self._run)
        await connection.open()
        return connection
