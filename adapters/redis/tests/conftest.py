"""What the tests of this adapter share: connections to the real server, and short words for the contract's calls."""

import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import redis.asyncio

from ductape.adapter import (
    Channel,
    Connection,
    Intake,
    Outgoing,
    Purpose,
    Receiver,
    SecretUrl,
    Site,
    Stored,
)
from ductape_redis import RedisAdapter, RedisConfig
from tests.brokers.server import Server
from tests.contract import site_of


def site(*, create: bool = True) -> Site:
    return site_of("redis", create=create)


class World:
    """Connections to one server, closed when the test ends."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.url
        self.stack = contextlib.AsyncExitStack()
        self.raw: redis.asyncio.Redis = redis.asyncio.Redis.from_url(server.url, protocol=2)

    async def connect(self, *, create: bool = True, url: str = "", **fields: object) -> Connection:
        config = RedisConfig(url=SecretUrl(url or self.url), **fields)  # type: ignore[arg-type]  # tests name them
        connection = await RedisAdapter().connect(config, site(create=create))
        self.stack.push_async_callback(connection.close)
        return connection

    async def through(self, port: int, **fields: object) -> Connection:
        parts = urlsplit(self.url)
        return await self.connect(url=f"redis://127.0.0.1:{port}{parts.path}", **fields)  # type: ignore[arg-type]  # as above

    async def acl(self, *words: str) -> None:
        await self.raw.execute_command("ACL", *words)  # type: ignore[no-untyped-call]  # redis-py leaves it bare

    async def receiver(
        self, connection: Connection, group: str = "billing", window: int = 64, **more: object
    ) -> Receiver:
        channel = Channel(name="orders", group=group, **more)  # type: ignore[arg-type]  # as above
        await connection.declare(channel)
        receiver = await connection.receiver(channel, Intake(group=group, window=window))
        self.stack.push_async_callback(receiver.close)
        return receiver


@pytest.fixture
async def world(redis_server: Server) -> AsyncIterator[World]:
    world = World(redis_server)
    await world.raw.flushall()
    try:
        yield world
    finally:
        await world.stack.aclose()
        await world.raw.aclose()


def event(group: str = "billing", **more: object) -> Channel:
    return Channel(name="orders", group=group, **more)  # type: ignore[arg-type]  # as above


def dead(group: str = "billing") -> Channel:
    return Channel(name="orders", purpose=Purpose.DEAD, group=group)


async def publish(connection: Connection, *records: Outgoing, channel: Channel | None = None) -> list[Stored]:
    channel = channel or event()
    await connection.declare(channel)
    sender = await connection.sender(channel)
    answers = await sender.send(records)
    assert all(isinstance(answer, Stored) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Stored)]
