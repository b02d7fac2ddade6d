"""The Redis adapter, on a real server and through a proxy that cuts and stalls, keeps every promise that it makes."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
import redis.asyncio

from ductape_conformance import Harness, random_suite, suite
from ductape_conformance.proxy import TcpProxy


class RedisHarness(Harness):
    """One server for all scenarios; each has its own proxy."""

    adapter = "redis"
    client = "redis"
    redelivery_bound = 4.0
    patience = 15.0
    fixtures = ("redis_server",)
    processes = True
    mode = "stream"
    deaf = False

    async def config(self, namespace: str) -> Mapping[str, Any]:
        server = self.fixture["redis_server"]
        self.proxy = await self.stack.enter_async_context(TcpProxy(server.host, server.port))
        async with redis.asyncio.Redis(host=server.host, port=server.port) as client:
            self.server = f"Redis {(await client.info('server'))['redis_version']}"
        return {"url": f"redis://127.0.0.1:{self.proxy.port}/0", "lease": 1.5, "mode": self.mode}

    async def cut(self) -> None:
        self.proxy.cut()

    async def stall(self) -> None:
        self.proxy.stall()

    async def slow(self, seconds: float) -> None:
        self.proxy.slow(seconds)

    async def half_open(self) -> None:
        self.deaf = True
        self.proxy.half_open()

    async def resume(self) -> None:
        if self.deaf:  # bytes are missing in the middle of what came: no network goes on after that
            self.deaf = False
            self.proxy.cut()
        self.proxy.resume()

    async def wrong_credentials(self) -> Mapping[str, Any]:
        return {"host": "127.0.0.1", "port": self.proxy.port, "username": "nobody", "password": "open-sesame"}

    async def kill(self) -> None:
        await asyncio.to_thread(self.fixture["redis_server"].kill)

    async def restart(self) -> None:
        await asyncio.to_thread(self.fixture["redis_server"].start)

    async def forget(self, channel: str, group: str) -> None:
        async with redis.asyncio.Redis(port=self.fixture["redis_server"].port) as server:
            await server.delete(channel)


test_stream = suite(RedisHarness)
test_pubsub = suite(RedisHarness, mode="pubsub")
# Leases of 1.5 s run out in real time: a history takes some seconds.
test_random = pytest.mark.timeout(240)(random_suite(RedisHarness, examples=8))
