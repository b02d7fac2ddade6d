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

    async def resume(self) -> None:
        self.broker.faults.resume()

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

test_queue = suite(Memory)
test_stream = suite(Memory, imitate="stream")
test_log = suite(Memory, imitate="log")
test_lossy = suite(Memory, imitate="lossy")
test_small = suite(Memory, caps=SMALL)
# Timers that fire half a millisecond early, as uvloop's do.
test_early = suite(Memory, early=0.0005, only=("lease.", "bounds.", "kernel.", "lanes."))

test_random_queue = random_suite(Memory, examples=150)
test_random_stream = random_suite(Memory, examples=150, imitate="stream")
test_random_log = random_suite(Memory, examples=150, imitate="log")
test_random_lossy = random_suite(Memory, examples=80, imitate="lossy")
