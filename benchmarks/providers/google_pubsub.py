"""Google Pub/Sub: the client library as people use it, and its quickest paths."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from . import CHANNEL, GROUP, HEADERS, Provider, Raw, Ways, Work

if TYPE_CHECKING:
    from tests.brokers import Server

PROJECT = "bench"
TOPIC = f"projects/{PROJECT}/topics/{CHANNEL}"
SUBSCRIPTION = f"projects/{PROJECT}/subscriptions/{CHANNEL}.{GROUP}"
PULL = 1000


class PubsubRaw(Raw):
    """google-cloud-pubsub."""

    ways = Ways(
        publish="PublisherClient.publish, its future awaited in the loop; batches as they come (100 messages, 10 ms)",
        publish_bulk="PublisherClient.publish, batches of up to 1,000, all futures awaited together",
        consume="SubscriberClient.subscribe, the handler run in the loop, Message.ack",
        consume_bulk="SubscriberAsyncClient.pull of 1,000, one acknowledge a pull",
    )

    async def open(self, callers: int) -> None:
        """Make the clients; the library finds the emulator by its variable alone."""
        os.environ["PUBSUB_EMULATOR_HOST"] = self.url
        from google.cloud import pubsub_v1

        self.publisher: Any = pubsub_v1.PublisherClient()
        batches = pubsub_v1.types.BatchSettings(max_messages=1000)
        self.bulky: Any = pubsub_v1.PublisherClient(batch_settings=batches)
        self.subscriber: Any = pubsub_v1.SubscriberClient()

    async def close(self) -> None:
        """Close them."""
        self.publisher.stop()
        self.bulky.stop()
        for client in (self.publisher, self.bulky, self.subscriber):
            client.transport.close()

    async def declare(self) -> None:
        """Create topic and subscription."""
        from google.api_core.exceptions import AlreadyExists

        for create, wanted in (
            (self.publisher.create_topic, {"name": TOPIC}),
            (self.subscriber.create_subscription, {"name": SUBSCRIPTION, "topic": TOPIC, "ack_deadline_seconds": 30}),
        ):
            try:
                create(request=wanted)
            except AlreadyExists:
                pass

    def publish(self, body: bytes, id: str) -> Awaitable[object]:
        """Publish one message."""
        return asyncio.wrap_future(self.publisher.publish(TOPIC, body, id=id, **HEADERS))

    async def publish_bulk(self, messages: Sequence[tuple[bytes, str]]) -> None:
        """Publish all, then wait for all."""
        publish = self.bulky.publish
        futures = [publish(TOPIC, body, id=id, **HEADERS) for body, id in messages]
        await asyncio.gather(*map(asyncio.wrap_future, futures))

    async def consume(self, work: Work) -> None:
        """Have callbacks called in the library's threads, and handlers run in the loop."""
        loop = asyncio.get_running_loop()

        async def handle(message: Any) -> None:
            await work.handle(work.decode(message.data))
            message.ack()

        def called(message: Any) -> None:
            asyncio.run_coroutine_threadsafe(handle(message), loop)

        pulling = self.subscriber.subscribe(SUBSCRIPTION, callback=called)
        await work.finished()
        pulling.cancel()
        await asyncio.to_thread(pulling.result)

    async def consume_bulk(self, work: Work) -> None:
        """Pull and acknowledge by the asynchronous client."""
        from google.api_core.exceptions import DeadlineExceeded
        from google.pubsub_v1 import SubscriberAsyncClient

        client: Any = SubscriberAsyncClient()
        done = 0
        while done < work.messages:
            try:
                # The emulator answers a second before the deadline when there is nothing.
                reply = await client.pull(subscription=SUBSCRIPTION, max_messages=PULL, timeout=3.0, retry=None)
            except DeadlineExceeded:
                continue
            ids = []
            for received in reply.received_messages:
                await work.handle(work.decode(received.message.data))
                ids.append(received.ack_id)
            if ids:
                await client.acknowledge(subscription=SUBSCRIPTION, ack_ids=ids)
                done += len(ids)
        await client.transport.close()

    async def empty(self) -> None:
        """Delete every subscription and topic."""
        for subscription in self.subscriber.list_subscriptions(request={"project": f"projects/{PROJECT}"}):
            self.subscriber.delete_subscription(request={"subscription": subscription.name})
        for topic in self.publisher.list_topics(request={"project": f"projects/{PROJECT}"}):
            self.publisher.delete_topic(request={"topic": topic.name})


class GooglePubsub(Provider):
    """A topic and a pull subscription on the emulator."""

    distribution = "ductape-google-pubsub"
    type = "GOOGLE_PUBSUB"
    settings = (
        "emulator, everything in memory; it gives a stream 100 messages every 50 ms, so that for `subscribe` CPU alone "
        "can be compared, not time"
    )
    raw = PubsubRaw
    packages = ("google-cloud-pubsub", "grpcio", "protobuf")
    backlog = 50_000

    def server(self) -> Server:
        """Return an emulator with room for a backlog."""
        from tests.brokers import Pubsub

        return Pubsub(heap=1500)

    def version(self, server: Server) -> str:
        """Name the emulator's file: it does not tell its version."""
        return server.origin.rpartition("/")[2].removesuffix("-all.jar")

    def config(self, url: str) -> dict[str, Any]:
        """Name project and emulator."""
        return {"projectId": PROJECT, "emulatorHost": url}


PROVIDER = GooglePubsub()
