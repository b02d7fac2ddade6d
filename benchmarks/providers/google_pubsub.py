"""Google Pub/Sub: the client library as people use it, and its quickest paths."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from . import CHANNEL, GROUP, HEADERS, Provider, Raw, Ways, Work

if TYPE_CHECKING:
    from tests.brokers import Server

PROJECT = "bench"
TOPIC = f"projects/{PROJECT}/topics/{CHANNEL}"
SUBSCRIPTION = f"projects/{PROJECT}/subscriptions/{CHANNEL}.{GROUP}."
"""What the name of the subscription begins with: it gets another end each time.

The emulator goes on giving messages to streams that were closed, if they read a subscription of the same name that was
deleted: half of all runs would lose some, were the name always the same.
"""
PULL = 1000
WIDE = (("grpc.max_receive_message_length", -1),)


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
        import grpc
        from google.cloud import pubsub_v1
        from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

        self.publisher: Any = pubsub_v1.PublisherClient()
        batches = pubsub_v1.types.BatchSettings(max_messages=1000)
        self.bulky: Any = pubsub_v1.PublisherClient(batch_settings=batches)
        # Its own channel to an emulator takes 4 MiB at a time, less than a hundred large messages; Google's takes all.
        channel = grpc.insecure_channel(self.url, options=WIDE)
        self.subscriber: Any = pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))

    async def close(self) -> None:
        """Close them."""
        self.publisher.stop()
        self.bulky.stop()
        for client in (self.publisher, self.bulky, self.subscriber):
            client.transport.close()

    async def declare(self) -> None:
        """Create topic and subscription, or find those that an earlier process of this run made."""
        from google.api_core.exceptions import AlreadyExists

        with contextlib.suppress(AlreadyExists):
            self.publisher.create_topic(request={"name": TOPIC})
        found = [*self.publisher.list_topic_subscriptions(request={"topic": TOPIC})]
        self.subscription = found[0] if found else f"{SUBSCRIPTION}{time.time_ns()}"
        if not found:
            wanted = {"name": self.subscription, "topic": TOPIC, "ack_deadline_seconds": 30}
            self.subscriber.create_subscription(request=wanted)

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

        pulling = self.subscriber.subscribe(self.subscription, callback=called)
        await work.finished()
        pulling.cancel()
        await asyncio.to_thread(pulling.result)

    async def consume_bulk(self, work: Work) -> None:
        """Pull and acknowledge by the asynchronous client."""
        import grpc
        from google.api_core.exceptions import DeadlineExceeded
        from google.pubsub_v1 import SubscriberAsyncClient
        from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport

        channel = grpc.aio.insecure_channel(self.url, options=WIDE)
        client: Any = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel))
        done = 0
        while done < work.messages:
            try:
                # The emulator answers a second before the deadline when there is nothing.
                reply = await client.pull(subscription=self.subscription, max_messages=PULL, timeout=3.0, retry=None)
            except DeadlineExceeded:
                continue
            ids = []
            for received in reply.received_messages:
                await work.handle(work.decode(received.message.data))
                ids.append(received.ack_id)
            if ids:
                await client.acknowledge(subscription=self.subscription, ack_ids=ids)
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
    leaves = 3.0
    least = 4_000  # for that

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
