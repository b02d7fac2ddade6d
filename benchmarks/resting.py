"""What a client holds that cannot keep up, and what many topics cost, at rest and at work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import cast

import msgspec

from ductape import Ductape

from .contestants import OfDuctape
from .load import BROKER, LOADS, MANY, PATIENCE, Clock, Order, Work, counting, order
from .results import Measured
from .run import Run, costs, emptied, ended, probed, rss

SETTLED = 3.0
"""Seconds between opening and the first look."""
SLOW = 0.005
"""Seconds that the slow handler takes."""
CALLERS = 1000
OPENING = 120.0
"""Seconds for the first publish to each topic: a broker makes a thousand at a time, and other work delays it."""
LOOK = 0.02
"""Seconds between two looks at what was handled."""


async def backlog(run: Run) -> Measured:
    """Sample memory while a slow handler works on a backlog: the peak, and its growth after the first seconds."""
    who = run.contestant
    work = counting(run.messages, who.load)
    count = work.handle

    async def handle(message: object) -> None:
        await asyncio.sleep(SLOW)
        await count(message)

    slow = msgspec.structs.replace(work, handle=handle)
    await who.open(1)
    before = rss()
    consumer = asyncio.create_task(who.consume(slow))
    await asyncio.sleep(SETTLED)
    first, samples = rss(), [rss()]
    end = time.monotonic() + run.seconds
    while time.monotonic() < end and not consumer.done():
        await asyncio.sleep(0.25)
        samples.append(rss())
    handled = work.ledger.handled
    await ended(consumer, slow)
    await who.close()
    extra = {"before": before, "growth": max(samples) - first, "handled": float(handled)}
    notes = [f"{run.messages:,} messages, handler of {SLOW * 1000:g} ms, sampled for {run.seconds:g} s"]
    if not handled:
        notes.append("LOST everything: nothing was handled")
    return Measured(value=max(samples), extra=extra, notes=notes)


async def topics(run: Run, number: int) -> tuple[Ductape, list[str]]:
    """Return a client with so many topics beside the usual one."""
    await emptied(run)
    await run.contestant.open(CALLERS)
    ductape = cast(OfDuctape, run.contestant).ductape
    names = [f"{BROKER}:{topic}" for topic in MANY[:number]]
    for name in names:
        await ductape.broker.topic.create(name=name, tag=name)
    return ductape, names


async def watched(run: Run) -> Measured:
    """Watch this process at rest: CPU seconds a minute."""
    await asyncio.sleep(SETTLED)
    connections = await probed(run, lambda raw: raw.connections())
    clock = Clock()
    await asyncio.sleep(run.seconds)
    cpu, wall = clock.passed()
    extra = {"rss": rss()} | ({} if connections is None else {"connections": float(connections)})
    return Measured(value=cpu * 60 / wall, extra=extra, notes=[f"watched for {run.seconds:g} s"])


def published(number: int) -> Callable[[Run], Awaitable[Measured]]:
    """Return a case: topics that were published to once, at rest."""

    async def run(run: Run) -> Measured:
        ductape, names = await topics(run, number)
        await asyncio.gather(*(ductape.event.publish(name, order(0), timeout=OPENING) for name in names))
        measured = await watched(run)
        await ductape.close(5.0)
        return measured

    return run


def subscribed(number: int) -> Callable[[Run], Awaitable[Measured]]:
    """Return a case: subscriptions of one client to which nothing comes; in the end one event goes to each."""

    async def run(run: Run) -> Measured:
        ductape, names = await topics(run, number)
        work = await _subscribe(ductape, names, number)
        measured = await watched(run)
        for place, name in enumerate(names):
            await ductape.event.publish(name, order(place), timeout=OPENING)
        await work.finished()
        measured.notes += work.ledger.faults()
        await ductape.close(5.0)
        return measured

    return run


def working(number: int) -> Callable[[Run], Awaitable[Measured]]:
    """Return a case: events spread over topics, published by 1,000 callers and handled, in one process.

    One goes through each before: what opening takes is told, and not part of what a message costs.
    """

    async def run(run: Run) -> Measured:
        ductape, names = await topics(run, number)
        began, all_of_them = time.perf_counter(), number + run.messages
        work = await _subscribe(ductape, names, all_of_them)
        first = (ductape.event.publish(name, order(each), timeout=OPENING) for each, name in enumerate(names))
        await asyncio.gather(*first)
        await _handled(work, number)
        opening = time.perf_counter() - began
        numbers = iter(range(number, all_of_them))

        async def caller() -> None:
            for each in numbers:
                await ductape.event.publish(names[each % number], order(each))

        clock = Clock()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        await work.finished()
        measured = costs(clock, run.messages)
        measured.extra["seconds to open"] = opening
        measured.notes += work.ledger.faults()
        await ductape.close(5.0)
        return measured

    return run


async def _handled(work: Work, number: int) -> None:
    """Wait until so many were handled; what does not come is told by the ledger in the end."""
    for _ in range(int(PATIENCE / LOOK)):
        if work.ledger.handled >= number:
            return
        await asyncio.sleep(LOOK)


async def _subscribe(ductape: Ductape, names: list[str], messages: int) -> Work:
    work = counting(messages, LOADS["order"])

    async def handle(message: Order) -> None:
        await work.handle(message)

    await asyncio.gather(*(ductape.event.subscribe(name, callback=handle) for name in names))
    return work
