"""The RabbitMQ adapter of ductape: one exchange, a queue for every group, confirmed publishing."""

from __future__ import annotations

from ductape.adapter import Adapter, Capabilities, Connection, Count, Durability, Groups, Order, Site, Tls

from ._config import RabbitMQConfig

__all__ = ["RabbitMQAdapter", "RabbitMQConfig", "Tls"]

LONGEST_DELAY = float(2**22)
"""Seconds, 48 days: RabbitMQ's own bound on expirations is 2 ** 32 milliseconds."""


class RabbitMQAdapter(Adapter[RabbitMQConfig]):
    """Events on a topic exchange; every group is a durable queue that is bound to it."""

    api = 1
    config = RabbitMQConfig
    channel_field = "routing_key"
    group_field = "queue"
    capabilities = Capabilities(
        durability=Durability.STORED,
        groups=Groups.MANY,
        order=Order.TOTAL,
        count=Count.APPROXIMATE,
        lease=1800.0,
        lease_total=1800.0,
        lease_shared=True,
        retry_joins=True,
        send_delay=LONGEST_DELAY,
        max_body=128 * 1024 * 1024,
    )

    async def connect(self, config: RabbitMQConfig, site: Site) -> Connection:
        """Connect, authenticate, and read the server's version.

        Args:
            config: Where the server is.
            site: Where this adapter finds itself.

        Returns:
            The connection.

        Raises:
            AdapterError: ``CONFIG`` for what only an operator can mend, ``TRANSIENT`` if the server is away.
        """
        from ._connection import RabbitMQConnection  # the client library is loaded only when it is used

        return await RabbitMQConnection.open(config, site)
