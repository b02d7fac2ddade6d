"""SQS standard queues: aiobotocore as people use it, and its batch calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from . import CHANNEL, HEADERS, Provider, Raw, Ways, Work

if TYPE_CHECKING:
    from tests.brokers import Server

REGION, KEYS = "us-east-1", ("bench", "bench")
POOL = 64
TEN = 10
MOST = 262_144
"""Bytes of a call with several messages; `ATTRIBUTES` is what one has beside its body, at most."""
ATTRIBUTES = 500
WARM = "/bench_warm"
"""How ductape's queue for its warming up is called."""
NUMBERS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed")


class SqsRaw(Raw):
    """aiobotocore."""

    ways = Ways(
        publish="send_message, each awaited",
        publish_bulk="send_message_batch of 10, or of 4 with 64 kB; all of a thousand messages awaited together",
        consume="receive_message of 10, one delete_message a message",
        consume_bulk="receive_message of 10, one delete_message_batch a read",
    )

    async def open(self, callers: int) -> None:
        """Make the client, with a pool that suffices."""
        from aiobotocore.config import AioConfig  # type: ignore[import-untyped]  # it ships no annotations
        from aiobotocore.session import AioSession  # type: ignore[import-untyped]

        session = AioSession()
        session.set_credentials(*KEYS)
        config = AioConfig(max_pool_connections=min(max(callers, TEN), POOL))
        self.stack = AsyncExitStack()
        making = session.create_client("sqs", region_name=REGION, endpoint_url=self.url, config=config)
        self.client: Any = await self.stack.enter_async_context(making)

    async def close(self) -> None:
        """Close it."""
        await self.stack.aclose()

    async def declare(self) -> None:
        """Create the queue."""
        self.queue = (await self.client.create_queue(QueueName=CHANNEL))["QueueUrl"]

    @staticmethod
    def _message(body: bytes, id: str) -> dict[str, Any]:
        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in HEADERS.items()}
        attributes["id"] = {"DataType": "String", "StringValue": id}
        return {"MessageBody": body.decode(), "MessageAttributes": attributes}

    def publish(self, body: bytes, id: str) -> Awaitable[object]:
        """Send one message."""
        sending: Awaitable[object] = self.client.send_message(QueueUrl=self.queue, **self._message(body, id))
        return sending

    async def publish_bulk(self, messages: Sequence[tuple[bytes, str]]) -> None:
        """Send ten in a call, fewer where they are large."""
        calls = []
        largest = max(len(body) for body, _ in messages) + ATTRIBUTES
        number = min(TEN, MOST // largest)
        for start in range(0, len(messages), number):
            ten = messages[start : start + number]
            entries = [{"Id": str(place), **self._message(*each)} for place, each in enumerate(ten)]
            calls.append(self.client.send_message_batch(QueueUrl=self.queue, Entries=entries))
        for answer in await asyncio.gather(*calls):
            if answer.get("Failed"):
                raise RuntimeError(answer["Failed"][0]["Code"])

    async def _read(self) -> list[dict[str, Any]]:
        found = await self.client.receive_message(
            QueueUrl=self.queue, MaxNumberOfMessages=TEN, WaitTimeSeconds=1, MessageAttributeNames=["All"]
        )
        messages: list[dict[str, Any]] = found.get("Messages", [])
        return messages

    async def consume(self, work: Work) -> None:
        """Handle, then delete, one by one."""
        done = 0
        while done < work.messages:
            for message in await self._read():
                await work.handle(work.decode(message["Body"].encode()))
                await self.client.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
                done += 1

    async def consume_bulk(self, work: Work) -> None:
        """Delete what a read brought in one call."""
        done = 0
        while done < work.messages:
            entries = []
            for place, message in enumerate(await self._read()):
                await work.handle(work.decode(message["Body"].encode()))
                entries.append({"Id": str(place), "ReceiptHandle": message["ReceiptHandle"]})
            if entries:
                await self.client.delete_message_batch(QueueUrl=self.queue, Entries=entries)
                done += len(entries)

    async def _queues(self) -> list[str]:
        urls: list[str] = (await self.client.list_queues()).get("QueueUrls", [])
        return urls

    async def empty(self) -> None:
        """Delete every queue; a thousand are listed at a time."""
        while urls := await self._queues():
            for url in urls:
                await self.client.delete_queue(QueueUrl=url)

    async def stored(self) -> int:
        """Add up what the queues hold; the one message of the warming up was handled, and a queue keeps none."""
        return await self.left() + any(url.endswith(WARM) for url in await self._queues())

    async def left(self) -> int:
        """Add up what the queues hold: what is settled is deleted."""
        total = 0
        for url in await self._queues():
            found = await self.client.get_queue_attributes(QueueUrl=url, AttributeNames=list(NUMBERS))
            total += sum(int(found["Attributes"][name]) for name in NUMBERS)
        return total


class Sqs(Provider):
    """A standard queue on ElasticMQ."""

    distribution = "ductape-sqs"
    type = "AWS_SQS"
    settings = (
        "ElasticMQ with AWS's limits, everything in memory; it takes more time than the clients: compare CPU; ductape "
        "leaves when its open poll has ended, four seconds that count in what it handles a second"
    )
    raw = SqsRaw
    packages = ("aiobotocore", "botocore", "aiohttp")
    backlog = 20_000
    leaves = 4.0

    def server(self) -> Server:
        """Return ElasticMQ with room for a backlog."""
        from tests.brokers import Sqs as ElasticMQ

        return ElasticMQ(heap=1500)

    def version(self, server: Server) -> str:
        """Name ElasticMQ's version."""
        return server.origin.partition(" in ")[0]

    def config(self, url: str) -> dict[str, Any]:
        """Name region, keys and address."""
        return {"region": REGION, "accessKeyId": KEYS[0], "secretAccessKey": KEYS[1], "endpoint": url}


PROVIDER = Sqs()
