"""Two processes, one trace: this one publishes, another one handles, and both tell their spans.

The other process fails at first, then rejects the message; this one replays the dead letter, and that works. All of it
is in the trace of the publisher.

python examples/traced.py           over a file, no server
python examples/traced.py redis     over another environment of everywhere.toml

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

from ductape import Ductape, Event, Reject, Retry

EVENT = "orders:traced"
CATALOG = Path(__file__).with_name("everywhere.toml")


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
                facts["error"] = (span.attributes or {}).get("error.type")
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


def client(env: str) -> Ductape:
    """Return a client whose publishers and handlers are traced."""
    return Ductape(product="everywhere", env=env, catalog=CATALOG, middleware=["opentelemetry"])


async def consume(env: str, folder: Path) -> None:
    """The other process: the first attempt fails, the second is refused, and what is replayed works."""
    provider = trace_into(folder / "spans", "billing")
    ductape = client(env)
    refused = False

    async def bill(order: dict[str, str], event: Event[dict[str, str]]) -> None:
        nonlocal refused
        if refused:
            ductape.stop()
        elif event.attempt == 1:
            raise ConnectionError("the card service is busy")
        else:
            refused = True
            raise Reject("the card has expired")

    await ductape.event.subscribe(EVENT, callback=bill, group="billing", retry=Retry(delay=0.1))
    print("ready", flush=True)
    await ductape.serve()
    provider.shutdown()


async def replay(ductape: Ductape, id: str) -> None:
    """Give the dead letter of a message to its group again, as soon as there is one."""
    async with asyncio.timeout(60):
        while True:
            async for letter in ductape.event.dead(EVENT, group="billing"):
                if letter.id == id:
                    await letter.replay()
                    return


async def publish(env: str, folder: Path) -> None:
    """This process: publishes inside a span of its own, then prints what both did."""
    provider = trace_into(folder / "spans", "shop")
    command = [sys.executable, __file__, "consume", env, str(folder)]
    other = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert other.stdout is not None
    await other.stdout.readline()
    async with client(env) as ductape:
        with trace.get_tracer("shop").start_as_current_span("checkout") as checkout:
            receipt = await ductape.event.publish(EVENT, {"orderId": "12345"})
        await replay(ductape, receipt.id)
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
                print(f"{'  ' * depth}{span['name']} ({where}){': ' * bool(span['error'])}{span['error'] or ''}")
                branch(span["id"], depth + 1)

    branch(None, 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["consume"]:
        asyncio.run(consume(sys.argv[2], Path(sys.argv[3])))
    else:
        with tempfile.TemporaryDirectory() as made:
            os.environ.setdefault("SQLITE_PATH", str(Path(made, "broker.db")))
            asyncio.run(publish(*sys.argv[1:2] or ["sqlite"], Path(made)))
