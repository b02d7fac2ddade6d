"""The instruments, made once per middleware."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from ductape import SubscriberSite

from . import _conventions as c

__all__ = ["Instruments"]

Attributes = Mapping[str, str]
LAG_SECONDS = 2.0
"""How long a collection waits for one group's lag."""


class Watched:
    """A subscription that gauges look at when a reader collects: nothing runs in between."""

    def __init__(self, site: SubscriberSite, attributes: Attributes) -> None:
        """Remember the loop and the thread; called on both."""
        self.site, self.attributes = site, attributes
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self.opened = False

    def stats(self) -> Mapping[str, float]:
        """Return its counters and gauges; empty before it opened and after it ended."""
        stats = self.site.stats()
        self.opened = self.opened or bool(stats)
        return stats

    def lag(self) -> int | None:
        """Ask the broker, on the client's loop; None where it does not tell, or when asked from that loop itself."""
        if threading.get_ident() == self._thread or not self._loop.is_running():
            return None
        asking = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        try:
            return asking.result(LAG_SECONDS)
        except TimeoutError:
            asking.cancel()
            return None

    async def _ask(self) -> int | None:
        return await self.site.lag()


class Tally:
    """What one place counted: an addition here, read when a reader collects; a counter's `add` costs ten times that."""

    __slots__ = ("attributes", "number")

    def __init__(self, attributes: Attributes) -> None:
        """Begin at nothing."""
        self.attributes, self.number = attributes, 0


class Tallies:
    """A counter whose additions cost next to nothing."""

    def __init__(self) -> None:
        """Begin with no place."""
        self._found: dict[tuple[str, ...], Tally] = {}

    def of(self, attributes: Attributes) -> Tally:
        """Return the tally of these attributes, which are always the same ones."""
        key = (*attributes.values(),)
        return self._found.get(key) or self._found.setdefault(key, Tally(attributes))

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        """Give what was counted, for a reader that collects."""
        return [Observation(each.number, each.attributes) for each in list(self._found.values()) if each.number]


class Instruments:
    """Counters, histograms and gauges."""

    def __init__(self, meter: Meter) -> None:
        """Make them."""
        self.sent, self.consumed = Tallies(), Tallies()
        meter.create_observable_counter(
            c.SENT, [self.sent.observe], "{message}", "Messages that a producer tried to send."
        )
        meter.create_observable_counter(
            c.CONSUMED, [self.consumed.observe], "{message}", "Messages that were delivered."
        )
        self.operation = meter.create_histogram(
            c.OPERATION_DURATION,
            "s",
            "Duration of sending and settling.",
            explicit_bucket_boundaries_advisory=c.BUCKETS,
        )
        self.process = meter.create_histogram(
            c.PROCESS_DURATION, "s", "Duration of handlers.", explicit_bucket_boundaries_advisory=c.BUCKETS
        )
        self.dead = meter.create_counter("ductape.dead_letters", "{message}", "Messages stored as dead letters.")
        self.retries = meter.create_counter("ductape.retries", "{message}", "Attempts that failed and are repeated.")
        self._watched: list[Watched] = []
        gauges: tuple[tuple[str, str, str, Callable[[Watched], float | None]], ...] = (
            ("ductape.in_hand", "{message}", "Messages delivered and not settled.", _in_hand),
            ("ductape.parked", "{message}", "Messages that wait here for their time.", _parked),
            ("ductape.oldest", "s", "Age in hand of the oldest message that is not settled.", _oldest),
            ("ductape.lag", "{message}", "Messages that the group was not given yet.", Watched.lag),
        )
        for name, unit, description, read in gauges:
            meter.create_observable_gauge(name, [self._observing(read)], unit, description)

    def watch(self, site: SubscriberSite, attributes: Attributes) -> None:
        """Have the gauges look at a subscription, until it ends."""
        self._watched.append(Watched(site, attributes))

    def _observing(self, read: Callable[[Watched], float | None]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for each in list(self._watched):
                if each.stats():
                    value = read(each)
                    if value is not None:
                        yield Observation(value, each.attributes)
                elif each.opened and each in self._watched:
                    self._watched.remove(each)

        return observe


def _in_hand(each: Watched) -> float:
    stats = each.stats()
    return sum(stats.get(name, 0) for name in ("running", "moving", "queued", "parked"))


def _parked(each: Watched) -> float:
    return each.stats().get("parked", 0)


def _oldest(each: Watched) -> float:
    return each.stats().get("oldest", 0)
