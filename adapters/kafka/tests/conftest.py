"""What the tests of this adapter share: connections to the real broker, and short words for the contract's calls."""

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from ductape.adapter import (
    Channel,
    Connection,
    Intake,
    Outgoing,
    Receiver,
    Sender,
    Site,
    Stored,
)
from ductape_kafka import KafkaAdapter, KafkaConfig
from tests.brokers.server import Server
from tests.contract import site_of


def site(*, create: bool = True) -> Site:
    return site_of("kafka", create=create)


class World:
    """Connections to one broker, closed when the test ends; topics that no other test uses."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = f"t{uuid.uuid4().hex[:10]}.orders"
        self.stack = contextlib.AsyncExitStack()
        self.raw: AIOKafkaProducer = AIOKafkaProducer(bootstrap_servers=server.url)
        self.admin: AIOKafkaAdminClient = AIOKafkaAdminClient(bootstrap_servers=server.url)

    async def connect(self, *, create: bool = True, broker: str = "", **fields: object) -> Connection:
        fields = {"partitions": 3, "session": 10.0, "drain": 5.0, **fields}
        config = KafkaConfig(brokers=[broker or self.server.url], **fields)  # type: ignore[arg-type]  # tests name them
        connection = await KafkaAdapter().connect(config, site(create=create))
        self.stack.push_async_callback(connection.close)
        return connection

    def channel(self, group: str = "billing", **more: object) -> Channel:
        return Channel(name=self.name, group=group, **more)  # type: ignore[arg-type]  # as above

    async def receiver(
        self, connection: Connection, group: str = "billing", window: int = 64, **more: object
    ) -> Receiver:
        channel = self.channel(group, **more)
        await connection.declare(channel)
        receiver = await connection.receiver(channel, Intake(group=group, window=window))
        self.stack.push_async_callback(receiver.close)
        return receiver

    async def sender(self, connection: Connection, channel: Channel | None = None) -> Sender:
        channel = channel or self.channel()
        await connection.declare(channel)
        return await connection.sender(channel)

    async def publish(self, connection: Connection, *records: Outgoing, channel: Channel | None = None) -> list[Stored]:
        sender = await self.sender(connection, channel)
        answers = await sender.send(records)
        assert all(isinstance(answer, Stored) for answer in answers), answers
        return [answer for answer in answers if isinstance(answer, Stored)]


@pytest.fixture
async def world(kafka_server: Server) -> AsyncIterator[World]:
    world = World(kafka_server)
    await world.admin.start()
    await world.raw.start()
    try:
        yield world
    finally:
        await world.stack.aclose()
        await world.raw.stop()
        await remove_topics(world.admin, world.name.partition(".")[0])
        await world.admin.close()


async def remove_topics(admin: AIOKafkaAdminClient, prefix: str) -> None:
    """Thousands of them would slow the broker down."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(5):
            names = [name for name in await admin.list_topics() if name.startswith(prefix)]
            for batch in itertools.batched(names, 50) if hasattr(itertools, "batched") else [tuple(names)]:
                await admin.delete_topics(list(batch))
