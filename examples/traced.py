"""Two processes, one trace: this one publishes, another one handles, and both tell their spans.

python examples/traced.py                     over a file, no server (needs ductape-sqlite)
python examples/traced.py redis://localhost   over Redis

With `pip install opentelemetry-exporter-otlp-proto-http` and OTEL_EXPORTER_OTLP_ENDPOINT set, the spans go to a
collector too. Needs `ductape-opentelemetry[sdk]`.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult

from ductape import Ductape, Event, Retry

EVENT = "orders:placed"


class Lines(SpanExporter):
    """Writes one line a span into a file that both processes share."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self.path.open("a") as file:
            for span in spans:
                parent = span.parent.span_id if span.parent else None
                own = span.get_span_context()
                facts = {"process": os.getpid(), "name": span.name, "trace": own.trace_id, "id": own.span_id}
                file.write(json.dumps({**facts, "parent": parent, "start": span.start_time}) + "\n")
        return SpanExportResult.SUCCESS


def trace_into(path: Path, service: str) -> TracerProvider:
    """Set OpenTelemetry up as any application does."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(SimpleSpanProcessor(Lines(path)))
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


async def connected(url: str, folder: Path) -> Ductape:
    """The only line that knows the provider is the environment's."""
    config = (
        {"type": "REDIS", "config": {"url": url}} if url else {"type": "SQLITE", "config": {"path": str(folder / "b")}}
    )
    ductape = Ductape(product="shop", env="dev", middleware=["opentelemetry"])
    await ductape.broker.create(tag="orders", envs=[{"slug": "dev", **config}])
    await ductape.broker.topic.create(tag=EVENT, groups=["billing"])
    return ductape


async def consume(url: str, folder: Path) -> None:
    """The other process: the first attempt fails, the second works."""
    provider = trace_into(folder / "spans", "billing")
    ductape = await connected(url, folder)

    async def bill(order: dict[str, str], event: Event[dict[str, str]]) -> None:
        if event.attempt == 1:
            raise ConnectionError("the card service is busy")
        ductape.stop()

    await ductape.event.subscribe(EVENT, callback=bill, group="billing", retry=Retry(delay=0.1))
    print("ready", flush=True)
    await ductape.serve()
    provider.shutdown()


async def publish(url: str, folder: Path) -> None:
    """This process: publishes inside a span of its own, then prints what both did."""
    provider = trace_into(folder / "spans", "shop")
    command = [sys.executable, __file__, "consume", url, str(folder)]
    other = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert other.stdout is not None
    await other.stdout.readline()
    async with await connected(url, folder) as ductape:
        with trace.get_tracer("shop").start_as_current_span("checkout") as checkout:
            await ductape.event.publish(EVENT, {"orderId": "12345"})
    await asyncio.wait_for(other.wait(), 60)
    provider.shutdown()
    show(folder / "spans", checkout.get_span_context().trace_id)


def show(path: Path, wanted: int) -> None:
    """Print one trace as a tree."""
    spans = [span for span in map(json.loads, path.read_text().splitlines()) if span["trace"] == wanted]
    spans.sort(key=lambda span: span["start"])

    def branch(parent: int | None, depth: int) -> None:
        for span in spans:
            if span["parent"] == parent:
                where = "this process" if span["process"] == os.getpid() else "the other process"
                print(f"{'  ' * depth}{span['name']} ({where})")
                branch(span["id"], depth + 1)

    branch(None, 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["consume"]:
        asyncio.run(consume(sys.argv[2], Path(sys.argv[3])))
    else:
        with tempfile.TemporaryDirectory() as made:
            asyncio.run(publish(sys.argv[1] if len(sys.argv) > 1 else "", Path(made)))
