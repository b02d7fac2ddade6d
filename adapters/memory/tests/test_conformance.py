"""The memory adapter, in each of its imitations, keeps every promise that it makes."""

from collections.abc import Mapping
from typing import Any

import msgspec

from ductape.adapter import Adapter, Capabilities, Connection, Fault, Purpose
from ductape_conformance import Harness, VirtualClock, random_suite, suite
from ductape_memory import QUEUE, MemoryAdapter, MemoryBroker, MemoryConnection


class Memory(Harness):
    """A broker in this process: no server, and time that jumps."""

    adapter = "memory"
    server = "in process"
    real = False
    redelivery_bound = 40.0
    imitate = "queue"
    caps: Capabilities | None = None
    early = 0.0
    deaf = False

    async def config(self, namespace: str) -> Mapping[str, Any]:
        self.broker = MemoryBroker.of(namespace)
        return {"name": namespace, "imitate": self.imitate}

    def clock(self) -> VirtualClock:
        return VirtualClock(early=self.early)

    def make(self) -> Adapter[Any]:
        return MemoryAdapter(self.caps) if self.caps else super().make()

    async def cut(self) -> None:
        self.broker.faults.cut(Fault.TRANSIENT if self.imitate == "stream" else Fault.LOST)

    async def stall(self) -> None:
        for method in ("send", "receive", "settle", "extend", "declare", "connect"):
            self.broker.faults.stall(method)

    async def slow(self, seconds: float) -> None:
        for method in ("send", "receive", "settle", "extend", "declare", "connect"):
            self.broker.faults.stall(method, seconds=seconds)

    async def half_open(self) -> None:
        self.deaf = True
        for method in ("send", "settle", "extend", "declare"):
            self.broker.faults.stall(method, seconds=9.0, stored=True)
            self.broker.faults.fail(method, Fault.AMBIGUOUS, times=1000, stored=True)
        self.broker.faults.stall("receive", seconds=9.0)

    async def wrong_credentials(self) -> Mapping[str, Any]:
        self.broker.faults.fail("connect", Fault.CONFIG, times=1000)
        return await self.config(self.broker.name)

    async def resume(self) -> None:
        self.broker.faults.resume()
        if self.deaf:
            self.deaf = False
            self.broker.faults.clear()
            await self.cut()

    async def kill(self) -> None:
        self.broker.faults.restart(away=1e9)

    async def restart(self) -> None:
        self.broker.faults.clear()

    async def crash(self, connection: Connection) -> None:
        assert isinstance(connection, MemoryConnection)
        connection.die("its process crashed")

    async def forget(self, channel: str, group: str) -> None:
        self.broker.faults.forget(channel, group, Purpose.EVENTS)


SMALL = msgspec.structs.replace(QUEUE, max_body=2000, max_message=2600, max_headers=20, max_header=200)
"""A queue with limits."""

FIFO = msgspec.structs.replace(QUEUE, order_locks=True)
"""A queue that gives nothing of a key to anybody while some of it is out."""

test_queue = suite(Memory)
test_stream = suite(Memory, imitate="stream")
test_log = suite(Memory, imitate="log")
test_lossy = suite(Memory, imitate="lossy")
test_small = suite(Memory, caps=SMALL)
test_fifo = suite(Memory, caps=FIFO, only=("contract.", "order.", "lanes.", "settle.", "stop."))
# Timers that fire half a millisecond early, as uvloop's do.
test_early = suite(Memory, early=0.0005, only=("lease.", "bounds.", "kernel.", "lanes."))

test_random_queue = random_suite(Memory, examples=100)
test_random_stream = random_suite(Memory, examples=100, imitate="stream")
test_random_log = random_suite(Memory, examples=100, imitate="log")
test_random_fifo = random_suite(Memory, examples=60, caps=FIFO)
test_random_lossy = random_suite(Memory, examples=60, imitate="lossy")
