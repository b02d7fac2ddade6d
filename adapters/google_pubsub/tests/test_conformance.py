"""The Pub/Sub adapter, on the emulator and through a proxy that cuts and stalls, keeps every promise that it makes."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc.aio  # type: ignore[import-untyped]  # grpcio ships no annotations
import pytest
from google.pubsub_v1.types import pubsub as types

from ductape.adapter import Connection
from ductape_conformance import Harness, random_suite, suite
from ductape_conformance.proxy import TcpProxy

MEMORY = "the emulator keeps everything in memory: a killed one has forgotten it"
QUIRKS = {
    "faults.stored-survives-a-kill": MEMORY,
    "outages.a-killed-server-loses-nothing-confirmed": MEMORY,
}
PSTEST = {
    "order.kept-across-a-crash": "pstest hands out one message of a key at a time: no window fills",
    "roundtrip.facts-of-a-delivery": "pstest's message ids, which are positions, begin like the scenario's body",
}


class PubSubHarness(Harness):
    """One emulator for all scenarios; each has its own proxy."""

    adapter = "google_pubsub"
    client = "google-cloud-pubsub"
    redelivery_bound = 3.5
    patience = 15.0
    fixtures = ("pubsub_server",)
    real = False
    exactly_once = False
    dead_letter_policy = True

    @property
    def quirks(self) -> Mapping[str, str]:
        return QUIRKS if self.fixture["pubsub_server"].official else {**QUIRKS, **PSTEST}

    async def config(self, namespace: str) -> Mapping[str, Any]:
        server = self.fixture["pubsub_server"]
        self.proxy = await self.stack.enter_async_context(TcpProxy(server.host, server.port))
        # The report says which, not where on this machine.
        emulator = Path(server.origin).stem.removesuffix("-all").replace("cloud-pubsub-emulator-", "Pub/Sub emulator ")
        self.server = emulator if server.official else server.origin
        return {
            "projectId": "kit",
            "emulatorHost": f"127.0.0.1:{self.proxy.port}",
            "lease": 2,
            "poll": 0.1,
            "exactlyOnce": self.exactly_once,
            "deadLetterPolicy": self.dead_letter_policy,
        }

    async def cut(self) -> None:
        self.proxy.cut()

    async def stall(self) -> None:
        self.proxy.stall()

    async def resume(self) -> None:
        self.proxy.resume()

    async def kill(self) -> None:
        await asyncio.to_thread(self.fixture["pubsub_server"].kill)

    async def restart(self) -> None:
        await asyncio.to_thread(self.fixture["pubsub_server"].start)

    async def crash(self, connection: Connection) -> None:
        await connection.unwrap(grpc.aio.Channel).close()

    async def forget(self, channel: str, group: str) -> None:
        async with grpc.aio.insecure_channel(self.fixture["pubsub_server"].url) as server:
            delete = server.unary_unary(
                "/google.pubsub.v1.Subscriber/DeleteSubscription",
                request_serializer=types.DeleteSubscriptionRequest.serialize,
            )
            name = f"projects/kit/subscriptions/{channel}.{group}"
            await delete(types.DeleteSubscriptionRequest(subscription=name))


test_pubsub = suite(PubSubHarness)
test_exactly_once = suite(PubSubHarness, exactly_once=True, only=("settle.", "lease.lost", "order.kept"))
test_uncounted = suite(PubSubHarness, dead_letter_policy=False, only=("settle.release", "settle.count", "retry."))
# Leases of 2 s run out in real time: a history takes some seconds.
test_random = pytest.mark.timeout(240)(random_suite(PubSubHarness, examples=8))
