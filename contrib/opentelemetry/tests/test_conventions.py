"""What is recorded for each provider, against the registry of the conventions v1.44.0 and the pages of the systems."""

import ast
import inspect
import itertools
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind

from contrib.opentelemetry.tests.kit import EVENT, Watch, attributes
from ductape import Event, Message, PublisherSite, Receipt, SubscriberSite
from ductape.adapter import Delivery, Epoch, Settlement, Verdict
from ductape_opentelemetry import _conventions

CHANNEL, GROUP = "orders", "billing"
POSITION = "orders[3]@1042"


class Expected(NamedTuple):
    """What the conventions have for a provider; the last two are not on every span."""

    system: str
    send: str
    process: str
    settle: str
    group: str = "messaging.consumer.group.name"
    message: Mapping[str, Any] = {}
    """On the spans of sending and of handling one message."""
    channel: Mapping[str, Any] = {}
    """On the spans of sending and of handling."""


# The pages of the systems, https://opentelemetry.io/docs/specs/semconv/messaging/; none for NATS and Redis.
EXPECTED = {
    "KAFKA": Expected(
        *("kafka", "send", "process", "commit"),
        message={
            "messaging.kafka.message.key": "k",
            "messaging.destination.partition.id": "3",
            "messaging.kafka.offset": 1042,
        },
    ),
    "RABBITMQ": Expected(
        *("rabbitmq", "publish", "consume", "ack"),
        channel={"messaging.rabbitmq.destination.routing_key": CHANNEL},
    ),
    "AWS_SQS": Expected("aws_sqs", "send", "process", "delete"),
    "GOOGLE_PUBSUB": Expected(
        *("gcp_pubsub", "send", "subscribe", "ack", "messaging.destination.subscription.name"),
        message={"messaging.gcp_pubsub.message.ordering_key": "k"},
    ),
    "NATS": Expected("nats", "publish", "process", "ack"),
    "REDIS": Expected("redis", "send", "process", "ack"),
    "MEMORY": Expected("memory", "send", "process", "ack"),
}


def registry(module: ModuleType) -> tuple[set[str], set[str]]:
    """Return the names that a module of the registry has, and which of them are deprecated: their text says so."""
    names, deprecated = set(), set()
    body = ast.parse(inspect.getsource(module)).body
    for one, text in itertools.pairwise(body):
        match one, text:
            case ast.AnnAssign(value=ast.Constant(value=str(name))), ast.Expr(value=ast.Constant(value=str(said))):
                names.add(name)
                if said.strip().startswith("Deprecated"):
                    deprecated.add(name)
    return names, deprecated


async def sent(message: Message) -> Receipt:
    return Receipt(EVENT, message.id, POSITION)


async def handled(_: object) -> None:
    pass


async def no_lag() -> int:
    return 0


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.tracers.shutdown()
    made.meters.shutdown()


async def play(watch: Watch, provider: str, *, batch: bool = False, channel: str = CHANNEL) -> None:
    """Publish, handle and settle one message with a key, beneath no kernel."""
    names: dict[str, Any] = {"product": "shop", "env": "dev", "provider": provider, "event": EVENT, "channel": channel}
    site = SubscriberSite(**names, group=GROUP, batch=batch, stats=lambda: {"queued": 1.0}, lag=no_lag)
    message = Message(EVENT, None, b"{}", {}, "m-1", "k")
    await watch.middleware.publisher(sent, PublisherSite(**names))(message)
    delivery = Delivery(b"{}", {**message.headers, "ductape-id": "m-1"}, Epoch("test"), key="k", position=POSITION)
    event: Event[Any] = Event(EVENT, GROUP, 2, None, delivery)
    watch.middleware.received([delivery], site)
    await watch.middleware.subscriber(handled, site)([event] if batch else event)
    watch.middleware.settled([Settlement(delivery, Verdict.ACK)], 0.01, site)


@pytest.mark.parametrize("provider", EXPECTED)
async def test_spans_have_exactly_what_the_conventions_want_of_the_system(provider: str, watch: Watch) -> None:
    want = EXPECTED[provider]
    await play(watch, provider)
    alike = {"messaging.system": want.system, "messaging.destination.name": CHANNEL}
    alike |= {"ductape.event": EVENT, "ductape.env": "dev"}
    one = {"messaging.message.id": "m-1", **want.message, **want.channel}
    group = {want.group: GROUP}

    def of(name: str, kind: str) -> dict[str, Any]:
        return {**alike, "messaging.operation.name": name, "messaging.operation.type": kind}

    assert [(span.name, span.kind, dict(attributes(span))) for span in watch.spans()] == [
        (f"{want.send} orders", SpanKind.PRODUCER, {**of(want.send, "send"), **one}),
        (
            f"{want.process} orders",
            SpanKind.CONSUMER,
            of(want.process, "process") | one | group | {"ductape.attempt": 2},
        ),
        (
            f"{want.settle} orders",
            SpanKind.CLIENT,
            of(want.settle, "settle") | group | {"messaging.batch.message_count": 1},
        ),
    ]


@pytest.mark.parametrize("provider", EXPECTED)
async def test_a_batch_names_no_single_message_even_with_one(provider: str, watch: Watch) -> None:
    want = EXPECTED[provider]
    await play(watch, provider, batch=True)
    [process] = watch.spans("process")
    found = attributes(process)
    assert found["messaging.batch.message_count"] == 1
    assert found.keys().isdisjoint({"messaging.message.id", "ductape.attempt", *want.message})
    assert len(process.links) == 1


async def test_products_that_share_a_middleware_and_the_names_of_events_keep_their_channels(watch: Watch) -> None:
    for channel in ("shop-orders", "mall-orders"):
        await play(watch, "REDIS", channel=channel)
    assert [attributes(each)["messaging.destination.name"] for each in watch.spans()] == [
        *["shop-orders"] * 3,
        *["mall-orders"] * 3,
    ]


@pytest.mark.parametrize("provider", EXPECTED)
async def test_metrics_have_exactly_what_the_conventions_want_of_the_system(provider: str, watch: Watch) -> None:
    want = EXPECTED[provider]
    await play(watch, provider)
    group, kind = {want.group: GROUP}, "messaging.operation.type"

    def of(name: str) -> dict[str, str]:
        return {
            "messaging.system": want.system,
            "messaging.operation.name": name,
            "messaging.destination.name": CHANNEL,
        }

    found = {name: [dict(point.attributes) for point in points] for name, points in watch.metrics().items()}
    assert {name: points for name, points in found.items() if name.startswith("messaging.")} == {
        "messaging.client.sent.messages": [of(want.send)],
        "messaging.client.consumed.messages": [of("receive") | group],
        "messaging.client.operation.duration": [
            of(want.send) | {kind: "send"},
            of(want.settle) | group | {kind: "settle"},
        ],
        "messaging.process.duration": [of(want.process) | group],
    }


def test_every_name_is_in_the_registry_and_none_is_deprecated() -> None:
    known, deprecated = registry(messaging_attributes)
    metrics, old = registry(messaging_metrics)
    known |= metrics | {error_attributes.ERROR_TYPE}
    deprecated |= old
    assert "messaging.operation" in deprecated, "the registry is read rightly"
    ours = {value for value in vars(_conventions).values() if isinstance(value, str)}
    ours = {value for value in ours if value.startswith(("messaging.", "error."))}
    assert len(ours) > 15
    assert ours <= known - deprecated
    assert Schemas.V1_44_0.value == _conventions.SCHEMA


async def test_metrics_have_the_registrys_kinds_and_units(watch: Watch) -> None:
    await play(watch, "KAFKA")
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    meter = meters.get_meter("registry")
    messaging_metrics.create_messaging_client_sent_messages(meter).add(1)
    messaging_metrics.create_messaging_client_consumed_messages(meter).add(1)
    messaging_metrics.create_messaging_client_operation_duration(meter).record(1)
    messaging_metrics.create_messaging_process_duration(meter).record(1)

    def described(reader: InMemoryMetricReader) -> dict[str, tuple[type, str | None]]:
        data = reader.get_metrics_data()
        assert data is not None
        found = [metric for part in data.resource_metrics for scope in part.scope_metrics for metric in scope.metrics]
        return {each.name: (type(each.data), each.unit) for each in found if each.name.startswith("messaging.")}

    assert described(watch.reader) == described(reader)
    meters.shutdown()
