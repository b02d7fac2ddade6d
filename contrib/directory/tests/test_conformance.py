"""The directory adapter keeps every promise that it makes."""

import asyncio
import errno
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ductape.adapter import Adapter, Clock, Connection
from ductape_conformance import Harness, VirtualClock, random_suite, suite
from ductape_directory import DirectoryAdapter
from ductape_directory._wire import safe


class Directory(Harness):
    """A folder of its own and time that jumps: nothing runs in threads, and the disk can be stalled and taken away."""

    adapter = "directory"
    server = "a local file system"
    redelivery_bound = 40.0
    lease = 30.0
    poll = 0.2
    sync = False

    async def config(self, namespace: str) -> Mapping[str, Any]:
        self.path = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.turning, self.mounted = asyncio.Event(), True
        self.turning.set()
        return {"path": self.path, "lease": self.lease, "poll": self.poll, "sync": self.sync}

    def clock(self) -> Clock | None:
        return VirtualClock()

    def make(self) -> Adapter[Any]:
        return DirectoryAdapter(self.disk)

    async def disk(self, call: Callable[..., Any], *arguments: Any) -> Any:
        await self.turning.wait()
        if not self.mounted:
            raise OSError(errno.EIO, "the disk is away")
        return call(*arguments)

    async def stall(self) -> None:
        self.turning.clear()

    async def resume(self) -> None:
        self.turning.set()

    async def kill(self) -> None:
        self.mounted = False

    async def restart(self) -> None:
        self.mounted = True

    async def crash(self, connection: Connection) -> None:
        await connection.close()  # which tells nobody anything

    async def forget(self, channel: str, group: str) -> None:
        shutil.rmtree(Path(self.path, safe(channel), safe(group)))


class Threads(Directory):
    """Real time, real threads, and a disk that confirms."""

    redelivery_bound = 3.0
    lease = 1.0
    poll = 0.02
    sync = True
    processes = True

    def clock(self) -> Clock | None:
        return None

    def make(self) -> Adapter[Any]:
        return Harness.make(self)


BRIEF = (
    "roundtrip.e",
    "send.calls",
    "send.returned",
    "window.",
    "lease.lapses",
    "stop.nothing",
    "delivery.members-s",
    "delivery.a-killed",
)

test_directory = suite(Directory)
test_synced = suite(Directory, sync=True, only=("faults.", "outages."))
test_threads = suite(Threads, only=BRIEF)
test_random = random_suite(Directory, examples=60)
