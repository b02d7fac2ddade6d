"""Kafka topics: aiokafka as people use it, its batches, FastStream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from . import CHANNEL, GROUP, HEADERS, FastStream, Provider, Raw, Ways, Work

if TYPE_CHECKING:
    from tests.brokers import Server

PARTITIONS = 6
"""As many as ductape gives a topic."""
BATCH = 262_144
COUNT = 500


class KafkaRaw(Raw):
    """aiokafka."""

    ways = Ways(
        publish=f"send_and_wait, idempotent, acks=all; with fewer than {PARTITIONS} partitions more callers wait for "
        "each of its batches of 16 KiB, all are woken by it, and a message costs more",
        publish_bulk="send_batch of 1,000 in one closed batch, idempotent, acks=all",
        consume="async for, one commit a message",
        consume_bulk="getmany(500), one commit a read",
    )
    producer: Any
    bulky: Any
    admin: Any
    turn = 0

    async def open(self, callers: int) -> None:
        """Start a producer as it comes, which all callers share, one with large batches, and an admin client."""
        from aiokafka import AIOKafkaProducer
        from aiokafka.admin import AIOKafkaAdminClient

        self.headers = [(name, value.encode()) for name, value in HEADERS.items()]
        self.admin = AIOKafkaAdminClient(bootstrap_servers=self.url)
        await self.admin.start()
        self.producer = AIOKafkaProducer(bootstrap_servers=self.url, enable_idempotence=True)
        self.bulky = AIOKafkaProducer(bootstrap_servers=self.url, enable_idempotence=True, max_batch_size=BATCH)
        await asyncio.gather(self.producer.start(), self.bulky.start())

    async def close(self) -> None:
        """Stop them."""
        await asyncio.gather(self.producer.stop(), self.bulky.stop())
        await self.admin.close()

    async def declare(self) -> None:
        """Create the topic; a group needs no creation, and begins where its consumer says."""
        from aiokafka.admin import NewTopic

        await self.admin.create_topics([NewTopic(CHANNEL, PARTITIONS, 1)])
        await self.producer.partitions_for(CHANNEL)

    def publish(self, body: bytes, id: str) -> Awaitable[object]:
        """Send a record."""
        sent: Awaitable[object] = self.producer.send_and_wait(
            CHANNEL, body, headers=[("id", id.encode()), *self.headers]
        )
        return sent

    async def publish_bulk(self, messages: Sequence[tuple[bytes, str]]) -> None:
        """Send closed batches, each to the next partition."""
        left = list(messages)
        while left:
            batch, taken = self.bulky.create_batch(), 0
            for body, id in left:
                headers = [("id", id.encode()), *self.headers]
                if batch.append(timestamp=None, key=None, value=body, headers=headers) is None:
                    break
                taken += 1
            batch.close()
            self.turn += 1
            await (await self.bulky.send_batch(batch, CHANNEL, partition=self.turn % PARTITIONS))
            del left[:taken]

    async def consume(self, work: Work) -> None:
        """Commit every message by itself."""
        done = 0
        async with self._consumer() as consumer:
            while done < work.messages:
                for records in (await consumer.getmany(timeout_ms=1000, max_records=1)).values():
                    for record in records:
                        await work.handle(work.decode(record.value))
                        await consumer.commit()
                        done += 1

    async def consume_bulk(self, work: Work) -> None:
        """Commit every read."""
        done = 0
        async with self._consumer() as consumer:
            while done < work.messages:
                found = await consumer.getmany(timeout_ms=1000, max_records=COUNT)
                for records in found.values():
                    for record in records:
                        await work.handle(work.decode(record.value))
                    done += len(records)
                if found:
                    await consumer.commit()

    def _consumer(self) -> Any:
        from aiokafka import AIOKafkaConsumer

        return AIOKafkaConsumer(
            CHANNEL, bootstrap_servers=self.url, group_id=GROUP, enable_auto_commit=False, auto_offset_reset="earliest"
        )

    async def empty(self) -> None:
        """Delete all topics, and with them what groups have committed of them."""
        while names := await self._topics():
            await self.admin.delete_topics(names)
            await asyncio.sleep(0.2)

    async def _topics(self) -> list[str]:
        return [name for name in await self.admin.list_topics() if not name.startswith("__")]

    async def _ends(self) -> dict[Any, int]:
        from aiokafka import AIOKafkaConsumer, TopicPartition

        async with AIOKafkaConsumer(bootstrap_servers=self.url) as consumer:
            found = await self.admin.describe_topics(await self._topics())
            parts = [TopicPartition(each["topic"], part["partition"]) for each in found for part in each["partitions"]]
            ends: dict[Any, int] = await consumer.end_offsets(parts) if parts else {}
            return ends

    async def stored(self) -> int:
        """Add up the ends of all partitions."""
        return sum((await self._ends()).values())

    async def left(self) -> int:
        """Add up what lies between the groups' marks and the ends."""
        ends, number = await self._ends(), 0
        for group, *_ in await self.admin.list_consumer_groups():
            for tp, mark in (await self.admin.list_consumer_group_offsets(group)).items():
                number += max(ends.pop(tp, mark.offset) - mark.offset, 0)
        return number + sum(ends.values())


class Kafka(Provider):
    """Kafka topics with a consumer group."""

    distribution = "ductape-kafka"
    type = "KAFKA"
    settings = f"one broker, {PARTITIONS} partitions, replication 1, no compression; bulk batches of {BATCH} bytes"
    raw = KafkaRaw
    faststream_module = "faststream.kafka"
    packages = ("aiokafka", "cramjam")
    subscriptions = 100  # each is a consumer: at rest so many take a sixth of a processor, and 1,000 more than one

    def server(self) -> Server:
        """Return a broker that is not taken for dead while it makes 6,000 partitions: with Kafka's own defaults."""
        from tests.brokers.kafka import Kafka as KafkaServer

        return KafkaServer({"broker.session.timeout.ms": "9000", "broker.heartbeat.interval.ms": "2000"})

    def version(self, server: Server) -> str:
        """Return the version of the jars."""
        return server.origin

    def config(self, url: str) -> dict[str, Any]:
        """Name the broker."""
        return {"brokers": [url]}

    def faststream(self, url: str, callers: int) -> FastStream:
        """Return a broker with an idempotent producer; the pattern names the one topic."""
        from faststream import AckPolicy
        from faststream.kafka import KafkaBroker

        return FastStream(
            broker=KafkaBroker(url, logger=None, enable_idempotence=True, acks="all"),
            publish={"topic": CHANNEL, "headers": HEADERS},
            subscribe={
                "pattern": f"^{CHANNEL}$",
                "group_id": GROUP,
                "auto_offset_reset": "earliest",
                "ack_policy": AckPolicy.NACK_ON_ERROR,
            },
        )


PROVIDER = Kafka()
