"""Google Pub/Sub on the emulator, in order. It keeps messages in memory: only consumers and connections are killed."""

import collections
from collections.abc import Mapping
from typing import Any, ClassVar

import grpc.aio  # type: ignore[import-untyped]  # grpcio ships no annotations
from google.pubsub_v1.types import pubsub as types

from tests.brokers import Pubsub
from tests.soak.ground import GROUP, Ground

PROJECT = "soak"
SUBSCRIPTION = f"projects/{PROJECT}/subscriptions/b.t.{GROUP}"


class GooglePubsubGround(Ground):
    """Google Pub/Sub."""

    name: ClassVar[str] = "google_pubsub"
    packages: ClassVar[tuple[str, ...]] = ("ductape-google-pubsub", "google-cloud-pubsub", "grpcio")
    settings: ClassVar[str] = "the emulator, which keeps everything in memory and is not killed; ordering keys"
    durable: ClassVar[bool] = False
    ordered: ClassVar[bool] = True
    # The emulator gives a poll 100 messages at most, and looks through all that it ever held.
    messages: ClassVar[int] = 10_000
    pause: ClassVar[float] = 0.1

    def make(self) -> Pubsub:
        """Return an emulator with room for all messages of a run."""
        return Pubsub(heap=1000)

    def env(self, port: int | None = None) -> Mapping[str, Any]:
        """Return a short lease, and polls that end soon."""
        host = f"127.0.0.1:{port or self.server.port}"
        config = {"projectId": PROJECT, "emulatorHost": host, "lease": int(self.lease), "poll": 1.0}
        return {"type": "GOOGLE_PUBSUB", "config": config}

    async def stored(self) -> collections.Counter[str]:
        """Pull and acknowledge all messages of the subscription, and count them."""
        counts: collections.Counter[str] = collections.Counter()
        async with grpc.aio.insecure_channel(self.server.url) as channel:
            pull = channel.unary_unary(
                "/google.pubsub.v1.Subscriber/Pull",
                request_serializer=types.PullRequest.serialize,
                response_deserializer=types.PullResponse.deserialize,
            )
            acknowledge = channel.unary_unary(
                "/google.pubsub.v1.Subscriber/Acknowledge", request_serializer=types.AcknowledgeRequest.serialize
            )
            request = types.PullRequest(subscription=SUBSCRIPTION, max_messages=1000)
            # The emulator answers a second before the deadline when there is nothing.
            while received := (await pull(request, timeout=2.0)).received_messages:
                counts.update(one.message.attributes["ductape-id"] for one in received)
                ids = [one.ack_id for one in received]
                await acknowledge(types.AcknowledgeRequest(subscription=SUBSCRIPTION, ack_ids=ids))
        return counts


GROUND = GooglePubsubGround()
