"""RabbitMQ quorum queues, in order: one active consumer, whoever is killed."""

import asyncio
import collections
import contextlib
from collections.abc import Mapping
from typing import Any, ClassVar

import aio_pika

from tests.brokers import RabbitMQ
from tests.soak.ground import GROUP, Ground

AGE = 3.0
"""Seconds after which RabbitMQ's own records of a new queue are on disk: killed before, it forgets the queue itself."""
IDLE = 5.0
QUEUE = f"b.t.{GROUP}"


class RabbitMQGround(Ground):
    """RabbitMQ."""

    name: ClassVar[str] = "rabbitmq"
    packages: ClassVar[tuple[str, ...]] = ("ductape-rabbitmq", "aio-pika")
    settings: ClassVar[str] = "one node, quorum queues, single active consumer; killed 3 s after the last start"
    ordered: ClassVar[bool] = True

    def make(self) -> RabbitMQ:
        """Return a server with RabbitMQ's own consumer timeout."""
        return RabbitMQ(consumer_timeout=1800.0)

    def env(self, port: int | None = None) -> Mapping[str, Any]:
        """Return where it is."""
        return {"type": "RABBITMQ", "config": {"host": "127.0.0.1", "port": port or self.server.port}}

    async def killed(self) -> None:
        """Let the queue become old enough to be remembered, then kill."""
        await asyncio.sleep(AGE)
        await super().killed()

    async def stored(self) -> collections.Counter[str]:
        """Take all messages out of the queue: nobody reads it after this."""
        counts: collections.Counter[str] = collections.Counter()
        connection = await aio_pika.connect(self.server.url)
        try:
            queue = await (await connection.channel()).declare_queue(QUEUE, passive=True)
            # Until nothing comes: what a quorum queue says of its length lags behind.
            async with queue.iterator(no_ack=True, timeout=IDLE) as messages:
                with contextlib.suppress(TimeoutError):
                    async for message in messages:
                        counts[str(message.headers["ductape-id"])] += 1
        finally:
            await connection.close()
        return counts


GROUND = RabbitMQGround()
