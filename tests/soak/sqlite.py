"""A file that processes share: publishers and consumers are killed in the middle of their transactions."""

import asyncio
import collections
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from ductape import Event, PublishError
from tests.soak.fleet import Fleet, judged
from tests.soak.ground import GROUP, TOPIC, Ground, Row, Run, declared

CALLERS = 50
ENDLESS = 10**9


class SqliteGround(Ground):
    """SQLite. There is no server: what would kill it kills a process of ours."""

    name: ClassVar[str] = "sqlite"
    packages: ClassVar[tuple[str, ...]] = ("ductape-sqlite",)
    settings: ClassVar[str] = f"SQLite {sqlite3.sqlite_version}, `synchronous` full, one file that all processes share"
    durable: ClassVar[bool] = False
    linked: ClassVar[bool] = False
    ordered: ClassVar[bool] = True

    def make(self) -> Any:
        """There is no server."""
        raise NotImplementedError

    @contextmanager
    def running(self) -> Iterator[Any]:
        """Have a folder for the file."""
        with tempfile.TemporaryDirectory() as folder:
            self.folder = Path(folder)
            yield self

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "soak.db"

    def env(self, port: int | None = None) -> Mapping[str, Any]:
        """Return a short lease."""
        return {"type": "SQLITE", "config": {"path": str(self.path), "lease": self.lease, "maxLength": None}}

    async def stored(self) -> collections.Counter[str]:
        """Count the messages of the channel."""
        db = sqlite3.connect(self.path)
        found = db.execute("SELECT json_extract(headers, '$.ductape-id') FROM ductape_message").fetchall()
        db.close()
        return collections.Counter(id for (id,) in found)

    def more(self) -> Mapping[str, Run]:
        """Return what only a file can be asked for."""
        return {
            "publishers and consumers, 20 × kill -9 of each": both_killed,
            "four processes publish, four consume": four_and_four,
            "a disk that fills up, and is given room": disk_full,
        }


class Publishers:
    """Processes that publish, and write down what was confirmed."""

    def __init__(self, ground: Ground, folder: Path) -> None:
        self._ground, self._folder, self._number = ground, folder, 0
        self.running: list[subprocess.Popen[bytes]] = []

    def add(self, messages: int = ENDLESS) -> None:
        """Start one."""
        self._number += 1
        order = {"env": self._ground.env(), "topic": self._ground.topic(), "messages": messages}
        order |= {"log": str(self._folder / f"{self._number}.confirmed")}
        self.running.append(subprocess.Popen([sys.executable, "-m", "tests.soak.sqlite", json.dumps(order)]))

    def kill(self) -> None:
        """Kill -9 the oldest."""
        process = self.running.pop(0)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def confirmed(self) -> list[str]:
        """Return the ids of what was confirmed to any of them."""
        return [id for log in self._folder.glob("*.confirmed") for id in log.read_text().split()]


def _fleet(ground: Ground, folder: Path) -> Fleet:
    options = {"concurrency": 16, "prefetch": 64, "order": "key"}
    return Fleet({"env": ground.env(), "topic": ground.topic(), "options": options, "seconds": 0.001}, folder)


async def both_killed(ground: Ground, times: int = 20) -> Row:
    """Two publish, two consume; one of each is killed and replaced again and again."""
    with ground.running(), tempfile.TemporaryDirectory() as folder:
        fleet, publishers = _fleet(ground, Path(folder)), Publishers(ground, Path(folder))
        try:
            await fleet.add(2)
            for _ in range(2):
                publishers.add()
            for turn in range(times):
                await asyncio.sleep(0.7 + 0.013 * turn)
                await asyncio.to_thread(publishers.kill)
                publishers.add()
                await asyncio.sleep(0.2)
                await fleet.end(signal.SIGKILL)
                await fleet.add()
            while publishers.running:
                await asyncio.to_thread(publishers.kill)
            confirmed = publishers.confirmed()
            await fleet.drained(confirmed, ground.patience, ground.lease * 1.5)
            statuses = await fleet.stop()
            handled = fleet.handled()
        finally:
            fleet.kill()
        stored = await ground.stored()
        with closing(sqlite3.connect(SQLITE.path)) as db:
            whole = db.execute("PRAGMA integrity_check").fetchone()
    return (
        {"kill -9 of publishers": times + 2, "kill -9 of consumers": times}
        | judged(handled, confirmed, ordered=True)
        | {
            "confirmed and lost": sum(id not in stored for id in confirmed),
            "ended with an error": sum(status != 0 for status in statuses) + (whole != ("ok",)),
        }
    )


async def four_and_four(ground: Ground, messages: int = 5_000) -> Row:
    """Nobody is killed, and nobody sees an error."""
    with ground.running(), tempfile.TemporaryDirectory() as folder:
        fleet, publishers = _fleet(ground, Path(folder)), Publishers(ground, Path(folder))
        try:
            await fleet.add(4)
            began = time.monotonic()
            for _ in range(4):
                publishers.add(messages)
            statuses = [await asyncio.to_thread(process.wait) for process in publishers.running]
            confirmed = publishers.confirmed()
            await fleet.drained(confirmed, ground.patience, 0.0)
            seconds = time.monotonic() - began
            statuses += await fleet.stop()
            handled = fleet.handled()
        finally:
            fleet.kill()
    return judged(handled, confirmed, ordered=True) | {
        "messages a second, starting included": round(len(confirmed) / seconds),
        "ended with an error": sum(status != 0 for status in statuses),
    }


async def disk_full(ground: Ground, megabytes: int = 24) -> Row:
    """Publish onto a small file system until it is full, make room, and go on: nothing confirmed is lost."""
    with ground.running():
        mounted = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(SQLITE.folder)]
        await asyncio.to_thread(subprocess.run, mounted, check=True)
        try:
            return await _filled(ground, SQLITE.folder / "ballast", megabytes)
        finally:
            await asyncio.to_thread(subprocess.run, ["umount", "-l", str(SQLITE.folder)], check=True)


async def _filled(ground: Ground, ballast: Path, megabytes: int) -> Row:
    ballast.write_bytes(bytes(megabytes * 400_000))
    ductape = await ground.client()
    confirmed: list[str] = []
    refused = 0
    room = False
    number = 0
    while number < 2_000_000 and (not room or refused == 0 or number % 1000):
        bodies = [{"n": number + each, "pad": "x" * 500} for each in range(100)]
        number += 100
        results = await asyncio.gather(
            *(ductape.event.publish(TOPIC, body, timeout=1.0) for body in bodies), return_exceptions=True
        )
        confirmed += [one.id for one in results if not isinstance(one, BaseException)]
        failed = [one for one in results if isinstance(one, BaseException)]
        if any(not isinstance(one, PublishError) for one in failed):
            raise failed[0]
        refused += len(failed)
        if failed and not room:
            ballast.unlink()
            room = True
    stored = await ground.stored()
    handled: set[str] = set()

    async def handle(event: Event) -> None:
        handled.add(event.id)

    before = shutil.disk_usage(SQLITE.folder).free
    await ductape.event.subscribe(TOPIC, callback=handle, group=GROUP, prefetch=1000)
    end = time.monotonic() + ground.patience
    while not handled >= set(confirmed) and time.monotonic() < end:
        await asyncio.sleep(0.1)
    await ductape.close()
    return {
        "confirmed": len(confirmed),
        "refused while it was full": refused,
        "free afterwards, MB": round(before / 1e6, 1),
        "confirmed and lost": sum(id not in stored for id in confirmed),
        "lost": sum(id not in handled for id in confirmed),
    }


async def publish(order: dict[str, Any]) -> None:
    """Publish as a process of the run, and write down what was confirmed."""
    ductape = await declared(order["env"], order["topic"])
    file = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    numbers = iter(range(order["messages"]))

    async def caller(key: str) -> None:
        for number in numbers:
            receipt = await ductape.event.publish(TOPIC, {"n": number}, key=key)
            os.write(file, f"{receipt.id}\n".encode())  # one write: a kill leaves whole lines

    await asyncio.gather(*(caller(f"{os.getpid()}-{each}") for each in range(CALLERS)))
    await ductape.close()


SQLITE = SqliteGround()
GROUND = SQLITE

if __name__ == "__main__":
    asyncio.run(publish(json.loads(sys.argv[1])))
