"""What the tests of this adapter share: connections to the real server, and short words for the contract's calls."""

import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import pytest

from ductape.adapter import (
    Channel,
    Connection,
    Intake,
    Outgoing,
    Purpose,
    Receiver,
    SecretUrl,
    Sender,
    Site,
    Stored,
)
from ductape_rabbitmq import RabbitMQAdapter, RabbitMQConfig
from tests.brokers import RabbitMQ
from tests.contract import site_of


def site(*, create: bool = True) -> Site:
    return site_of("rabbitmq", create=create)


class World:
    """Connections to one server, closed when the test ends. Every test has channels of its own."""

    def __init__(self, server: RabbitMQ, raw: aio_pika.abc.AbstractConnection) -> None:
        self.server, self.url, self.raw = server, server.url, raw
        self.stack = contextlib.AsyncExitStack()
        self.name = f"orders{secrets.token_hex(4)}"

    async def connect(self, *, create: bool = True, url: str = "", **fields: Any) -> Connection:
        config = RabbitMQConfig(url=SecretUrl(url or self.url), **fields)
        connection = await RabbitMQAdapter().connect(config, site(create=create))
        self.stack.push_async_callback(connection.close)
        return connection

    async def through(self, port: int, **fields: Any) -> Connection:
        parts = urlsplit(self.url)
        return await self.connect(url=f"amqp://{parts.username}:{parts.password}@127.0.0.1:{port}/", **fields)

    def event(self, group: str = "billing", **more: Any) -> Channel:
        return Channel(name=self.name, group=group, **more)

    def dead(self, group: str = "billing") -> Channel:
        return Channel(name=self.name, purpose=Purpose.DEAD, group=group)

    async def receiver(
        self, connection: Connection, channel: Channel | None = None, window: int = 64, **more: Any
    ) -> Receiver:
        channel = channel or self.event()
        await connection.declare(channel)
        intake = Intake(group=channel.group, window=window, order=channel.order, **more)
        receiver = await connection.receiver(channel, intake)
        self.stack.push_async_callback(receiver.close)
        return receiver

    async def sender(self, connection: Connection, channel: Channel | None = None) -> Sender:
        channel = channel or self.event()
        await connection.declare(channel)
        sender = await connection.sender(channel)
        self.stack.push_async_callback(sender.close)
        return sender

    async def channel(self) -> aio_pika.abc.AbstractChannel:
        """A channel of the raw client; one that an error closed is the test's own."""
        return await self.raw.channel()

    async def queue(self, name: str) -> aio_pika.abc.AbstractQueue:
        """An existing queue, through the raw client."""
        return await (await self.channel()).declare_queue(name, passive=True)


@pytest.fixture
async def world(rabbitmq_server: RabbitMQ) -> AsyncIterator[World]:
    raw = await aio_pika.connect(rabbitmq_server.url)
    world = World(rabbitmq_server, raw)
    try:
        yield world
    finally:
        await world.stack.aclose()
        await world.raw.close()


async def publish(sender: Sender, *records: Outgoing) -> list[Stored]:
    answers = await sender.send(records)
    assert all(isinstance(answer, Stored) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Stored)]
