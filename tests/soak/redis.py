"""Redis: kills of the server while it stores, and of consumers while they handle."""

import asyncio
import collections
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis.asyncio as raw

from ductape import Ductape, PublishError
from tests.brokers.redis import Redis

CALLERS, EACH, PAUSE = 200, 100, 0.05
LEASE = 3.0

Row = dict[str, Any]


async def client(url: str, lease: float = LEASE) -> Ductape:
    """Return a client with one topic and its group declared."""
    ductape = Ductape(product="soak", env="dev")
    await ductape.broker.create(
        tag="b", envs=[{"slug": "dev", "type": "REDIS", "config": {"url": url, "lease": lease}}]
    )
    await ductape.broker.topic.create(tag="b:t", groups=["billing"])
    return ductape


@contextmanager
def running(server: Redis) -> Iterator[Redis]:
    """Start a server of the run's own, and stop it."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def stored(url: str, stream: str, field: str) -> collections.Counter[str]:
    """Count the entries of a stream by id."""
    server = raw.Redis.from_url(url)
    counts: collections.Counter[str] = collections.Counter()
    at = b"-"
    while entries := await server.xrange(stream, min=at, count=5000):
        counts.update(entry[field.encode()].decode() for _, entry in entries)
        at = b"(" + entries[-1][0]
    await server.aclose()
    return counts


async def kills(server: Redis, progress: Callable[[], int], total: int, times: int) -> int:
    """Kill -9 the server `times` times, spread over the run, and start it again a second later."""
    done = 0
    for number in range(1, times + 1):
        while progress() < total * number // (times + 1):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(server.restart)
        done += 1
    return done


async def publish_through_kills(times: int = 3) -> Row:
    """20,000 publishes of 200 callers while the server is killed: nothing confirmed is lost, and nothing fails."""
    with running(Redis(appendfsync="always")) as server:
        ductape = await client(server.url)
        receipts: list[tuple[str, str]] = []
        failed: list[str] = []

        async def caller(number: int) -> None:
            for turn in range(EACH):
                try:
                    receipt = await ductape.event.publish("b:t", {"n": number, "turn": turn})
                    receipts.append((receipt.id, receipt.position))
                except PublishError as error:
                    failed.append(str(error))
                await asyncio.sleep(PAUSE)

        began = time.monotonic()
        killed, *_ = await asyncio.gather(
            kills(server, lambda: len(receipts), CALLERS * EACH, times), *(caller(each) for each in range(CALLERS))
        )
        seconds = time.monotonic() - began
        await ductape.close()
        entries = await stored(server.url, "b.t", "ductape-id")
        positions = await entry_ids(server.url, "b.t")
    return {
        "kills": killed,
        "confirmed": len(receipts),
        "failed": len(failed),
        "confirmed and lost": sum(id not in entries for id, _ in receipts),
        "receipts that are not true": sum(position.rsplit("@", 1)[1] not in positions for _, position in receipts),
        "stored twice": sum(count - 1 for count in entries.values()),
        "seconds": round(seconds, 1),
    }


async def entry_ids(url: str, stream: str) -> set[str]:
    """Return the ids of all entries."""
    server = raw.Redis.from_url(url)
    found = {id.decode() for id, _ in await server.xrange(stream)}
    await server.aclose()
    return found


async def raw_through_kills(times: int = 3) -> Row:
    """The same load on the client as it comes: what an application sees that awaits XADD."""
    with running(Redis(appendfsync="always")) as server:
        plain = raw.Redis.from_url(server.url, max_connections=CALLERS + 10)
        confirmed: list[str] = []
        failed: list[str] = []

        async def caller(number: int) -> None:
            for turn in range(EACH):
                try:
                    await plain.xadd("raw", {"id": f"{number}-{turn}"})
                    confirmed.append(f"{number}-{turn}")
                except (raw.RedisError, OSError) as error:
                    failed.append(type(error).__name__)
                await asyncio.sleep(PAUSE)

        killed, *_ = await asyncio.gather(
            kills(server, lambda: len(confirmed) + len(failed), CALLERS * EACH, times),
            *(caller(each) for each in range(CALLERS)),
        )
        await plain.aclose()
        entries = await stored(server.url, "raw", "id")
    return {
        "kills": killed,
        "confirmed": len(confirmed),
        "failed": len(failed),
        "confirmed and lost": sum(id not in entries for id in confirmed),
        "stored twice": sum(count - 1 for count in entries.values()),
    }


class Fleet:
    """Two consumer processes, each replaced when it is ended."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder
        self._workers: list[subprocess.Popen[str]] = []
        self._number = 0

    def add(self) -> None:
        """Start one, and wait until it has joined."""
        self._number += 1
        log = str(self._folder / f"{self._number}.log")
        command = [sys.executable, "-m", "tests.soak.worker", self._url, log, str(LEASE)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        if worker.stdout.readline().strip() != "ready":
            raise RuntimeError("a consumer did not start")
        self._workers.append(worker)

    def end(self, how: signal.Signals) -> int:
        """End the oldest with a signal; return its exit status."""
        worker = self._workers.pop(0)
        worker.send_signal(how)
        return worker.wait(30)

    def stop(self) -> list[int]:
        """End all of them in order."""
        return [self.end(signal.SIGTERM) for _ in list(self._workers)]

    def handled(self) -> collections.Counter[str]:
        """Count what all of them handled, by id."""
        counts: collections.Counter[str] = collections.Counter()
        for log in self._folder.glob("*.log"):
            counts.update(log.read_text().split())
        return counts


async def consumers_ended(how: list[signal.Signals], messages: int = 20_000) -> Row:
    """Consumers are ended under load, one after the other, and replaced."""
    with running(Redis(appendfsync="always")) as server, tempfile.TemporaryDirectory() as folder:
        ductape = await client(server.url)
        fleet = Fleet(server.url, Path(folder))
        await asyncio.gather(*(asyncio.to_thread(fleet.add) for _ in range(2)))
        published: list[str] = []

        async def publish() -> None:
            for part in range(messages // 100):
                receipts = await ductape.event.publish_many("b:t", [{"n": part * 100 + each} for each in range(100)])
                published.extend(receipt.id for receipt in receipts)
                await asyncio.sleep(0.02)

        async def end() -> list[int]:
            statuses = []
            for signal_ in how:
                await asyncio.sleep(0.4)
                statuses.append(await asyncio.to_thread(fleet.end, signal_))
                await asyncio.to_thread(fleet.add)
            return statuses

        _, statuses = await asyncio.gather(publish(), end())
        handled = await drained(fleet, published)
        stopped = await asyncio.to_thread(fleet.stop)
        handled = fleet.handled()
        await ductape.close()
    clean = [status for status, each in zip(statuses, how, strict=True) if each is signal.SIGTERM] + stopped
    return {
        "kill -9": how.count(signal.SIGKILL),
        "SIGTERM": how.count(signal.SIGTERM),
        "published": len(published),
        "lost": sum(id not in handled for id in published),
        "handled twice": sum(count - 1 for count in handled.values()),
        "ended with an error": sum(status != 0 for status in clean),
    }


async def drained(fleet: Fleet, published: list[str], within: float = 60.0) -> collections.Counter[str]:
    """Wait until everything was handled, and long enough for a lease to bring something again."""
    end = time.monotonic() + within
    while True:
        handled = await asyncio.to_thread(fleet.handled)
        if handled.keys() >= set(published) or time.monotonic() > end:
            break
        await asyncio.sleep(0.2)
    await asyncio.sleep(LEASE * 1.5)
    return handled


RUNS: dict[str, Callable[[], Any]] = {
    "publish through 3 kills of the server": publish_through_kills,
    "the same with the raw client": raw_through_kills,
    "consumers, 10 × kill -9": lambda: consumers_ended([signal.SIGKILL] * 10),
    "consumers, kill -9 and SIGTERM in turn": lambda: consumers_ended([signal.SIGKILL, signal.SIGTERM] * 5),
    "consumers, 10 × SIGTERM": lambda: consumers_ended([signal.SIGTERM] * 10),
}
