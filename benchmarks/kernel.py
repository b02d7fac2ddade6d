"""The kernel alone: CPU of one message, on an adapter that does nothing."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ductape import Ductape, Event
from ductape._middleware import Publishing, Subscribing
from ductape.adapter import Delivery, Epoch

from . import tracing
from .load import EVENT, Clock, Ledger, Order, client, order
from .null import ENV, NullAdapter, registry_of
from .results import Measured
from .tracing import over

CONSUME: dict[str, Any] = {"concurrency": 64, "prefetch": 1000}
KEYS = 1000

Work = Callable[[int], Awaitable[Measured]]


class Noop:
    """A middleware that wraps and adds nothing."""

    def publisher(self, next: Publishing, site: object) -> Publishing:
        """Wrap sending."""

        async def send(message: Any) -> Any:
            return await next(message)

        return send

    def subscriber(self, next: Subscribing, site: object) -> Subscribing:
        """Wrap handling."""

        async def handle(event: Any) -> object:
            return await next(event)

        return handle


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to measure."""

    title: str
    run: Work
    messages: int = 200_000


def micro(seconds: float, messages: int) -> float:
    """Return microseconds a message."""
    return seconds / messages * 1e6


# -- publish


async def opened(middleware: int = 0) -> tuple[Ductape, NullAdapter]:
    """Return a client whose publisher is open."""
    adapter = NullAdapter()
    ductape = await client(ENV, registry=registry_of(adapter), middleware=[Noop() for _ in range(middleware)])
    await ductape.event.publish(EVENT, order(0))
    adapter.calls = adapter.records = 0
    return ductape, adapter


def publishing(callers: int, *, bound: bool = False, middleware: int = 0, **options: Any) -> Work:
    """Return a case: so many callers, each awaiting every publish."""

    async def run(messages: int) -> Measured:
        ductape, adapter = await opened(middleware)
        publisher = await ductape.event.publisher(EVENT)
        payload = order(1)

        async def through_door(number: int) -> None:
            publish = ductape.event.publish
            for _ in range(number):
                await publish(EVENT, payload, **options)

        async def through_publisher(number: int) -> None:
            publish = publisher.publish
            for _ in range(number):
                await publish(payload, **options)

        caller = through_publisher if bound else through_door
        clock = Clock()
        await asyncio.gather(*(caller(messages // callers) for _ in range(callers)))
        cpu = clock.passed()[0]
        await ductape.close()
        return published(cpu, messages, adapter)

    return run


async def many(messages: int) -> Measured:
    """Measure `publish_many` of a generator."""
    ductape, adapter = await opened()
    payload = order(1)
    clock = Clock()
    receipts = await ductape.event.publish_many(EVENT, (payload for _ in range(messages)))
    cpu = clock.passed()[0]
    await ductape.close()
    assert len(receipts) == messages
    return published(cpu, messages, adapter)


def published(cpu: float, messages: int, adapter: NullAdapter) -> Measured:
    """Return what a run of publishes cost, and what did not arrive."""
    notes = [] if adapter.records == messages else [f"LOST {messages - adapter.records}"]
    calls = {"calls_per_1000": 1000 * adapter.calls / messages}
    return Measured(value=micro(cpu, messages), notes=notes, extra=calls)


# -- consume


def consuming(*, handler: str = "payload", middleware: int = 0, keys: int = 0, **options: Any) -> Work:
    """Return a case: a preloaded backlog through a typed handler; making the deliveries is in the figure."""

    async def run(messages: int) -> Measured:
        ductape, adapter = await loaded(messages, middleware=middleware, keys=keys)
        ledger = Ledger(messages)
        clock = Clock()
        await ductape.event.subscribe(EVENT, callback=handlers(ledger)[handler], **{**CONSUME, **options})
        await adapter.done.wait()
        cpu = clock.passed()[0]
        await ductape.close(1.0)
        return Measured(value=micro(cpu, messages), notes=ledger.faults())

    return run


async def loaded(messages: int, *, middleware: int = 0, keys: int = 0) -> tuple[Ductape, NullAdapter]:
    """Return a client on an adapter with a backlog, its headers those of a real publish."""
    encode = msgspec.json.Encoder().encode
    adapter = NullAdapter([encode(order(number)) for number in range(messages)], keys)
    topic = {"order": "key"} if keys else {}
    registry = registry_of(adapter)
    ductape = await client(ENV, registry=registry, middleware=[Noop() for _ in range(middleware)], topic=topic)
    await ductape.event.publish(EVENT, order(0))
    assert adapter.last is not None
    adapter.headers = dict(adapter.last.headers)
    return ductape, adapter


def handlers(ledger: Ledger) -> dict[str, Callable[..., Awaitable[None]]]:
    """Return the handlers that are measured; each counts what it sees."""
    seen = ledger.seen

    async def payload(message: Order) -> None:
        seen[message.number] += 1

    async def event(message: Order, event: Event[Order]) -> None:
        seen[message.number] += 1

    async def suspends(message: Order) -> None:
        seen[message.number] += 1
        await asyncio.sleep(0)

    return {"payload": payload, "event": event, "suspends": suspends}


async def publish_floor(messages: int) -> Measured:
    """Measure what publishing cannot cost less than: 500 callers encode, and each awaits a future of its own."""
    encode, payload, loop = msgspec.json.Encoder().encode, order(1), asyncio.get_running_loop()
    waiting: list[tuple[bytes, asyncio.Future[bool]]] = []

    async def caller(number: int) -> None:
        for _ in range(number):
            future: asyncio.Future[bool] = loop.create_future()
            waiting.append((encode(payload), future))
            await future

    clock = Clock()
    callers = asyncio.gather(*(caller(messages // 500) for _ in range(500)))
    while not callers.done():
        await asyncio.sleep(0)
        batch, waiting[:] = waiting[:], ()
        for _, future in batch:
            future.set_result(True)
    await callers
    return Measured(value=micro(clock.passed()[0], messages))


async def floor(messages: int) -> Measured:
    """Measure what the consume figures contain beside the kernel: deliveries made, bodies decoded, handler called."""
    encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Order).decode
    backlog = [encode(order(number)) for number in range(messages)]
    handle, headers, epoch = handlers(ledger := Ledger(messages))["payload"], {"a": "b"}, Epoch("floor")
    clock = Clock()
    for place in range(0, messages, 1000):
        for delivery in [Delivery(body, headers, epoch) for body in backlog[place : place + 1000]]:
            await handle(decode(delivery.body))
    cpu = clock.passed()[0]
    return Measured(value=micro(cpu, messages), notes=ledger.faults())


CASES: dict[str, Case] = {
    "publish-500": Case(title="publish, 500 callers, event.publish", run=publishing(500)),
    "publish-500-bound": Case(title="publish, 500 callers, bound publisher", run=publishing(500, bound=True)),
    "publish-500-key": Case(title="publish, 500 callers, key=", run=publishing(500, key="customer-1")),
    "publish-500-middleware-3": Case(
        title="publish, 500 callers, 3 no-op middleware", run=publishing(500, middleware=3)
    ),
    "publish-floor": Case(title="(no kernel: 500 callers encode, each awaits a future)", run=publish_floor),
    "publish-1": Case(title="publish, one caller", run=publishing(1), messages=50_000),
    "publish-many": Case(title="publish_many", run=many),
    "consume": Case(title="consume, typed handler", run=consuming()),
    "consume-event": Case(title="consume, handler takes the Event too", run=consuming(handler="event")),
    "consume-suspends": Case(title="consume, handler suspends once", run=consuming(handler="suspends")),
    "consume-middleware-1": Case(title="consume, 1 no-op middleware", run=consuming(middleware=1)),
    "consume-middleware-3": Case(title="consume, 3 no-op middleware", run=consuming(middleware=3)),
    "consume-timeout": Case(title="consume, timeout=30", run=consuming(timeout=30)),
    "consume-key": Case(title="consume, order=key, 1,000 keys", run=consuming(keys=KEYS, order="key")),
    "consume-defaults": Case(
        title="consume, default concurrency and prefetch", run=consuming(concurrency=8, prefetch=64)
    ),
    "consume-floor": Case(title="(no kernel: make deliveries, decode, call handler)", run=floor),
}
if importlib.util.find_spec("ductape_opentelemetry") and importlib.util.find_spec("opentelemetry.sdk"):
    CASES |= {
        "tracing": Case(
            title="tracing, both sides, every message", run=over(tracing.ours, sampled=True), messages=40_000
        ),
        "tracing-sdk-calls": Case(
            title="(the SDK's own calls for the same)", run=over(tracing.bare, sampled=True), messages=40_000
        ),
        "tracing-sampled-out": Case(
            title="tracing, both sides, sampled out", run=over(tracing.ours, sampled=False), messages=40_000
        ),
        "tracing-sampled-out-sdk-calls": Case(
            title="(the SDK's own calls for the same, sampled out)",
            run=over(tracing.bare, sampled=False),
            messages=40_000,
        ),
        "tracing-sampled-out-least": Case(
            title="(the fewest calls into the SDK, sampled out)",
            run=over(tracing.least, sampled=False),
            messages=40_000,
        ),
        "tracing-without-sdk": Case(
            title="tracing, both sides, no SDK", run=over(tracing.ours, sampled=None), messages=40_000
        ),
    }
