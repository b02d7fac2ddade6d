"""A trace goes through a raw client: as the producer before our handler, and as the consumer behind our publish."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ductape import Ductape
from ductape_opentelemetry import OpenTelemetry

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{PARENT}-01"
BODY = json.dumps({"n": 1}).encode()


class Raw(NamedTuple):
    """A provider, and two things done with its raw client."""

    env: Callable[[Any], Mapping[str, Any]]
    publish: Callable[[Any, str], Awaitable[None]]
    """To a channel, with `GIVEN` as its ``traceparent``."""
    read: Callable[[Any, str], Awaitable[str]]
    """The ``traceparent`` of the first message of a channel that has a group ``other``."""


# ---------------------------------------------------------------- Redis


async def redis_publish(server: Any, channel: str) -> None:
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.xadd(channel, {"body": BODY, "content-type": "application/json", "traceparent": GIVEN})


async def redis_read(server: Any, channel: str) -> str:
    import redis.asyncio

    client: Any = redis.asyncio.Redis.from_url(server.url)
    [(_, fields)] = await client.xrange(channel)
    await client.aclose()
    return str(fields[b"traceparent"].decode())


# ---------------------------------------------------------------- Kafka


async def kafka_publish(server: Any, channel: str) -> None:
    from aiokafka import AIOKafkaProducer

    async with AIOKafkaProducer(bootstrap_servers=server.url) as producer:
        await producer.send_and_wait(channel, BODY, headers=[("traceparent", GIVEN.encode())])


async def kafka_read(server: Any, channel: str) -> str:
    from aiokafka import AIOKafkaConsumer

    async with AIOKafkaConsumer(channel, bootstrap_servers=server.url, auto_offset_reset="earliest") as consumer:
        record = await consumer.getone()
    return str(dict(record.headers)["traceparent"].decode())


# ---------------------------------------------------------------- RabbitMQ


async def rabbitmq_publish(server: Any, channel: str) -> None:
    import aio_pika

    async with await aio_pika.connect(server.url) as connection:
        exchange = await (await connection.channel()).get_exchange("amq.topic")
        await exchange.publish(aio_pika.Message(BODY, headers={"traceparent": GIVEN}), channel)


async def rabbitmq_read(server: Any, channel: str) -> str:
    import aio_pika

    async with await aio_pika.connect(server.url) as connection:
        queue = await (await connection.channel()).get_queue(f"{channel}.other")
        message = await queue.get()
        await message.ack()
    return str(message.headers["traceparent"])


# ---------------------------------------------------------------- NATS


async def nats_publish(server: Any, channel: str) -> None:
    import nats

    client = await nats.connect(server.url)
    await client.jetstream().publish(channel, BODY, headers={"traceparent": GIVEN})
    await client.close()


async def nats_read(server: Any, channel: str) -> str:
    import nats

    client = await nats.connect(server.url)
    stream = await client.jetstream().find_stream_name_by_subject(channel)
    message = await client.jetstream().get_last_msg(stream, channel)
    await client.close()
    return str((message.headers or {})["traceparent"])


# ---------------------------------------------------------------- SQS


def sqs_client(server: Any) -> Any:
    from aiobotocore.session import AioSession

    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    return AioSession().create_client("sqs", endpoint_url=server.url, **keys)


async def sqs_publish(server: Any, channel: str) -> None:
    async with sqs_client(server) as client:
        url = (await client.get_queue_url(QueueName=channel.replace(".", "_")))["QueueUrl"]
        attributes = {"traceparent": {"DataType": "String", "StringValue": GIVEN}}
        await client.send_message(QueueUrl=url, MessageBody=BODY.decode(), MessageAttributes=attributes)


async def sqs_read(server: Any, channel: str) -> str:
    async with sqs_client(server) as client:
        url = (await client.get_queue_url(QueueName=channel.replace(".", "_")))["QueueUrl"]
        found = await client.receive_message(QueueUrl=url, MessageAttributeNames=["All"], WaitTimeSeconds=5)
    return str(found["Messages"][0]["MessageAttributes"]["traceparent"]["StringValue"])


# ---------------------------------------------------------------- Pub/Sub


async def pubsub_call(server: Any, service: str, method: str, request: Any, response: Any) -> Any:
    import grpc.aio

    async with grpc.aio.insecure_channel(f"{server.host}:{server.port}") as channel:
        call = channel.unary_unary(
            f"/google.pubsub.v1.{service}/{method}",
            request_serializer=type(request).serialize,
            response_deserializer=response.deserialize,
        )
        return await call(request, timeout=10)


async def pubsub_publish(server: Any, channel: str) -> None:
    from google.pubsub_v1.types import PublishRequest, PublishResponse, PubsubMessage

    message = PubsubMessage(data=BODY, attributes={"traceparent": GIVEN})
    request = PublishRequest(topic=f"projects/traces/topics/{channel}", messages=[message])
    await pubsub_call(server, "Publisher", "Publish", request, PublishResponse)


async def pubsub_read(server: Any, channel: str) -> str:
    from google.pubsub_v1.types import PullRequest, PullResponse

    request = PullRequest(subscription=f"projects/traces/subscriptions/{channel}.other", max_messages=1)
    found = await pubsub_call(server, "Subscriber", "Pull", request, PullResponse)
    return str(found.received_messages[0].message.attributes["traceparent"])


CLIENTS: Mapping[str, Raw] = {
    "redis": Raw(lambda server: {"type": "REDIS", "config": {"url": server.url}}, redis_publish, redis_read),
    "kafka": Raw(lambda server: {"type": "KAFKA", "config": {"brokers": [server.url]}}, kafka_publish, kafka_read),
    "rabbitmq": Raw(
        lambda server: {"type": "RABBITMQ", "config": {"url": server.url}}, rabbitmq_publish, rabbitmq_read
    ),
    "nats": Raw(lambda server: {"type": "NATS", "config": {"servers": server.url}}, nats_publish, nats_read),
    "sqs": Raw(
        lambda server: {
            "type": "AWS_SQS",
            "config": {"region": "us-east-1", "accessKeyId": "test", "secretAccessKey": "test", "endpoint": server.url},
        },
        sqs_publish,
        sqs_read,
    ),
    "pubsub": Raw(
        lambda server: {
            "type": "GOOGLE_PUBSUB",
            "config": {"projectId": "traces", "emulatorHost": f"{server.host}:{server.port}"},
        },
        pubsub_publish,
        pubsub_read,
    ),
}


@pytest.fixture
async def exporter() -> AsyncIterator[tuple[InMemorySpanExporter, OpenTelemetry]]:
    """Spans of one client, in memory."""
    spans, tracers, meters = InMemorySpanExporter(), TracerProvider(), MeterProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    yield spans, OpenTelemetry(tracer_provider=tracers, meter_provider=meters, settle=False)
    tracers.shutdown()
    meters.shutdown()


async def check(raw: Raw, server: Any, spans: InMemorySpanExporter, middleware: OpenTelemetry) -> None:
    handled = asyncio.Event()

    async def handle(order: dict[str, int]) -> None:
        handled.set()

    tag = f"t{uuid.uuid4().hex[:8]}"
    async with Ductape(product="traces", env="dev", middleware=[middleware]) as ductape:
        environment: Any = {"slug": "dev", **raw.env(server)}
        await ductape.broker.create(tag=tag, envs=[environment])
        await ductape.broker.topic.create(tag=f"{tag}:in", groups=["billing"])
        await ductape.broker.topic.create(tag=f"{tag}:out", groups=["other"])
        await ductape.event.subscribe(f"{tag}:in", callback=handle, group="billing")
        await raw.publish(server, f"{tag}.in")
        await asyncio.wait_for(handled.wait(), 30)
        await ductape.event.publish(f"{tag}:out", {"n": 1})
        read = await raw.read(server, f"{tag}.out")
    process, send = spans.get_finished_spans()
    assert process.parent is not None
    assert (f"{process.parent.trace_id:032x}", f"{process.parent.span_id:016x}") == (TRACE, PARENT)
    sent = send.get_span_context()
    assert read == f"00-{sent.trace_id:032x}-{sent.span_id:016x}-{sent.trace_flags:02x}"


def through(name: str) -> Callable[..., Awaitable[None]]:
    """Make the test of one provider; it asks for the fixture of that server alone."""

    @pytest.mark.usefixtures(f"{name}_server")
    async def test(request: pytest.FixtureRequest, exporter: tuple[InMemorySpanExporter, OpenTelemetry]) -> None:
        await check(CLIENTS[name], request.getfixturevalue(f"{name}_server"), *exporter)

    return test


for _name in CLIENTS:
    globals()[f"test_a_trace_goes_through_the_raw_client_of_{_name}"] = through(_name)
