"""Kafka topics, in order by key; and three brokers, of which the leader is killed."""

import asyncio
import collections
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from ductape import Ductape, Event, PublishError
from ductape_conformance.proxy import TcpProxy
from tests.brokers.kafka import Kafka, cluster
from tests.brokers.server import proxy_of
from tests.soak.ground import GROUP, TOPIC, Ground, Row, Run, declared
from tests.soak.runs import CALLERS, EACH, PAUSE

DEADLINE = 60.0
CHANNEL = TOPIC.replace(":", ".")
QUICK = {
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1000",
    "controller.quorum.election.timeout.ms": "500",
}
"""A dead broker is noticed after 3 s, where the defaults take 9."""


class KafkaGround(Ground):
    """One broker."""

    name: ClassVar[str] = "kafka"
    packages: ClassVar[tuple[str, ...]] = ("ductape-kafka", "aiokafka")
    settings: ClassVar[str] = (
        "one broker, 6 partitions; `session` 3 s, `deadline` 60 s. With three: replication 3, `min.insync.replicas` 2"
    )
    ordered: ClassVar[bool] = True

    def make(self) -> Kafka:
        """Return a broker."""
        return Kafka()

    def env(self, port: int | None = None) -> Mapping[str, Any]:
        """Return a short session."""
        return environment([f"127.0.0.1:{port or self.server.port}"], self.lease)

    async def client(self, port: int | None = None, **options: Any) -> Ductape:
        """Return a client whose publishes outlast a restart of the broker: 5 s, and 28 where others work too."""
        return await super().client(port, **{"deadline": DEADLINE, **options})

    def proxied(self, server: Any) -> AbstractAsyncContextManager[TcpProxy]:
        """Open the proxy whose port the broker tells."""
        return proxy_of(server)

    async def stored(self) -> collections.Counter[str]:
        """Read the topic from end to end."""
        return await read(self.server.url)

    def more(self) -> Mapping[str, Run]:
        """Return the run on three brokers."""
        return {"three brokers, 5 × kill -9 of a leader": leaders_killed}


def environment(brokers: list[str], session: float, **more: object) -> Mapping[str, Any]:
    """Return an environment."""
    return {"type": "KAFKA", "config": {"brokers": brokers, "session": session, **more}}


async def read(brokers: str) -> collections.Counter[str]:
    """Count what a topic holds by its ids."""
    counts: collections.Counter[str] = collections.Counter()
    async with AIOKafkaConsumer(bootstrap_servers=brokers) as consumer:
        partitions = [TopicPartition(CHANNEL, number) for number in range(6)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        number = sum((await consumer.end_offsets(partitions)).values())
        while counts.total() < number:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=5000)).values():
                counts.update(dict(record.headers)["ductape-id"].decode() for record in records)
    return counts


@asynccontextmanager
async def three() -> AsyncIterator[list[Kafka]]:
    """Start three brokers, and stop them."""
    brokers = cluster(3, QUICK)
    try:
        await asyncio.gather(*(asyncio.to_thread(each.start) for each in brokers))
        yield brokers
    finally:
        for each in brokers:
            await asyncio.to_thread(each.stop)


async def leaders_killed(ground: Ground, times: int = 5) -> Row:
    """20,000 publishes of 200 callers, consumed meanwhile, while the leader of a partition is killed and comes back."""
    handled: collections.Counter[str] = collections.Counter()
    last: dict[str, int] = {}
    confirmed: list[str] = []
    failed: list[PublishError] = []
    slowest = overtaken = 0.0

    async def handle(event: Event[Any]) -> None:
        nonlocal overtaken
        if not handled[event.id]:
            overtaken += event.message["n"] < last.get(event.key or "", -1)
            last[event.key or ""] = event.message["n"]
        handled[event.id] += 1

    async with three() as brokers:
        urls = [each.url for each in brokers]
        env = environment(urls, ground.lease, replication=3)
        ductape = await declared(env, ground.topic(), deadline=DEADLINE)
        await ductape.event.subscribe(TOPIC, callback=handle, group=GROUP, concurrency=16, order="key")

        async def caller(number: int) -> None:
            nonlocal slowest
            for turn in range(EACH):
                began = time.monotonic()
                try:
                    receipt = await ductape.event.publish(TOPIC, {"n": turn}, key=f"caller-{number}")
                    confirmed.append(receipt.id)
                except PublishError as error:
                    failed.append(error)
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(PAUSE)

        async def kills() -> None:
            for number in range(1, times + 1):
                while len(confirmed) + len(failed) < CALLERS * EACH * number / (times + 1):
                    await asyncio.sleep(0.01)
                leader = brokers[await leader_of(urls) - 1]
                await asyncio.to_thread(leader.kill)
                await asyncio.sleep(6.0)
                await asyncio.to_thread(leader.restart)
                await in_sync(urls)

        await asyncio.gather(kills(), *(caller(each) for each in range(CALLERS)))
        wanted, since = set(confirmed), time.monotonic()
        while not wanted <= handled.keys() and time.monotonic() - since < ground.patience:
            await asyncio.sleep(0.2)
        await ductape.close()
        stored = await read(",".join(urls))
    return {
        "kills of a leader": times,
        "confirmed": len(confirmed),
        "failed": len(failed),
        "confirmed and lost": sum(id not in stored for id in confirmed),
        "lost": len(wanted - handled.keys()),
        "stored twice": sum(count - 1 for count in stored.values()),
        "handled twice": sum(count - 1 for count in handled.values()),
        "out of order": int(overtaken),
        "longest publish, s": round(slowest, 2),
    }


async def _partitions(urls: list[str]) -> list[Any]:
    admin = AIOKafkaAdminClient(bootstrap_servers=urls)
    await admin.start()
    try:
        (topic,) = await admin.describe_topics([CHANNEL])
        partitions: list[Any] = topic["partitions"]
        return partitions
    finally:
        await admin.close()


async def leader_of(urls: list[str]) -> int:
    """Return the number of the broker that leads the first partition."""
    while True:
        first = (await _partitions(urls))[0]
        if first["leader"] > 0:
            return int(first["leader"])
        await asyncio.sleep(0.2)


async def in_sync(urls: list[str]) -> None:
    """Wait until all replicas have everything again: else the next kill would stop the topic, not lose anything."""
    while any(len(each["isr"]) < 3 for each in await _partitions(urls)):
        await asyncio.sleep(0.5)


GROUND = KafkaGround()
