"""From the call that publishes to the first line of the handler, publisher and consumer in one process."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from .contestants import Contestant
from .load import PATIENCE, Clock, Ledger, Work
from .results import Measured
from .run import Run, emptied, ended

RATE = 200
"""Events a second of the light case."""
WARM = 20
BURST = 1.0
"""Seconds for which 64 callers find out what can be done."""
CALLERS = 64
STEP = 1.02
"""From one bucket of a histogram to the next."""


def bucket(seconds: float) -> int:
    """Return the bucket of a latency: they are 2 % wide."""
    return round(math.log(max(seconds * 1e6, 1.0), STEP))


def percentile(histogram: Mapping[int, int], share: float) -> float:
    """Return the latency in ms that this share of the events did not exceed."""
    rest = share * sum(histogram.values())
    for place in sorted(histogram):
        rest -= histogram[place]
        if rest <= 0:
            return float(STEP**place / 1000)
    return math.nan


class Watch(Ledger):
    """Events under way, and how long each took."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__(0)
        self.sent: dict[int, float] = {}
        self.took: list[float] = []
        self.twice = 0
        self.next = 0
        self.quiet = asyncio.Event()

    @property
    def handled(self) -> int:
        """How many events arrived, of all that were ever published."""
        return self.next - len(self.sent)

    def faults(self) -> list[str]:
        """Return what went wrong."""
        notes = [f"LOST {len(self.sent)}"] if self.sent else []
        return [*notes, f"TWICE {self.twice}"] if self.twice else notes

    def handler(self) -> Callable[[Any], Awaitable[None]]:
        """Return a handler that notes arrivals."""
        sent, took, now = self.sent, self.took, time.perf_counter

        async def handle(message: Any) -> None:
            began = sent.pop(message.number, None)
            if began is None:
                self.twice += 1
                return
            took.append(now() - began)
            if not sent:
                self.quiet.set()

        return handle

    async def publish(self, who: Contestant) -> None:
        """Publish one more."""
        number, self.next = self.next, self.next + 1
        self.sent[number] = time.perf_counter()
        await who.caller(iter((number,)))

    async def settled(self) -> None:
        """Wait until nothing is under way; gives up on what does not come."""
        while self.sent:
            self.quiet.clear()
            before = len(self.took)
            try:
                await asyncio.wait_for(self.quiet.wait(), PATIENCE)
            except TimeoutError:
                if len(self.took) == before:
                    return


def latencies(share: float = 0.0) -> Callable[[Run], Awaitable[Measured]]:
    """Return a case: at a light rate, or at this share of what the contestant can do."""

    async def run(run: Run) -> Measured:
        who, watch = run.contestant, Watch()
        if run.provider.keeps:
            await emptied(run)
        await who.open(CALLERS)
        decode = msgspec.json.Decoder(who.load.kind).decode
        work = Work(
            messages=1 << 60,
            decode=decode,
            handle=watch.handler(),
            ledger=watch,
            done=asyncio.Event(),
            kind=who.load.kind,
        )
        consumer = asyncio.create_task(who.consume(work))
        try:
            for _ in range(WARM):
                await watch.publish(who)
                await watch.settled()
                if watch.sent:
                    raise RuntimeError("nothing arrives" if watch.next == 1 else "an event was lost")
            rate = share * await capacity(who, watch) if share else RATE
            watch.took.clear()
            clock = Clock()
            number = await paced(who, watch, rate, run.seconds if share else run.messages / RATE)
            cpu, _ = clock.passed()
        finally:
            await ended(consumer, work)
            await who.close()
        histogram: dict[int, int] = {}
        for took in watch.took:
            histogram[bucket(took)] = histogram.get(bucket(took), 0) + 1
        extra = {"rate": rate, "cpu": cpu / number * 1e6, "p99": percentile(histogram, 0.99)}
        return Measured(value=percentile(histogram, 0.5), notes=watch.faults(), extra=extra, histogram=histogram)

    return run


async def capacity(who: Contestant, watch: Watch) -> float:
    """Return how many events a second arrive when 64 callers do what they can."""
    began = time.perf_counter()

    async def caller() -> None:
        while time.perf_counter() - began < BURST:
            await watch.publish(who)

    before = watch.next
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    await watch.settled()
    return (watch.next - before) / (time.perf_counter() - began)


async def paced(who: Contestant, watch: Watch, rate: float, seconds: float) -> int:
    """Publish at a rate, whether or not earlier ones are done; returns how many."""
    number, began, tasks = max(1, int(rate * seconds)), time.perf_counter(), set()
    for each in range(number):
        await asyncio.sleep(max(0.0, began + each / rate - time.perf_counter()))
        task = asyncio.create_task(watch.publish(who))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    await watch.settled()
    return number
