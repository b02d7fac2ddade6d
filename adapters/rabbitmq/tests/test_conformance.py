"""The RabbitMQ adapter, on a real server and through a proxy that cuts and stalls, keeps every promise it makes."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import aio_pika
import aiormq
import pytest

from ductape.adapter import Connection
from ductape_conformance import Harness, random_suite, suite
from ductape_conformance.proxy import TcpProxy
from ductape_rabbitmq._connection import RabbitMQConnection
from tests.brokers import RabbitMQ

AGE = 3.0
"""Seconds after which RabbitMQ's own records of a new queue are on disk: killed before, it forgets the queue itself."""


VERSIONS: dict[str, str] = {}
"""Of servers, by their URL."""


async def version_of(url: str) -> str:
    if url not in VERSIONS:
        connection = await aiormq.connect(url)
        VERSIONS[url] = str(connection.server_properties["version"])
        await connection.close()
    return VERSIONS[url]


class RabbitMQHarness(Harness):
    """One server for all scenarios; each has its own proxy."""

    adapter = "rabbitmq"
    client = "aio-pika"
    redelivery_bound = 5.0
    patience = 20.0
    fixtures = ("rabbitmq_server",)
    queue_type = "quorum"

    async def config(self, namespace: str) -> Mapping[str, Any]:
        server: RabbitMQ = self.fixture["rabbitmq_server"]
        self.proxy = await self.stack.enter_async_context(TcpProxy(server.host, server.port))
        self.server = f"RabbitMQ {await version_of(server.url)}"
        return {
            "url": f"amqp://guest:guest@127.0.0.1:{self.proxy.port}/",
            "queueType": self.queue_type,
            "consumerTimeout": server.consumer_timeout,
            "maxMessageSize": 1_000_000,
            "exchange": f"{namespace}.events",
        }

    async def cut(self) -> None:
        self.proxy.cut()

    async def stall(self) -> None:
        self.proxy.stall()

    async def resume(self) -> None:
        self.proxy.resume()

    async def kill(self) -> None:
        await asyncio.sleep(AGE)
        await asyncio.to_thread(self.fixture["rabbitmq_server"].kill)

    async def restart(self) -> None:
        await asyncio.to_thread(self.fixture["rabbitmq_server"].start)

    async def crash(self, connection: Connection) -> None:
        native = cast(RabbitMQConnection, connection)
        native._publish.drop()
        native._consume.drop()

    async def forget(self, channel: str, group: str) -> None:
        async with await aio_pika.connect(self.fixture["rabbitmq_server"].url) as connection:
            await (await connection.channel()).queue_delete(f"{channel}.{group}")


test_quorum = suite(RabbitMQHarness)
test_classic = suite(RabbitMQHarness, level="contract", queue_type="classic")
# A member that was given part of what came back puts it behind the rest when it closes (rabbit_fifo, `returns`).
ORDERED = {
    "random.windows-differ": "a quorum queue keeps the order of what comes back only if a member takes all of it"
}
# A queue has to age before its server may be killed: a history takes some seconds.
test_random = pytest.mark.timeout(240)(random_suite(RabbitMQHarness, examples=6, quirks=ORDERED))
