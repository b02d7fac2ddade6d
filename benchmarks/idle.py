"""What a client costs that has nothing to do, and what it holds when it cannot keep up. On a real Redis server."""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from ductape import Ductape

from .load import BROKER, EVENT, Order, order
from .providers.redis import emptied, opened, raw
from .results import Measured

SETTLED = 3.0
"""Seconds between opening and the first look."""
SLOW = 0.005
"""Seconds that the slow handler takes."""

Watch = Callable[[str, float, int], Awaitable[Measured]]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to watch."""

    title: str
    run: Watch
    metric: str
    unit: str
    number: int
    also: dict[str, tuple[str, str]] = {}
    """Further figures: name to title and unit."""
    backlog: bool = False


async def connections(url: str) -> int:
    """Return how many clients the server has, this look not counted."""
    redis = raw(url)
    found = len(await redis.client_list()) - 1
    await redis.aclose()
    return found


async def resting(url: str, seconds: float, extra: dict[str, float]) -> Measured:
    """Watch a process at rest; CPU is scaled to a minute."""
    await asyncio.sleep(SETTLED)
    extra["connections"] = await connections(url)
    await asyncio.sleep(0.5)
    began, wall = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    cpu, passed = time.process_time() - began, time.monotonic() - wall
    extra["rss"] = rss()
    return Measured(value=cpu * 60 / passed, extra=extra, notes=[f"measured for {seconds:g} s and scaled"])


async def topics(url: str, number: int) -> tuple[Ductape, list[str]]:
    """Return a client with so many topics beside the usual one."""
    await emptied(url)
    ductape = await opened(url)
    names = [f"{BROKER}:topic-{each}" for each in range(number)]
    for name in names:
        await ductape.broker.topic.create(name=name, tag=name)
    return ductape, names


async def subscriptions(url: str, seconds: float, number: int) -> Measured:
    """Watch subscriptions of one client to which nothing comes."""
    ductape, names = await topics(url, number)
    heard: asyncio.Queue[int] = asyncio.Queue()

    async def handle(message: Order) -> None:
        heard.put_nowait(message.number)

    await asyncio.gather(*(ductape.event.subscribe(name, callback=handle) for name in names))
    measured = await resting(url, seconds, {})
    for place, name in enumerate(names):  # they are alive
        await ductape.event.publish(name, order(place))
    found = {await asyncio.wait_for(heard.get(), 10.0) for _ in names}
    if len(found) < number:
        measured.notes.append(f"LOST {number - len(found)}")
    await ductape.close(1.0)
    return measured


async def published(url: str, seconds: float, number: int) -> Measured:
    """Watch topics that were published to once."""
    ductape, names = await topics(url, number)
    await asyncio.gather(*(ductape.event.publish(name, order(0)) for name in names))
    measured = await resting(url, seconds, {})
    await ductape.close(1.0)
    return measured


async def backlog(url: str, seconds: float, number: int) -> Measured:
    """Sample memory while a slow handler works on a backlog; the figure is its growth after the first seconds."""
    ductape = await opened(url)

    async def handle(message: Order) -> None:
        await asyncio.sleep(SLOW)

    before = rss()
    subscription = await ductape.event.subscribe(EVENT, callback=handle)
    await asyncio.sleep(SETTLED)
    first = rss()
    samples = [first]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(0.25)
        samples.append(rss())
    stats = subscription.stats()
    await ductape.close(1.0)
    ahead = stats["received"] - stats["handled"]
    extra = {"peak": max(samples), "opening": first - before, "handled": stats["handled"], "in_hand": ahead}
    notes = [f"sampled for {seconds:g} s, handler of {SLOW * 1000:g} ms"]
    if stats["handled"] >= number:
        notes.append("ENDED: the backlog was worked off")
    return Measured(value=max(samples) - first, extra=extra, notes=notes)


def rss() -> float:
    """Return this process's resident memory in MiB; where the system does not tell, its highest so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    return pages * resource.getpagesize() / 1024**2


_CONNECTIONS = {"connections": ("connections to the server", "")}

CASES: dict[str, Case] = {
    "subscriptions": Case(
        title="100 subscriptions of one client, idle",
        run=subscriptions,
        metric="cpu-rest",
        unit="CPU s/minute",
        number=100,
        also=_CONNECTIONS,
    ),
    "topics": Case(
        title="1,000 topics that were published to, at rest",
        run=published,
        metric="cpu-rest",
        unit="CPU s/minute",
        number=1000,
        also=_CONNECTIONS,
    ),
    "backlog": Case(
        title="backlog of 200,000, slow handler: growth",
        run=backlog,
        metric="memory",
        unit="MiB",
        number=200_000,
        backlog=True,
    ),
}
