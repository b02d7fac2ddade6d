"""The Kafka adapter of ductape: topics, and consumer groups on them."""

from __future__ import annotations

from ductape.adapter import Adapter, Capabilities, Connection, Durability, Groups, Order, Site, Tls

from ._config import KafkaConfig, Sasl

__all__ = ["KafkaAdapter", "KafkaConfig", "Sasl", "Tls"]


class KafkaAdapter(Adapter[KafkaConfig]):
    """Events on Kafka topics."""

    api = 1
    config = KafkaConfig
    channel_field = "topic"
    group_field = "group_id"
    capabilities = Capabilities(
        durability=Durability.STORED,
        groups=Groups.MANY,
        order=Order.TOTAL,
        history=True,
        watermark=True,
    )

    async def connect(self, config: KafkaConfig, site: Site) -> Connection:
        """Connect and authenticate.

        Args:
            config: Where the cluster is.
            site: Where this adapter finds itself.

        Returns:
            The connection.

        Raises:
            AdapterError: ``CONFIG`` for what only an operator can mend, ``TRANSIENT`` if no broker answers.
        """
        from ._connection import KafkaConnection  # the client library is loaded only when it is used

        return await KafkaConnection.open(config, site)
