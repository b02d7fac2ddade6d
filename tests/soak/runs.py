"""The runs that every provider gets."""

import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ductape import Event, PublishError
from ductape_conformance.proxy import TcpProxy
from tests.soak.fleet import Fleet, Handled, judged
from tests.soak.ground import GROUP, TOPIC, Ground, Row, Run

CALLERS, EACH, PAUSE = 200, 100, 0.05
KEYS = 50
BATCH = 100


async def publish_through_kills(ground: Ground, times: int = 10) -> Row:
    """20,000 publishes of 200 callers while the server is killed: nothing confirmed is lost, and nothing fails."""
    with ground.running():
        ductape = await ground.client()
        confirmed: list[str] = []
        failed: list[PublishError] = []
        slowest = 0.0

        async def caller(number: int) -> None:
            nonlocal slowest
            for turn in range(EACH):
                began = time.monotonic()
                try:
                    receipt = await ductape.event.publish(TOPIC, {"n": turn}, key=f"caller-{number}")
                    confirmed.append(receipt.id)
                except PublishError as error:
                    failed.append(error)
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(PAUSE)

        async def kills() -> None:
            for number in range(1, times + 1):
                await _until(lambda: len(confirmed) + len(failed) >= CALLERS * EACH * number / (times + 1))  # noqa: B023 - awaited here
                await ground.killed()

        await asyncio.gather(kills(), *(caller(each) for each in range(CALLERS)))
        await ductape.close()
        stored = await ground.stored()
    return {
        "kills of the server": times,
        "confirmed": len(confirmed),
        "failed": len(failed),
        "confirmed and lost": sum(id not in stored for id in confirmed),
        "stored twice": sum(count - 1 for count in stored.values()),
        "longest publish, s": round(slowest, 2),
    }


async def _until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


class Stream:
    """A publisher that goes on until it is told to end; remembers what was confirmed."""

    def __init__(self, ground: Ground, port: int | None = None) -> None:
        self._ground, self._port = ground, port
        self.confirmed: list[str] = []
        self.failed = 0

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Publish meanwhile, and at least `messages` in all."""
        over = False
        ductape = await self._ground.client(self._port)

        async def publish() -> None:
            number = 0
            while not over or number < self._ground.messages:
                batch = [{"n": number + each} for each in range(BATCH)]
                keys = [f"k{(number + each) % KEYS}" for each in range(BATCH)]
                results = await asyncio.gather(
                    *(ductape.event.publish(TOPIC, body, key=key) for body, key in zip(batch, keys, strict=True)),
                    return_exceptions=True,
                )
                for result in results:
                    if isinstance(result, PublishError):
                        self.failed += 1
                    elif isinstance(result, BaseException):
                        raise result
                    else:
                        self.confirmed.append(result.id)
                number += BATCH
                await asyncio.sleep(self._ground.pause)

        task = asyncio.ensure_future(publish())
        try:
            yield
        finally:
            over = True
            await task
            await ductape.close()


async def consumers_ended(
    ground: Ground, how: Sequence[signal.Signals], *, members: int = 2, seconds: float = 0.002, concurrency: int = 16
) -> Row:
    """Consumers are ended under load, one after the other, and replaced."""

    async def disturb(fleet: Fleet) -> list[int]:
        statuses = []
        for each in how:
            await asyncio.sleep(0.4)
            status = await fleet.end(each)
            statuses += [status] if each is signal.SIGTERM else []
            await fleet.add()
        return statuses

    told = {"kill -9": how.count(signal.SIGKILL), "SIGTERM": how.count(signal.SIGTERM), "members": members}
    return told | await _consumed(ground, disturb, members=members, seconds=seconds, concurrency=concurrency)


async def consumers_through_kills(ground: Ground, times: int = 10) -> Row:
    """The server is killed while two processes consume."""

    async def disturb(fleet: Fleet) -> list[int]:
        for _ in range(times):
            await asyncio.sleep(1.0)
            await ground.killed()
        return []

    return {"kills of the server": times} | await _consumed(ground, disturb, members=2, seconds=0.002, concurrency=16)


async def _consumed(
    ground: Ground,
    disturb: Callable[[Fleet], Awaitable[list[int]]],
    *,
    members: int,
    seconds: float,
    concurrency: int,
) -> Row:
    options: dict[str, Any] = {"concurrency": concurrency, "prefetch": concurrency * 4}
    options |= {"order": "key"} if ground.ordered else {}
    with ground.running(), tempfile.TemporaryDirectory() as folder:
        order = {"env": ground.env(), "topic": ground.topic(), "options": options, "seconds": seconds}
        fleet = Fleet(order, Path(folder))
        try:
            await fleet.add(members)
            stream = Stream(ground)
            async with stream.flowing():
                statuses = await disturb(fleet)
            await fleet.drained(stream.confirmed, ground.patience, ground.lease * 1.5)
            statuses += await fleet.stop()
            handled = fleet.handled()
        finally:
            fleet.kill()
    ended = sum(status != 0 for status in statuses)
    return judged(handled, stream.confirmed, ordered=ground.ordered) | {
        "publishes failed": stream.failed,
        "ended with an error": ended,
    }


async def links_broken(ground: Ground, cuts: int = 10, stalls: int = 3) -> Row:
    """One process publishes and consumes through a link that is cut, and stalls for two seconds."""
    handled: list[Handled] = []

    async def handle(event: Event[Any]) -> None:
        handled.append(Handled(event.id, event.key or "-", event.message["n"], time.monotonic()))

    with ground.running() as server:
        async with ground.proxied(server) as proxy:
            consumer = await ground.client(proxy.port)
            order: dict[str, Any] = {"order": "key"} if ground.ordered else {}
            await consumer.event.subscribe(TOPIC, callback=handle, group=GROUP, concurrency=16, **order)
            stream = Stream(ground, proxy.port)
            async with stream.flowing():
                await _break(proxy, cuts, stalls)
            wanted, before, since = set(stream.confirmed), -1, time.monotonic()
            while not wanted <= {each.id for each in handled} and time.monotonic() - since < ground.patience:
                if len(handled) != before:
                    before, since = len(handled), time.monotonic()
                await asyncio.sleep(0.2)
            await asyncio.sleep(ground.lease * 1.5)
            await consumer.close()
    return (
        {"cuts": cuts, "stalls": stalls}
        | judged(handled, stream.confirmed, ordered=ground.ordered)
        | {"publishes failed": stream.failed}
    )


async def _break(proxy: TcpProxy, cuts: int, stalls: int) -> None:
    for number in range(cuts):
        await asyncio.sleep(0.5)
        proxy.cut()
        if number < stalls:
            await asyncio.sleep(0.5)
            proxy.stall()
            await asyncio.sleep(2.0)
            proxy.resume()


KILL, TERM = signal.SIGKILL, signal.SIGTERM


def runs(ground: Ground) -> Mapping[str, Run]:
    """Return the runs of a provider by name."""
    found: dict[str, Run] = {}
    if ground.durable:
        found["publish, 10 × kill -9 of the server"] = publish_through_kills
        found["consume, 10 × kill -9 of the server"] = consumers_through_kills
    found["consumers, 10 × kill -9"] = lambda each: consumers_ended(each, [KILL] * 10)
    found["consumers, kill -9 and SIGTERM in turn"] = lambda each: consumers_ended(each, [KILL, TERM] * 5)
    found["consumers, 10 × SIGTERM"] = lambda each: consumers_ended(each, [TERM] * 10)
    found["three consumers, slow handlers, 10 × SIGTERM"] = lambda each: consumers_ended(
        each, [TERM] * 10, members=3, seconds=0.1, concurrency=64
    )
    found["links, 10 × cut and 3 × stall"] = links_broken
    return {**found, **ground.more()}


def bad(name: str, row: Row) -> list[str]:
    """Return what must not be in a row."""
    never = ["lost", "confirmed and lost", "failed", "publishes failed", "ended with an error", "out of order"]
    if "× SIGTERM" in name and "kill" not in name:
        never.append("handled twice")
    return [] if "raw client" in name else [f"{what}: {row[what]}" for what in never if row.get(what)]
