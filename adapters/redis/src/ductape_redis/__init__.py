"""The Redis adapter of ductape: streams with consumer groups, and publish/subscribe."""

from __future__ import annotations

import math

from ductape.adapter import Adapter, Capabilities, Connection, Count, Durability, Groups, Order, Site, Tls

from ._config import RedisConfig

__all__ = ["RedisAdapter", "RedisConfig", "Tls"]

YEAR = 365 * 86_400.0


class RedisAdapter(Adapter[RedisConfig]):
    """Events on Redis streams (the default), or on its publish/subscribe channels, which keep nothing."""

    api = 1
    config = RedisConfig
    channel_field = "channel"
    group_field = "group"
    capabilities = Capabilities(
        durability=Durability.STORED,
        groups=Groups.MANY,
        order=Order.NONE,
        count=Count.APPROXIMATE,
        history=True,
        lease=30.0,
        lease_total=math.inf,
        retry_joins=True,
        retry_delay=YEAR,
        send_delay=YEAR,
        max_headers=1000,
        max_body=512 * 1024 * 1024,
        max_message=512 * 1024 * 1024,
    )

    async def connect(self, config: RedisConfig, site: Site) -> Connection:
        """Connect, authenticate, and read how durable the server is.

        Args:
            config: Where the server is.
            site: Where this adapter finds itself.

        Returns:
            The connection.

        Raises:
            AdapterError: ``CONFIG`` for what only an operator can mend, ``TRANSIENT`` if the server is away.
        """
        from ._connection import RedisConnection  # the client library is loaded only when it is used

        return await RedisConnection.open(config, site)
