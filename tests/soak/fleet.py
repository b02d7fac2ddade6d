"""Consumer processes that are ended and replaced, and what they wrote down."""

import asyncio
import collections
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple


class Handled(NamedTuple):
    """One run of a handler, as a worker wrote it."""

    id: str
    key: str
    number: int
    at: float
    """Seconds of the system's monotonic clock, which all processes share."""


class Fleet:
    """Consumer processes of one group; every one writes a log of its own.

    Args:
        order: What a worker reads: `env`, `topic`, `options` of the subscription, `seconds` that a handler takes.
        folder: Where the logs go.
    """

    def __init__(self, order: Mapping[str, Any], folder: Path) -> None:
        self._order, self._folder = order, folder
        self._workers: list[subprocess.Popen[str]] = []
        self._number = 0

    async def add(self, number: int = 1) -> None:
        """Start some at the same moment, and wait until they have joined."""
        await asyncio.gather(*(asyncio.to_thread(self._add) for _ in range(number)))

    def _add(self) -> None:
        self._number += 1
        log = self._folder / f"{self._number}-{time.monotonic_ns()}.log"
        text = json.dumps({**self._order, "log": str(log)})
        worker = subprocess.Popen([sys.executable, "-m", "tests.soak.worker", text], stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        if worker.stdout.readline().strip() != "ready":
            worker.kill()
            worker.wait()
            raise RuntimeError("a consumer did not start: see what it printed above")
        self._workers.append(worker)

    async def end(self, how: signal.Signals) -> int:
        """End the oldest with a signal; return its exit status."""
        worker = self._workers.pop(0)
        worker.send_signal(how)
        return await asyncio.to_thread(worker.wait, 60)

    async def stop(self) -> list[int]:
        """End all of them in order, one after the other."""
        return [await self.end(signal.SIGTERM) for _ in list(self._workers)]

    def kill(self) -> None:
        """End what is left, whatever happened."""
        for worker in self._workers:
            worker.kill()
            worker.wait()

    def handled(self) -> list[Handled]:
        """Return what all of them handled, in the order of time."""
        found = []
        for log in self._folder.glob("*.log"):
            for line in log.read_text().splitlines():
                id, key, number, at = line.split()
                found.append(Handled(id, key, int(number), float(at)))
        return sorted(found, key=lambda each: each.at)

    async def drained(self, published: Sequence[str], within: float, quiet: float) -> list[Handled]:
        """Wait until everything was handled, and then long enough for a lease to bring something again.

        Args:
            published: Ids.
            within: Seconds without anything new after which the rest counts as lost.
            quiet: Seconds to wait in the end.
        """
        wanted, before, since = set(published), -1, time.monotonic()
        while True:
            handled = {each.id for each in await asyncio.to_thread(self.handled)}
            if len(handled) != before:
                before, since = len(handled), time.monotonic()
            if handled >= wanted or time.monotonic() - since > within:
                break
            await asyncio.sleep(0.3)
        await asyncio.sleep(quiet)
        return await asyncio.to_thread(self.handled)


def judged(handled: Sequence[Handled], published: Sequence[str], *, ordered: bool) -> dict[str, Any]:
    """Count what was lost, handled twice or overtaken; nothing is left out of the count.

    Args:
        handled: Every run of a handler, in the order of time.
        published: Ids that were confirmed.
        ordered: Whether the messages of a key had to keep their order; a redelivery is not an overtaking.
    """
    counts = collections.Counter(each.id for each in handled)
    last: dict[str, int] = {}
    seen: set[str] = set()
    overtaken = 0
    for each in handled:
        if each.id in seen:
            continue
        seen.add(each.id)
        overtaken += each.number < last.get(each.key, -1)
        last[each.key] = max(each.number, last.get(each.key, -1))
    pauses = [later.at - earlier.at for earlier, later in pairwise(handled)]
    row = {
        "published": len(published),
        "lost": sum(id not in counts for id in published),
        "handled twice": sum(count - 1 for count in counts.values()),
    }
    if ordered:
        row["out of order"] = overtaken
    return row | {"longest time without a message, s": round(max(pauses, default=0.0), 2)}
