"""What the tests of this adapter share: connections to the real server, and short words for the contract's calls."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from aiobotocore.session import AioSession  # type: ignore[import-untyped]

from ductape.adapter import (
    AdapterError,
    Channel,
    Connection,
    Intake,
    Outgoing,
    Purpose,
    Receiver,
    Secret,
    Site,
    Stored,
)
from ductape_sqs import SqsAdapter, SqsConfig
from tests.contract import site_of

from .fake import FakeSqs

KEYS: dict[str, Any] = {"access_key_id": "test", "secret_access_key": Secret("hunter2"), "region": "us-east-1"}


def site(*, create: bool = True) -> Site:
    return site_of("aws_sqs", create=create)


class World:
    """Connections to one server, closed when the test ends."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"t{uuid.uuid4().hex[:10]}"
        self.stack = contextlib.AsyncExitStack()

    async def native(self) -> Any:
        """A plain client of the server: what other programs use."""
        session = AioSession()
        session.set_credentials("test", "test")
        config = AioConfig(retries={"total_max_attempts": 1}, parameter_validation=False)
        making = session.create_client("sqs", region_name="us-east-1", endpoint_url=self.url, config=config)
        return await self.stack.enter_async_context(making)

    async def connect(self, *, create: bool = True, **fields: Any) -> Connection:
        config = SqsConfig(**{"endpoint": self.url, "lease": 5, "poll": 1, **KEYS, **fields})
        connection = await SqsAdapter().connect(config, site(create=create))
        self.stack.push_async_callback(connection.close)
        return connection

    def channel(self, **more: Any) -> Channel:
        return Channel(**{"name": f"{self.name}.orders", "group": "billing", **more})

    def dead(self, **more: Any) -> Channel:
        return self.channel(purpose=Purpose.DEAD, **more)

    async def receiver(self, connection: Connection, channel: Channel | None = None, window: int = 64) -> Receiver:
        channel = channel or self.channel()
        await connection.declare(channel)
        receiver = await connection.receiver(channel, Intake(group="billing", window=window, order=channel.order))
        self.stack.push_async_callback(receiver.close)
        return receiver

    async def publish(
        self, connection: Connection, *records: Outgoing, channel: Channel | None = None
    ) -> list[Stored | AdapterError]:
        channel = channel or self.channel()
        await connection.declare(channel)
        return list(await (await connection.sender(channel)).send(records))


@pytest.fixture
async def world(sqs_server: Any) -> AsyncIterator[World]:
    world = World(sqs_server.url)
    async with world.stack:
        yield world


@pytest.fixture
async def fake() -> AsyncIterator[FakeSqs]:
    async with FakeSqs() as fake:
        yield fake


@pytest.fixture
async def scripted(fake: FakeSqs) -> AsyncIterator[World]:
    """The same words, for the scripted server."""
    world = World(fake.url)
    async with world.stack:
        yield world


async def until(true: Callable[[], object], within: float = 20.0) -> None:
    """Waits for a fact that no event tells."""
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.005)
