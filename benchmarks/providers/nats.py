"""NATS JetStream: nats-py as people use it, its asynchronous publishes, FastStream."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from . import CHANNEL, GROUP, HEADERS, FastStream, Provider, Raw, Ways, Work

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

    from tests.brokers import Server

COUNT = 100


class NatsRaw(Raw):
    """nats-py."""

    ways = Ways(
        publish="js.publish, each awaited",
        publish_bulk="1,000 js.publish_async, then publish_async_completed",
        consume="fetch(100) of a durable pull consumer, one ack a message",
        consume_bulk="a durable push consumer with a callback, one ack a message",
    )
    client: Client
    stream: JetStreamContext

    async def open(self, callers: int) -> None:
        """Connect."""
        import nats

        self.client = await nats.connect(self.url)
        self.stream = self.client.jetstream(timeout=30)

    async def close(self) -> None:
        """Flush and close: to drain waits 30 s for a fetch that was given up."""
        await self.client.flush()
        await self.client.close()

    async def declare(self) -> None:
        """Make stream and consumer."""
        from nats.js.api import AckPolicy, ConsumerConfig

        await self.stream.add_stream(name=CHANNEL, subjects=[CHANNEL])
        wanted = ConsumerConfig(durable_name=GROUP, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=-1)
        await self.stream.add_consumer(CHANNEL, wanted)

    def publish(self, body: bytes, id: str) -> Awaitable[object]:
        """Publish, and wait for the stream's answer."""
        return self.stream.publish(CHANNEL, body, headers={"id": id, **HEADERS})

    async def publish_bulk(self, messages: Sequence[tuple[bytes, str]]) -> None:
        """Publish without waiting, then wait for all answers."""
        publish = self.stream.publish_async
        for body, id in messages:
            _ = await publish(CHANNEL, body, headers={"id": id, **HEADERS})
        await self.stream.publish_async_completed()

    async def consume(self, work: Work) -> None:
        """Fetch up to 100 at a time."""
        from nats.errors import TimeoutError as Nothing

        reader = await self.stream.pull_subscribe_bind(GROUP, CHANNEL)
        decode, handle, done = work.decode, work.handle, 0
        while done < work.messages:
            try:
                found = await reader.fetch(min(COUNT, work.messages - done), timeout=1)
            except Nothing:
                continue
            for message in found:
                await handle(decode(message.data))
                await message.ack()
            done += len(found)
        await self.client.flush()

    async def consume_bulk(self, work: Work) -> None:
        """Have messages pushed."""
        from nats.js.api import ConsumerConfig, DeliverPolicy

        decode, handle = work.decode, work.handle

        async def take(message: Any) -> None:
            await handle(decode(message.data))
            await message.ack()

        # A push consumer is another one: the group's own is done with, so that nothing counts as left.
        await self.stream.delete_consumer(CHANNEL, GROUP)
        wanted = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, max_ack_pending=1000)
        await self.stream.subscribe(CHANNEL, durable="pushed", cb=take, manual_ack=True, config=wanted)
        await work.finished()
        await self.client.flush()

    async def empty(self) -> None:
        """Delete all streams; the server lists 256 of them at a time."""
        while found := await self.stream.streams_info():
            for info in found:
                await self.stream.delete_stream(str(info.config.name))

    async def stored(self) -> int:
        """Count the messages of all streams."""
        return sum([info.state.messages for info in await self.stream.streams_info()])

    async def left(self) -> int:
        """Add up what groups have pending and have not read."""
        number = 0
        for info in await self.stream.streams_info():
            for group in await self.stream.consumers_info(str(info.config.name)):
                number += (group.num_pending or 0) + (group.num_ack_pending or 0)
        return number


class Nats(Provider):
    """JetStream with a durable pull consumer."""

    distribution = "ductape-nats"
    type = "NATS"
    settings = f"file storage, the server's own sync interval; fetches of {COUNT} for nats-py"
    raw = NatsRaw
    faststream_module = "faststream.nats"
    packages = ("nats-py",)

    def server(self) -> Server:
        """Return a server of the new generation."""
        from tests.brokers import Nats as NatsServer

        return NatsServer()

    def config(self, url: str) -> dict[str, Any]:
        """Name the server."""
        return {"servers": url}

    def faststream(self, url: str, callers: int) -> FastStream:
        """Return a broker that reads in batches by a durable pull consumer."""
        from faststream import AckPolicy
        from faststream.nats import JStream, NatsBroker, PullSub

        return FastStream(
            broker=NatsBroker(url, logger=None),
            publish={"subject": CHANNEL, "stream": CHANNEL, "headers": HEADERS, "timeout": 30.0},
            subscribe={
                "subject": CHANNEL,
                "stream": JStream(CHANNEL, subjects=[CHANNEL]),
                "durable": GROUP,
                "pull_sub": PullSub(batch_size=COUNT),
                "ack_policy": AckPolicy.NACK_ON_ERROR,
            },
        )


PROVIDER = Nats()
