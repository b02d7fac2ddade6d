"""The Google Pub/Sub adapter of ductape: topics, pull subscriptions, ordering keys, exactly-once acknowledgement."""

from __future__ import annotations

import math

from ductape.adapter import Adapter, Capabilities, Connection, Count, Durability, Groups, Order, Site

from ._config import GooglePubSubConfig

__all__ = ["GooglePubSubAdapter", "GooglePubSubConfig"]


class GooglePubSubAdapter(Adapter[GooglePubSubConfig]):
    """Events on Google Cloud Pub/Sub, or on its emulator."""

    api = 1
    config = GooglePubSubConfig
    channel_field = "topic_name"
    group_field = "subscription_name"
    capabilities = Capabilities(
        durability=Durability.STORED,
        groups=Groups.MANY,
        order=Order.KEY,
        count=Count.APPROXIMATE,
        confirmed_ack=True,
        lease=30.0,
        lease_total=math.inf,
        retry_delay=600.0,
        retry_step=1.0,
        max_headers=99,
        max_header=1024,
        max_body=9_900_000,
        max_message=9_900_000,
    )

    async def connect(self, config: GooglePubSubConfig, site: Site) -> Connection:
        """Connect, authenticate, and make one round trip.

        Args:
            config: Which project, and as whom.
            site: Where this adapter finds itself.

        Returns:
            The connection.

        Raises:
            AdapterError: ``CONFIG`` for what only an operator can mend, ``TRANSIENT`` if the service is away.
        """
        from ._connection import GooglePubSubConnection  # the client library is loaded only when it is used

        return await GooglePubSubConnection.open(config, site)
