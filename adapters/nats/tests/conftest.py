"""What the tests of this adapter share: connections to the real server, and short words for the contract's calls."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from ductape.adapter import (
    Channel,
    Connection,
    Intake,
    Outgoing,
    Purpose,
    Receiver,
    Site,
    Stored,
)
from ductape_nats import NatsAdapter, NatsConfig
from tests.brokers.server import Server
from tests.contract import site_of


def site(*, create: bool = True) -> Site:
    return site_of("nats", create=create)


class World:
    """Connections to one server, closed when the test ends."""

    def __init__(self, server: Server, raw: Client) -> None:
        self.server, self.raw = server, raw
        self.url = server.url
        self.stack = contextlib.AsyncExitStack()

    async def connect(self, *, create: bool = True, url: str = "", **fields: Any) -> Connection:
        config = NatsConfig(servers=url or self.url, **fields)
        connection = await NatsAdapter().connect(config, site(create=create))
        self.stack.push_async_callback(connection.close)
        return connection

    async def through(self, port: int, **fields: Any) -> Connection:
        return await self.connect(url=f"nats://127.0.0.1:{port}", **fields)

    async def receiver(self, connection: Connection, group: str = "billing", window: int = 64, **more: Any) -> Receiver:
        channel = Channel(name="orders", group=group, **more)
        await connection.declare(channel)
        receiver = await connection.receiver(channel, Intake(group=group, window=window, order=channel.order))
        self.stack.push_async_callback(receiver.close)
        return receiver

    async def consumer(self, name: str = "billing", stream: str = "orders") -> dict[str, Any]:
        """What the server says of a consumer."""
        found = await self.raw.request(f"$JS.API.CONSUMER.INFO.{stream}.{name}", timeout=20)
        answer: dict[str, Any] = json.loads(found.data)
        return answer


@pytest.fixture
async def world(nats_server: Server) -> AsyncIterator[World]:
    async with await nats.connect(nats_server.url) as raw:
        await empty(raw, nats_server)
        world = World(nats_server, raw)
        try:
            yield world
        finally:
            await world.stack.aclose()


async def empty(raw: Client, server: Server) -> None:
    """Deletes all streams. nats-server removes their folders later, by name: with them those of a stream made anew."""
    stream, streams = raw.jetstream(), server.folder / "data" / "jetstream" / "$G" / "streams"
    names = [str(info.config.name) for info in await stream.streams_info()]
    for name in names:
        await stream.delete_stream(name)
    # A folder that stays holds what a consumer wrote after the removal: nothing will remove that one.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            while any((streams / name).exists() for name in names):
                await asyncio.sleep(0.005)


def event(group: str = "billing", **more: Any) -> Channel:
    return Channel(name="orders", group=group, **more)


def dead(group: str = "billing") -> Channel:
    return Channel(name="orders", purpose=Purpose.DEAD, group=group)


async def publish(connection: Connection, *records: Outgoing, channel: Channel | None = None) -> list[Stored]:
    channel = channel or event()
    await connection.declare(channel)
    sender = await connection.sender(channel)
    answers = await sender.send(records)
    assert all(isinstance(answer, Stored) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Stored)]
