"""The instruments: those that a reader asks are made once per provider of meters, the others once per middleware."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from importlib.metadata import version
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter, get_meter_provider

from ductape import SubscriberSite

from . import _conventions as c

__all__ = ["Instruments"]

Attributes = Mapping[str, str]
LAG_SECONDS = 2.0
"""How long a collection waits for the lags, which are asked for at the same time."""


class Watched:
    """A subscription that gauges look at when a reader collects: nothing runs in between."""

    def __init__(self, site: SubscriberSite, attributes: Attributes) -> None:
        """Remember the loop and the thread; called on both."""
        self.site, self.attributes = site, attributes
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self.opened = False
        """It was open: when it has no stats any more, it has ended."""
        self._loop.call_soon(self._begun)  # whoever opens it does so before anything else runs here

    def _begun(self) -> None:
        self.opened = True

    @property
    def ended(self) -> bool:
        """Nobody needs to look again."""
        return self.opened and not self.stats()

    def stats(self) -> Mapping[str, float]:
        """Return its counters and gauges; empty before it opened and after it ended."""
        return self.site.stats()

    def ask_lag(self) -> Future[int | None] | None:
        """Ask the broker, on the client's loop; None: its loop is the one that asks here, or has ended."""
        if threading.get_ident() == self._thread or not self._loop.is_running():
            return None
        return asyncio.run_coroutine_threadsafe(self._ask(), self._loop)

    async def _ask(self) -> int | None:
        return await self.site.lag()


Read = Callable[[Sequence[Watched]], "Iterable[float | None]"]
"""One value for each subscription; None: it does not tell."""
Merge = Callable[[float, float], float]
"""How the values of two clients become one."""


class Tally:
    """What one place counted: an addition here, read when a reader collects; a counter's `add` costs ten times that.

    Clients in several threads share it: add what is computed before, so that nothing runs between reading and writing.
    """

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


class Observables:
    """What a reader asks for, of all clients in the process: an SDK keeps the first instrument of a name."""

    def __init__(self, meter: Meter) -> None:
        """Make them."""
        self.sent, self.consumed = Tallies(), Tallies()
        self._watched: list[Watched] = []
        meter.create_observable_counter(
            c.SENT, [self.sent.observe], "{message}", "Messages that a producer tried to send."
        )
        meter.create_observable_counter(
            c.CONSUMED, [self.consumed.observe], "{message}", "Messages that were delivered."
        )
        gauges: tuple[tuple[str, str, str, Read, Merge], ...] = (
            ("ductape.in_hand", "{message}", "Messages delivered and not settled.", _each(_in_hand), operator.add),
            ("ductape.parked", "{message}", "Messages that wait here for their time.", _each(_parked), operator.add),
            ("ductape.oldest", "s", "Age in hand of the oldest message that is not settled.", _each(_oldest), max),
            ("ductape.lag", "{message}", "Messages that the group was not given yet.", _lags, max),
        )
        for name, unit, description, read, merge in gauges:
            meter.create_observable_gauge(name, [self._observing(read, merge)], unit, description)

    def watch(self, site: SubscriberSite, attributes: Attributes) -> None:
        """Have the gauges look at a subscription, until it ends."""
        with _lock:
            self._watched = [*(each for each in self._watched if not each.ended), Watched(site, attributes)]

    def _observing(self, read: Read, merge: Merge) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            found: dict[tuple[str, ...], Observation] = {}
            watched = [each for each in self._watched if each.stats()]
            for each, value in zip(watched, read(watched), strict=True):
                if value is not None:
                    key = (*each.attributes.values(),)
                    known = found.get(key)
                    found[key] = Observation(merge(known.value, value) if known else value, each.attributes)
            return found.values()

        return observe


_made: WeakKeyDictionary[MeterProvider, Observables] = WeakKeyDictionary()
_global: list[Observables] = []
"""That of the global provider, which an application may set after the first client: ours follows by itself."""
_lock = threading.Lock()


def _observables(provider: MeterProvider | None, meter: Meter) -> Observables:
    with _lock:
        if provider is None or provider is get_meter_provider():
            if not _global:
                _global.append(Observables(meter))
            return _global[0]
        found = _made.get(provider)
        if found is None:
            found = _made[provider] = Observables(meter)
        return found


class Instruments:
    """Counters, histograms and gauges."""

    def __init__(self, provider: MeterProvider | None) -> None:
        """Make them.

        Args:
            provider: Whose; None: the global one.
        """
        ours = "ductape-opentelemetry"
        meter = get_meter(ours, version(ours), provider, c.SCHEMA)
        observables = _observables(provider, meter)
        self.sent, self.consumed, self.watch = observables.sent, observables.consumed, observables.watch
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


def _each(tell: Callable[[Watched], float]) -> Read:
    return lambda watched: map(tell, watched)


def _lags(watched: Sequence[Watched]) -> Iterable[float | None]:
    """Ask for all lags; what cannot be told, or not in time, hides no other."""
    asked = [each.ask_lag() for each in watched]
    waiting = [asking for asking in asked if asking is not None]
    for late in wait(waiting, LAG_SECONDS).not_done:
        late.cancel()
    return [None if each is None or each.cancelled() or each.exception() else each.result() for each in asked]


def _in_hand(each: Watched) -> float:
    stats = each.stats()
    return sum(stats.get(name, 0) for name in ("running", "moving", "queued", "parked"))


def _parked(each: Watched) -> float:
    return each.stats().get("parked", 0)


def _oldest(each: Watched) -> float:
    return each.stats().get("oldest", 0)
