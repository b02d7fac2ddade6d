"""One measurement in this process, and what every case needs: the clocks, the probes, the patience."""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from .contestants import Contestant
from .load import PATIENCE, Clock, Work
from .providers import Provider, Raw
from .results import Measured

ENDING = 10.0
"""Seconds that a consumer has to return when it is asked to."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement, in this process."""

    provider: Provider
    url: str
    contestant: Contestant
    messages: int
    seconds: float = 0.0
    """How long to watch, where that matters."""


def costs(clock: Clock, messages: int) -> Measured:
    """Return what each of so many messages cost, in microseconds."""
    cpu, wall = clock.passed()
    extra = {"wall": wall / messages * 1e6, "messages": float(messages)}
    return Measured(value=cpu / messages * 1e6, extra=extra)


async def bounded(consuming: Awaitable[None], work: Work) -> None:
    """Await a consumer; end it when nothing comes any more."""
    task = asyncio.ensure_future(consuming)
    last, since = -1, time.monotonic()
    while not task.done():
        await asyncio.wait({task}, timeout=1.0)
        if (now := work.ledger.handled) != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > 2 * PATIENCE:
            await ended(task, work)
            return
    task.result()


async def ended(task: asyncio.Future[None], work: Work) -> None:
    """End a consumer: by asking, then by cancelling it. Raises what it raised."""
    work.end()
    done, _ = await asyncio.wait({task}, timeout=ENDING)
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=ENDING)
    if task.done() and not task.cancelled():
        task.result()


async def probed(run: Run, question: Callable[[Raw], Awaitable[int | None]]) -> int | None:
    """Ask the server, by a raw client of its own; None where nobody can tell."""
    if run.provider.raw is None:
        return None
    raw = run.provider.raw(run.url)
    await raw.open(2)
    answer = await question(raw)
    await raw.close()
    return answer


async def emptied(run: Run) -> None:
    """Forget what an earlier run left."""

    async def empty(raw: Raw) -> None:
        await raw.empty()

    await probed(run, empty)


async def fill(run: Run) -> Measured:
    """Load a backlog."""
    await emptied(run)
    run.contestant.measured = False
    await run.contestant.open(100)
    await run.contestant.fill(run.messages)
    await run.contestant.close()
    return Measured(value=0.0)


def rss() -> float:
    """Return this process's resident memory in MiB; where the system does not tell, its highest so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    return pages * resource.getpagesize() / 1024**2
