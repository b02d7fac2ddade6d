"""The NATS adapter of ductape: JetStream with durable consumers, and core subjects."""

from __future__ import annotations

import math

from ductape.adapter import Adapter, Capabilities, Connection, Count, Durability, Groups, Order, Site, Tls

from ._config import NatsConfig

__all__ = ["NatsAdapter", "NatsConfig", "Tls"]

YEAR = 365 * 86_400.0


class NatsAdapter(Adapter[NatsConfig]):
    """Events on JetStream (the default), or on core subjects, which keep nothing."""

    api = 1
    config = NatsConfig
    channel_field = "subject"
    group_field = "group"
    capabilities = Capabilities(
        durability=Durability.STORED,
        groups=Groups.MANY,
        order=Order.TOTAL,
        count=Count.APPROXIMATE,
        history=True,
        confirmed_ack=False,
        lease=30.0,
        lease_total=math.inf,
        retry_delay=YEAR,
        max_message=64 * 1024 * 1024,
    )

    async def connect(self, config: NatsConfig, site: Site) -> Connection:
        """Connect and authenticate.

        Args:
            config: Where the servers are.
            site: Where this adapter finds itself.

        Returns:
            The connection.

        Raises:
            AdapterError: ``CONFIG`` for what only an operator can mend, ``TRANSIENT`` if no server answers.
        """
        from ._connection import NatsConnection  # the client library is loaded only when it is used

        return await NatsConnection.open(config, site)
