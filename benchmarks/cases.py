"""What is measured on a provider: each case is written once, for every contestant."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ductape import Registry
from ductape.adapter import Order

from . import latency, resting, throughput
from .child import Spec
from .contestants import CONTESTANTS, Variation
from .load import LOADS
from .providers import Provider, provider
from .results import Measured
from .run import Run, fill

PUBLISHERS = ("raw", "raw bulk", "raw bulk, awaited", "FastStream", "ductape")
CONSUMERS = ("raw", "raw bulk", "FastStream", "ductape", "ductape, defaults")
OURS = ("ductape",)
SIZES = tuple(name for name in LOADS if name != "order")
LARGE = 2_000
"""Messages of 64 kB, at most: a server that is measured keeps them in memory."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to measure."""

    title: str
    run: Callable[[Run], Awaitable[Measured]]
    contestants: tuple[str, ...] = ("raw", "FastStream", "ductape")
    variation: Variation = Variation()
    backlog: bool = False
    """It reads what was loaded before, in a process of its own."""
    full: bool = False
    """Only in the full form."""
    most: int = 40_000
    """Of the messages that make a run of the wanted length, so many are taken; 0: exactly `messages`."""
    least: int = 200
    messages: int = 0
    once: bool = False
    """One repeat on one loop is enough."""
    subscriptions: int = 1
    """How many one process has."""
    metric: str = "cpu"
    unit: str = "µs/message"


def _consuming(title: str, **options: Any) -> Case:
    return Case(title=title, run=throughput.consume, backlog=True, **{"least": 500, **options})


def _varied() -> dict[str, Case]:
    """Return payloads, keys and tracing: the two main cases, changed in one thing."""
    publish, found = throughput.publishing(1000), {}
    for size in SIZES:
        options: Any = {"full": True, "variation": Variation(load=size), "most": LARGE if size == "64 kB" else 40_000}
        who = ("raw", "raw bulk", "ductape")
        name = size.replace(" ", "")
        found[f"publish-1000-{name}"] = Case(
            title=f"publish, 1,000 callers, {size}",
            run=publish,
            contestants=who,
            **options | {"least": min(3_000, LARGE)},
        )
        found[f"consume-{name}"] = _consuming(f"consume, {size}", contestants=who, **options)
    key = Variation(key=True)
    options = {"full": True, "contestants": OURS}
    found["publish-1000-key"] = Case(
        title="publish, 1,000 callers, 1,000 keys", run=publish, least=3_000, variation=key, **options
    )
    found["consume-order-key"] = _consuming(
        "consume, order=key, 1,000 keys", variation=Variation(key=True, order="key"), **options
    )
    traced = Variation(tracing=True)
    found["publish-1000-traced"] = Case(
        title="publish, 1,000 callers, traced", run=publish, least=3_000, variation=traced, **options
    )
    found["consume-traced"] = _consuming("consume, traced", variation=traced, **options)
    return found


def _many_topics() -> dict[str, Case]:
    """Return what topics cost, at rest and at work, and what subscriptions cost."""
    found = {}
    rest: Any = {"full": True, "contestants": OURS, "most": 0, "once": True, "metric": "rest", "unit": "CPU s/minute"}
    for number in (1, 100, 1000):
        named = "1 topic" if number == 1 else f"{number:,} topics"
        found[f"topics-{number}"] = Case(
            title=f"{named}, published to once, at rest", run=resting.published(number), **rest
        )
        found[f"subscriptions-{number}"] = Case(
            title=f"{named}, subscribed to, at rest", run=resting.subscribed(number), subscriptions=number, **rest
        )
        found[f"work-{number}"] = Case(
            title=f"{named}, 1,000 callers: published and handled",
            run=resting.working(number),
            contestants=OURS,
            full=True,
            least=3_000,
            subscriptions=number,
        )
    return found


CASES: dict[str, Case] = {
    "publish-1": Case(title="publish, one caller", run=throughput.publishing(1), most=10_000),
    "publish-64": Case(
        title="publish, 64 callers", run=throughput.publishing(64), contestants=PUBLISHERS, least=1_000, full=True
    ),
    "publish-1000": Case(
        title="publish, 1,000 callers", run=throughput.publishing(1000), contestants=PUBLISHERS, least=2_000
    ),
    "publish-many": Case(
        title="publish_many", run=throughput.publish_many, contestants=("raw bulk", "ductape"), full=True
    ),
    "consume": _consuming("consume, typed, acknowledged after the handler", contestants=CONSUMERS),
    "latency": Case(
        title=f"latency at {latency.RATE} events a second", run=latency.latencies(), most=0, metric="p50", unit="ms"
    ),
    "latency-half": Case(
        title="latency at half of what it can do",
        run=latency.latencies(0.5),
        most=0,
        metric="p50",
        unit="ms",
        full=True,
    ),
    "backlog": Case(
        title="peak memory, long backlog, slow handler",
        run=resting.backlog,
        backlog=True,
        most=0,
        messages=200_000,
        full=True,
        once=True,
        metric="memory",
        unit="MiB",
    ),
    **_varied(),
    **_many_topics(),
}


def impossible(case: Case, provider: Provider) -> str:
    """Say why a case cannot be measured on a provider, or nothing."""
    if case.variation.tracing and not (
        importlib.util.find_spec("ductape_opentelemetry") and importlib.util.find_spec("opentelemetry")
    ):
        return "ductape-opentelemetry is not installed"
    if case.messages and case.backlog and not provider.keeps:
        return "nothing is kept outside the process"
    if case.subscriptions > provider.subscriptions:
        return f"one process holds some hundred subscriptions ({provider.subscriptions} are measured)"
    adapter = Registry().adapter(provider.type, where="a benchmark")
    if case.variation.order == "key" and adapter.capabilities.order < Order.KEY:
        return "it keeps no order by key"
    return ""


async def run(spec: Spec) -> Measured:
    """Measure one contestant in this process, or load its backlog."""
    case, found = CASES[spec.case], provider(spec.suite)
    who = CONTESTANTS[spec.contestant](found, spec.url, case.variation)
    work = Run(provider=found, url=spec.url, contestant=who, messages=spec.messages, seconds=spec.seconds)
    return await (fill if spec.fills else case.run)(work)
