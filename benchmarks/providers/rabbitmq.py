"""RabbitMQ quorum queues: aio-pika as people use it, aiormq's channel below it, FastStream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.load import BROKER, MANY, TOPIC

from . import CHANNEL, GROUP, HEADERS, FastStream, Provider, Raw, Ways, Work

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange

    from tests.brokers import Server

EXCHANGE = "amq.topic"
PREFETCH = 1000
COUNT = 100


def queue_of(topic: str) -> str:
    """Return the queue of ductape's default group."""
    return f"{BROKER}.{topic}.bench.{topic}"


WARM = queue_of("warm")
"""Of the event with which ductape warms up."""
QUEUES = (GROUP, queue_of(TOPIC), WARM)
"""All that a run makes of one topic."""


class RabbitMQRaw(Raw):
    """aio-pika."""

    ways = Ways(
        publish="publish with confirms, returns raised, each awaited",
        publish_bulk="1,000 basic_publish of aiormq with confirms, gathered",
        consume="consume with a callback, prefetch 1,000, one ack a message",
        consume_bulk="basic_consume of aiormq, prefetch 1,000, one multiple ack for 100",
    )
    connection: AbstractConnection
    channel: AbstractChannel
    exchange: AbstractExchange

    async def open(self, callers: int) -> None:
        """Connect, with one channel: more of them publish no faster."""
        import aio_pika

        self.connection = await aio_pika.connect(self.url)
        self.channel = await self.connection.channel(publisher_confirms=True, on_return_raises=True)
        await self.channel.set_qos(prefetch_count=PREFETCH)
        self.exchange = await self.channel.get_exchange(EXCHANGE)

    async def close(self) -> None:
        """Close the connection."""
        await self.connection.close()

    async def declare(self) -> None:
        """Declare the queue, and bind it."""
        queue = await self.channel.declare_queue(GROUP, durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind(EXCHANGE, CHANNEL)

    def publish(self, body: bytes, id: str) -> Awaitable[object]:
        """Publish a persistent message."""
        from aio_pika import DeliveryMode, Message

        headers: Any = {"id": id, **HEADERS}
        message = Message(body, headers=headers, delivery_mode=DeliveryMode.PERSISTENT, message_id=id)
        return self.exchange.publish(message, CHANNEL)

    async def publish_bulk(self, messages: Sequence[tuple[bytes, str]]) -> None:
        """Publish by the channel below aio-pika's."""
        from pamqp.commands import Basic

        channel = await self.channel.get_underlay_channel()
        await asyncio.gather(*(
            channel.basic_publish(
                body, exchange=EXCHANGE, routing_key=CHANNEL, mandatory=True,
                properties=Basic.Properties(headers={"id": id, **HEADERS}, delivery_mode=2, message_id=id),
            )
            for body, id in messages
        ))  # fmt: skip

    async def consume(self, work: Work) -> None:
        """Handle in aio-pika's callback."""

        async def take(message: Any) -> None:
            await work.handle(work.decode(message.body))
            await message.ack()

        queue = await self.channel.get_queue(GROUP)
        tag = await queue.consume(take)
        await work.finished()
        await queue.cancel(tag)

    async def consume_bulk(self, work: Work) -> None:
        """Handle one after the other, so that all below the last are done."""
        channel = await self.channel.get_underlay_channel()
        waiting: asyncio.Queue[Any] = asyncio.Queue()

        async def take(message: Any) -> None:
            waiting.put_nowait(message)

        answer = await channel.basic_consume(GROUP, take)
        for number in range(1, work.messages + 1):
            message = await waiting.get()
            await work.handle(work.decode(message.body))
            if number % COUNT == 0 or number == work.messages:
                await channel.basic_ack(message.delivery.delivery_tag, multiple=True)
        await channel.basic_cancel(str(answer.consumer_tag))

    async def empty(self) -> None:
        """Delete the queues. AMQP lists none: the first of many topics tells whether there are others."""
        first = queue_of(MANY[0])
        many = map(queue_of, MANY) if first in await self._waiting((first,)) else ()
        for name in (*QUEUES, *many):
            await self.channel.queue_delete(name)

    async def stored(self) -> int:
        """Count what waits in the queues; the one message of the warming up was handled, and a queue keeps none."""
        waiting = await self._waiting()
        return sum(waiting.values()) + (WARM in waiting)

    async def left(self) -> int:
        """Count what waits in the queues: what a closed channel had not acknowledged is back."""
        return sum((await self._waiting()).values())

    async def _waiting(self, queues: Sequence[str] = QUEUES) -> dict[str, int]:
        from aio_pika.exceptions import ChannelNotFoundEntity

        found: dict[str, int] = {}
        for name in queues:
            channel = await self.connection.channel()  # a queue that is missing closes it
            try:
                queue = await channel.declare_queue(name, passive=True)
            except ChannelNotFoundEntity:
                continue
            found[name] = queue.declaration_result.message_count or 0
            await channel.close()
        return found


class RabbitMQ(Provider):
    """Quorum queues on a topic exchange."""

    distribution = "ductape-rabbitmq"
    type = "RABBITMQ"
    settings = f"one node, quorum queues; prefetch {PREFETCH} for aio-pika and FastStream"
    raw = RabbitMQRaw
    faststream_module = "faststream.rabbit"
    packages = ("aio-pika", "aiormq", "pamqp")
    backlog = 100_000

    def server(self) -> Server:
        """Return a server with RabbitMQ's own consumer timeout."""
        from tests.brokers import RabbitMQ as RabbitMQServer

        return RabbitMQServer(consumer_timeout=1800.0)

    def version(self, server: Server) -> str:
        """Read it off the name of the release's folder."""
        return f"RabbitMQ {server.origin.rpartition('-')[2]}"

    def config(self, url: str) -> dict[str, Any]:
        """Name the server."""
        return {"url": url}

    def faststream(self, url: str, callers: int) -> FastStream:
        """Return a broker whose messages are persistent, and refused where nobody gets them."""
        from faststream import AckPolicy
        from faststream.rabbit import Channel, ExchangeType, QueueType, RabbitBroker, RabbitExchange, RabbitQueue

        exchange = RabbitExchange(EXCHANGE, type=ExchangeType.TOPIC)
        arguments: Any = {"x-queue-type": "quorum"}
        queue = RabbitQueue(GROUP, QueueType.QUORUM, durable=True, routing_key=CHANNEL, arguments=arguments)
        channel = Channel(prefetch_count=PREFETCH, on_return_raises=True)
        return FastStream(
            broker=RabbitBroker(url, logger=None, default_channel=channel),
            publish={"exchange": exchange, "routing_key": CHANNEL, "persist": True, "headers": HEADERS},
            subscribe={"queue": queue, "exchange": exchange, "ack_policy": AckPolicy.NACK_ON_ERROR},
        )


PROVIDER = RabbitMQ()
