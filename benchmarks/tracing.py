"""What tracing costs over both sides of a message: our middleware, and the SDK's own calls for the same spans.

Spans and records are the same: one span of sending and one of handling, a record of the duration inside of each, a
context written and read, and for each batch a span with links and a record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ductape import Event, Message, PublisherSite, Receipt, SubscriberSite
from ductape.adapter import Delivery, Epoch, Settlement, Verdict

from .load import Clock
from .results import Measured

BATCH = 50
"""Messages that one call settles."""
CHANNEL, GROUP = "orders", "billing"
Both = Callable[[int], Awaitable[object]]


def headers() -> dict[str, str]:
    """Return what the kernel puts beside a body."""
    return {"ductape-event": "bench:orders", "ductape-id": "f3a9", "content-type": "application/json"}


def sdk(*, sampled: bool) -> None:
    """Set the SDK up: spans that are recorded and exported nowhere, and a reader of metrics."""
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

    trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_ON if sampled else ALWAYS_OFF))
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))


async def send(message: Message) -> Receipt:
    """Stand for the broker."""
    return Receipt("bench:orders", "f3a9", "orders@1")


async def handle(event: Event[Any]) -> None:
    """Do nothing."""


def ours() -> Both:
    """Return both sides with the middleware around them."""
    from ductape_opentelemetry import OpenTelemetry

    async def nothing() -> None:
        return None

    names: dict[str, Any] = {"product": "bench", "env": "dev", "provider": "REDIS", "event": "bench:orders"}
    site = SubscriberSite(**names, channel=CHANNEL, group=GROUP, batch=False, stats=lambda: {"queued": 0}, lag=nothing)
    middleware = OpenTelemetry()
    publish = middleware.publisher(send, PublisherSite(**names, channel=CHANNEL))
    process = middleware.subscriber(handle, site)
    epoch = Epoch("bench")

    async def batch(number: int) -> None:
        deliveries = []
        for _ in range(number):
            message = Message("bench:orders", None, b"{}", headers(), "f3a9")
            await publish(message)
            deliveries.append(Delivery(b"{}", message.headers, epoch))
            await process(Event("bench:orders", GROUP, 1, None, deliveries[-1]))
        middleware.received(deliveries, site)
        middleware.settled([Settlement(each, Verdict.ACK, 0.0) for each in deliveries], 0.001, site)

    return batch


def bare() -> Both:
    """Return the same spans and records, by the calls that OpenTelemetry's documentation shows."""
    from opentelemetry import context, metrics, propagate, trace
    from opentelemetry.trace import Link, SpanKind

    tracer, meter = trace.get_tracer("bare"), metrics.get_meter("bare")
    sent, consumed = meter.create_counter("sent"), meter.create_counter("consumed")
    operation, processed = meter.create_histogram("operation"), meter.create_histogram("process")
    base = {
        "messaging.system": "redis",
        "messaging.operation.name": "send",
        "messaging.destination.name": CHANNEL,
    }
    grouped = {**base, "messaging.consumer.group.name": GROUP}
    more = {"messaging.operation.type": "send", "ductape.event": "bench:orders", "ductape.env": "dev"}
    epoch = Epoch("bench")

    async def batch(number: int) -> None:
        deliveries = []
        for _ in range(number):
            carried = headers()
            attributes: dict[str, Any] = {**base, **more, "messaging.message.id": "f3a9"}
            with tracer.start_as_current_span("send orders", kind=SpanKind.PRODUCER, attributes=attributes):
                propagate.inject(carried)
                await send(Message("bench:orders", None, b"{}", carried, "f3a9"))
                operation.record(0.001, {**base, "messaging.operation.type": "send"})
            sent.add(1, base)
            deliveries.append(Delivery(b"{}", carried, epoch))
            token = context.attach(propagate.extract(carried))
            attributes = {**grouped, **more, "messaging.message.id": "f3a9", "ductape.attempt": 1}
            with tracer.start_as_current_span("process orders", kind=SpanKind.CONSUMER, attributes=attributes):
                await handle(Event("bench:orders", GROUP, 1, None, deliveries[-1]))
                processed.record(0.001, grouped)
            context.detach(token)
        consumed.add(number, grouped)
        origins = [trace.get_current_span(propagate.extract(dict(each.headers))) for each in deliveries]
        links = [Link(origin.get_span_context()) for origin in origins]
        tracer.start_span("ack orders", kind=SpanKind.CLIENT, attributes={**grouped, **more}, links=links).end()
        operation.record(0.001, grouped)

    return batch


def least() -> Both:
    """Return the fewest calls into the SDK that do the same for spans that are sampled out."""
    from opentelemetry import context, metrics, propagate, trace
    from opentelemetry.trace import SpanKind

    tracer, meter, textmap = trace.get_tracer("least"), metrics.get_meter("least"), propagate.get_global_textmap()
    operation, processed = meter.create_histogram("operation"), meter.create_histogram("process")
    base = {
        "messaging.system": "redis",
        "messaging.operation.name": "send",
        "messaging.destination.name": CHANNEL,
    }
    sent, grouped = {**base, "messaging.operation.type": "send"}, {**base, "messaging.consumer.group.name": GROUP}
    nowhere, epoch = context.Context(), Epoch("bench")

    async def batch(number: int) -> None:
        for _ in range(number):
            carried = headers()
            within = trace.set_span_in_context(tracer.start_span("send orders", None, SpanKind.PRODUCER, sent))
            textmap.inject(carried, within)
            await send(Message("bench:orders", None, b"{}", carried, "f3a9"))
            operation.record(0.001, sent, within)
            delivery = Delivery(b"{}", carried, epoch)
            came = textmap.extract(carried, nowhere)
            span = tracer.start_span("process orders", came, SpanKind.CONSUMER, grouped)
            token = context.attach(within := trace.set_span_in_context(span, came))
            await handle(Event("bench:orders", GROUP, 1, None, delivery))
            processed.record(0.001, grouped, within)
            context.detach(token)
        tracer.start_span("ack orders", nowhere, SpanKind.CLIENT, grouped)
        operation.record(0.001, grouped)

    return batch


def without() -> Both:
    """Return both sides with nothing around them: what is not tracing's."""
    epoch = Epoch("bench")

    async def batch(number: int) -> None:
        deliveries = []
        for _ in range(number):
            message = Message("bench:orders", None, b"{}", headers(), "f3a9")
            await send(message)
            deliveries.append(Delivery(b"{}", message.headers, epoch))
            await handle(Event("bench:orders", GROUP, 1, None, deliveries[-1]))
        _ = [Settlement(each, Verdict.ACK, 0.0) for each in deliveries]

    return batch


def over(make: Callable[[], Both], *, sampled: bool | None) -> Callable[[int], Awaitable[Measured]]:
    """Return a run: CPU of a message over what it costs without tracing; `sampled` None: no SDK."""

    async def run(messages: int) -> Measured:
        if sampled is not None:
            sdk(sampled=sampled)
        passed = []
        for both in (without(), make()):
            await both(BATCH)  # warm
            clock = Clock()
            for _ in range(messages // BATCH):
                await both(BATCH)
            passed.append(clock.passed()[0])
        return Measured(value=(passed[1] - passed[0]) / messages * 1e6)

    return run
