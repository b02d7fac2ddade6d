"""The NATS adapter, on a real server and through a proxy that cuts and stalls, keeps every promise that it makes."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import nats
import pytest

from ductape.adapter import Connection
from ductape_conformance import Harness, random_suite, suite
from ductape_conformance.proxy import TcpProxy
from tests.brokers.nats import Nats


class NatsHarness(Harness):
    """One server for all scenarios; each has its own proxy."""

    adapter = "nats"
    client = "nats-py"
    redelivery_bound = 3.0
    patience = 15.0
    fixtures = ("nats_server",)
    mode = "jetstream"

    @property
    def running(self) -> Nats:
        """The server that the suite was given."""
        server: Nats = self.fixture[self.fixtures[0]]
        return server

    async def config(self, namespace: str) -> Mapping[str, Any]:
        server = self.running
        self.proxy = await self.stack.enter_async_context(TcpProxy(server.host, server.port))
        self.server = server.version()
        self.stack.push_async_callback(self._sweep, namespace)
        return {"servers": f"nats://127.0.0.1:{self.proxy.port}", "lease": 1.5, "mode": self.mode}

    async def _sweep(self, namespace: str) -> None:
        """Delete the scenario's streams: hundreds of them would make every start of the server slow."""
        server = self.running
        await asyncio.to_thread(server.start)  # a scenario that failed may have left it dead
        async with await nats.connect(server.url) as client:
            stream = client.jetstream()
            for info in await stream.streams_info():
                if str(info.config.name).startswith(namespace):
                    await stream.delete_stream(str(info.config.name))

    async def cut(self) -> None:
        self.proxy.cut()

    async def stall(self) -> None:
        self.proxy.stall()

    async def resume(self) -> None:
        self.proxy.resume()

    async def kill(self) -> None:
        await asyncio.to_thread(self.running.kill)

    async def restart(self) -> None:
        await asyncio.to_thread(self.running.start)

    async def crash(self, connection: Connection) -> None:
        link = connection._link  # type: ignore[attr-defined]  # ours
        link._ended = True
        link.drop("its process is gone")

    async def forget(self, channel: str, group: str) -> None:
        async with await nats.connect(self.running.url) as client:
            await client.jetstream().delete_stream(channel.replace(".", "_"))


class OldHarness(NatsHarness):
    """A server that cannot pin a consumer."""

    fixtures = ("nats_old_server",)
    quirks: Mapping[str, str] = dict.fromkeys(
        ("stop.finishes-what-runs-returns-the-rest", "dead.looking-takes-nothing"),
        "2.9 gives the first message that is handed back to a request that was withdrawn: it comes after ack_wait",
    )


test_jetstream = suite(NatsHarness)
test_core = suite(NatsHarness, mode="core")
# nats-server writes a consumer's state a moment later than it answers: histories are played without kills, which the
# suite above and the soak play.
FORGETS = {
    "faults.stored-survives-a-kill": "a server that is killed may forget a consumer's last delays and acknowledgements"
}
# Leases of 1.5 s run out in real time: a history takes some seconds.
test_random = pytest.mark.timeout(240)(random_suite(NatsHarness, examples=8, quirks=FORGETS))
# On a worker of its own, and what depends on the generation: the rest on request, with `DUCTAPE_TEST_WHOLE=1`.
_TELLING = ("contract.", "send.", "settle.", "derived.", "order.", "refuse.")
test_old = pytest.mark.xdist_group("nats-old")(
    suite(OldHarness, only=() if os.environ.get("DUCTAPE_TEST_WHOLE") else _TELLING)
)
