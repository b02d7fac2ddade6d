"""What a message costs when there are many: publishing, and working off a backlog."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .load import Clock, counting
from .results import Measured
from .run import Run, bounded, costs, emptied, probed


def publishing(callers: int) -> Callable[[Run], Awaitable[Measured]]:
    """Return a case: so many callers at once, each awaiting its own publish; then what is stored is counted.

    Each publishes once before, so that pools are full and buffers have grown.
    """

    async def run(run: Run) -> Measured:
        who, messages = run.contestant, run.messages
        await emptied(run)
        await who.open(callers)
        number = 1 if who.alone else callers
        await asyncio.gather(*(who.caller(iter((0,))) for _ in range(number)))
        before = await probed(run, lambda raw: raw.stored())
        numbers = iter(range(messages))
        clock = Clock()
        await asyncio.gather(*(who.caller(numbers) for _ in range(number)))
        measured = costs(clock, messages)
        await who.close()
        measured.notes += await unstored(run, before, messages)
        return measured

    return run


async def publish_many(run: Run) -> Measured:
    """Publish all with one call, or the raw client's batches one after the other."""
    who, messages = run.contestant, run.messages
    await emptied(run)
    await who.open(1)
    await who.many(range(1))
    before = await probed(run, lambda raw: raw.stored())
    clock = Clock()
    await who.many(range(messages))
    measured = costs(clock, messages)
    await who.close()
    measured.notes += await unstored(run, before, messages)
    return measured


async def unstored(run: Run, before: int | None, messages: int) -> list[str]:
    """Say what of so many messages is missing on the server, or is there twice."""
    after = await probed(run, lambda raw: raw.stored())
    if before is None or after is None:
        return []
    missing = messages - (after - before)
    return [f"LOST {missing}"] if missing > 0 else [f"TWICE {-missing}"] if missing < 0 else []


async def consume(run: Run) -> Measured:
    """Measure a typed handler on a backlog, acknowledged after it: from having joined to the last settlement."""
    who, messages = run.contestant, run.messages
    work = counting(messages, who.load)
    await who.open(1)
    if not run.provider.keeps:
        await who.fill(messages)
    work.joined()
    await bounded(who.consume(work), work)
    measured = costs(work.clock, messages)
    await who.close()
    left = await probed(run, lambda raw: raw.left())
    measured.notes += work.ledger.faults() + ([f"UNSETTLED {left}"] if left else [])
    return measured
