"""What the tests of spans and metrics share: providers in memory, and a client over the memory broker."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ductape import Ductape, Middleware
from ductape_opentelemetry import OpenTelemetry

EVENT = "orders:new"


class Watch:
    """Providers whose spans and metrics stay in memory."""

    def __init__(self, **options: Any) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider(sampler=options.pop("sampler", None))
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])
        self.middleware = OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters, **options)

    def spans(self, operation: str = "") -> list[ReadableSpan]:
        """Return the finished spans of an operation's type."""
        found = self.exporter.get_finished_spans()
        return [
            each for each in found if not operation or attributes(each).get("messaging.operation.type") == operation
        ]

    def metrics(self) -> dict[str, list[Any]]:
        """Return the data points by metric."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


@asynccontextmanager
async def opened(
    watch: Watch, handler: Callable[..., Any] | None = None, *, inner: Middleware | None = None, **options: Any
) -> AsyncIterator[Ductape]:
    middleware = [watch.middleware, *([inner] if inner else [])]
    async with Ductape(product="shop", env="dev", middleware=middleware) as ductape:
        await ductape.broker.create(tag="orders", envs=[{"slug": "dev", "type": "MEMORY"}])
        await ductape.broker.topic.create(tag=EVENT, groups=["billing"])
        if handler is not None:
            await ductape.event.subscribe(EVENT, callback=handler, group="billing", **options)
        yield ductape


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


def ids(spans: Sequence[ReadableSpan]) -> set[int]:
    return {each.context.trace_id for each in spans if each.context is not None}
