"""The AWS SQS adapter of ductape: standard and FIFO queues."""

from __future__ import annotations

from ductape.adapter import Adapter, Capabilities, Connection, Count, Durability, Groups, Order, Site

from ._config import LONGEST, SqsConfig

__all__ = ["SqsAdapter", "SqsConfig"]


class SqsAdapter(Adapter[SqsConfig]):
    """Events on SQS queues: standard ones (the default), or FIFO queues, which keep the order of a key."""

    api = 1
    config = SqsConfig
    channel_field = "queue"
    group_field = "queue"  # a queue is its one group
    capabilities = Capabilities(
        durability=Durability.STORED,
        groups=Groups.ONE,
        order=Order.KEY,
        count=Count.APPROXIMATE,
        history=True,
        lease=30.0,
        lease_total=float(LONGEST),
        order_locks=True,
        retry_joins=True,
        retry_delay=float(LONGEST),
        retry_step=1.0,
        send_delay=900.0,
        max_body=1_048_576,
        max_message=1_048_576,
    )

    async def connect(self, config: SqsConfig, site: Site) -> Connection:
        """Find credentials and endpoint, and make a round trip.

        Args:
            config: Where the queues are.
            site: Where this adapter finds itself.

        Returns:
            The connection.

        Raises:
            AdapterError: ``CONFIG`` for what only an operator can mend, ``TRANSIENT`` if the service is away.
        """
        from ._connection import SqsConnection  # the client library is loaded only when it is used

        return await SqsConnection.open(config, site)
