"""The Kafka adapter, on a real broker and through a proxy that cuts and stalls, keeps every promise that it makes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import DeleteGroupsRequest

from ductape.adapter import Connection
from ductape_conformance import Harness, random_suite, suite
from tests.brokers.kafka import VERSION, Kafka
from tests.brokers.server import proxy_of


class KafkaHarness(Harness):
    """One broker for all scenarios; each has its own proxy, and topics that are removed after it."""

    adapter = "kafka"
    client = "aiokafka"
    redelivery_bound = 7.0
    patience = 15.0
    processes = True
    fixtures = ("kafka_server",)
    partitions = 3

    async def config(self, namespace: str) -> Mapping[str, Any]:
        server: Kafka = self.fixture["kafka_server"]
        self.server = f"Kafka {VERSION}" if not server.given else server.given
        self.stack.push_async_callback(self._remove, namespace)
        self.proxy = await self.stack.enter_async_context(proxy_of(server))
        return {
            "brokers": [f"127.0.0.1:{self.proxy.port}"],
            "partitions": self.partitions,
            "session": 3.0,
            "drain": 1.5,
        }

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.fixture["kafka_server"].url)
        await admin.start()
        try:
            async with asyncio.timeout(5):
                yield admin
        finally:
            await admin.close()

    async def _remove(self, namespace: str) -> None:
        async with self._admin() as admin:
            await admin.delete_topics([name for name in await admin.list_topics() if namespace in name])

    async def cut(self) -> None:
        self.proxy.cut()

    async def stall(self) -> None:
        self.proxy.stall()

    async def slow(self, seconds: float) -> None:
        self.proxy.slow(seconds)

    async def half_open(self) -> None:
        self.proxy.half_open()

    async def resume(self) -> None:
        # An answer that was swallowed would shift those that follow on its connection.
        if self.proxy.swallowed:
            self.proxy.cut()
        self.proxy.resume()

    async def kill(self) -> None:
        await asyncio.to_thread(self.fixture["kafka_server"].kill)

    async def restart(self) -> None:
        await asyncio.to_thread(self.fixture["kafka_server"].start)

    async def forget(self, channel: str, group: str) -> None:
        async with self._admin() as admin:
            request = DeleteGroupsRequest([group])
            answer = await admin._send_request(request, await admin.find_coordinator(group))
            assert [code for _, code in answer.results] == [0]

    async def crash(self, connection: Connection) -> None:
        """Ends its consumers' tasks and sockets without a word: the broker waits for their sessions to end."""
        for receiver in list(connection._receivers):  # type: ignore[attr-defined]  # a crash asks nobody
            coordinator = receiver.consumer._coordinator
            for task in (coordinator._coordination_task, coordinator._heartbeat_task):
                if task is not None:
                    task.cancel()
            await receiver.consumer._client.close()


test_partitions = suite(KafkaHarness)
test_one_partition = suite(KafkaHarness, partitions=1, only=("order.", "lanes."))
# A crashed member is waited for until its session ends: a history takes some seconds.
test_random = pytest.mark.timeout(240)(random_suite(KafkaHarness, examples=6))
