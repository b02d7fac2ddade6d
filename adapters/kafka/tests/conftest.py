"""What the tests of this adapter share: connections to the real broker, and short words for the contract's calls."""

import asyncio
import contextlib
import itertools
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from ductape.adapter import (
    AdapterError,
    Channel,
    Connection,
    Delivery,
    Intake,
    Outgoing,
    Receiver,
    Sender,
    Settlement,
    Site,
    Stored,
    Verdict,
)
from ductape_kafka import KafkaAdapter, KafkaConfig
from tests.brokers.server import Server


class LoopClock:
    """The real time of the running loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time
        self.time = time.time
        self.call_later = loop.call_later
        self.sleep = asyncio.sleep


def site(*, create: bool = True, log: str = "ductape.adapter.kafka") -> Site:
    return Site(
        product="shop", env="test", broker="orders", clock=LoopClock(), log=logging.getLogger(log), create=create
    )


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


def record(number: int, **more: object) -> Outgoing:
    return Outgoing(b"%d" % number, {"ductape-id": f"id{number}"}, f"id{number}", **more)  # type: ignore[arg-type]


async def take(receiver: Receiver, number: int, within: float = 10.0) -> list[Delivery]:
    """Receives until `number` deliveries are there; fewer when the time is over. Counts them as the kernel does."""
    found: list[Delivery] = []
    end = time.monotonic() + within
    while len(found) < number and time.monotonic() < end:
        some = await receiver.receive(number - len(found), min(0.2, max(end - time.monotonic(), 0.0)))
        for one in some:
            one.epoch.held += 1
        found += some
    return found


async def settle(
    receiver: Receiver, deliveries: Sequence[Delivery], verdict: Verdict = Verdict.ACK, delay: float = 0.0
) -> list[AdapterError | None]:
    answers = list(await receiver.settle([Settlement(delivery, verdict, delay) for delivery in deliveries]))
    for one in deliveries:
        one.epoch.settled()
    return answers


async def patiently(call: Callable[[], Awaitable[object]], within: float = 30.0) -> object:
    """Repeats what may fail while a broker is away, as the kernel does."""
    end = time.monotonic() + within
    while True:
        try:
            return await call()
        except AdapterError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)


def bodies(deliveries: Sequence[Delivery]) -> list[int]:
    return sorted(int(delivery.body) for delivery in deliveries)
