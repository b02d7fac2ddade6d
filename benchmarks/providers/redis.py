"""Redis streams: redis-py as people use it, its best bulk path, FastStream, ductape."""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.load import BROKER, EVENT, Ledger, Order, client, order
from benchmarks.results import Measured
from ductape import Ductape, Registry

from . import FILL, Contestant

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from tests.brokers import Server

STREAM, GROUP, MEMBER = "raw", "billing", "member-1"
CALLERS = 1000
POOL = 100
BULK = 1000
COUNT = 100
RAW_HEADERS: dict[Any, Any] = {"event": "bench:orders", "type": "application/json", "source": "bench"}
PATIENCE = 60.0
"""Seconds without a message after which a consumer is taken to have lost the rest."""

TITLES = {"publish-1000": f"publish, {CALLERS:,} callers", "consume": "consume, typed, acknowledged after the handler"}
SETTINGS = {
    "redis": "append-only file, appendfsync everysec; "
    f"pool of {POOL} for awaited XADD, pipelines of {BULK:,}, COUNT {COUNT}"
}

encode = msgspec.json.Encoder().encode


def server() -> Server:
    """Return a server of our own, whatever the environment names: its data is flushed between runs."""
    from tests.brokers import Redis as RedisServer

    os.environ.pop(RedisServer.variable, None)
    return RedisServer(appendfsync="everysec")


def raw(url: str, **options: Any) -> Redis:
    """Return redis-py's client with a pool that waits for a connection."""
    from redis.asyncio import BlockingConnectionPool
    from redis.asyncio import Redis as Client

    return Client(connection_pool=BlockingConnectionPool.from_url(url, max_connections=POOL, timeout=None, **options))


async def opened(url: str) -> Ductape:
    """Return ductape's client; the adapter is given, so that a checkout can be measured too."""
    from ductape_redis import RedisAdapter

    registry = Registry.of({"redis": RedisAdapter})
    return await client({"type": "REDIS", "config": {"url": url}}, registry=registry)


def faststream() -> Any:
    """Return FastStream's module for Redis; it takes part if it is installed."""
    return importlib.import_module("faststream.redis")


async def stored(url: str) -> int:
    """Return how many entries all streams have."""
    redis = raw(url)
    keys = [key async for key in redis.scan_iter(count=1000, _type="stream")]
    total = sum([await redis.xlen(key) for key in keys])
    await redis.aclose()
    return total


async def left(url: str) -> list[str]:
    """Return what groups have not settled, as notes."""
    redis = raw(url)
    pending = lag = 0
    async for key in redis.scan_iter(count=1000, _type="stream"):
        for group in await redis.xinfo_groups(key):
            pending, lag = pending + group["pending"], lag + (group.get("lag") or 0)
    await redis.aclose()
    return [f"{name} {number}" for name, number in (("UNSETTLED", pending), ("UNREAD", lag)) if number]


async def emptied(url: str) -> None:
    """Forget what an earlier run left."""
    redis = raw(url)
    await redis.flushall()
    await redis.aclose()


# -- publish

Publish = Callable[[int], Awaitable[object]]


async def race(url: str, messages: int, work: Callable[[], Coroutine[Any, Any, object]], callers: int) -> Measured:
    """Measure so many callers at once; then count what is stored."""
    before = await stored(url)
    began = time.process_time()
    await asyncio.gather(*(work() for _ in range(callers)))
    cpu = time.process_time() - began
    missing = messages - (await stored(url) - before)
    notes = [f"LOST {missing}"] if missing > 0 else [f"TWICE {-missing}"] if missing < 0 else []
    return Measured(value=cpu / messages * 1e6, notes=notes)


async def publish_awaited(url: str, messages: int) -> Measured:
    """Every caller awaits its own XADD."""
    await emptied(url)
    redis, numbers = raw(url), iter(range(messages))

    async def caller() -> None:
        for number in numbers:
            await redis.xadd(STREAM, {"body": encode(order(number)), "id": f"{number:016x}", **RAW_HEADERS})

    await redis.ping()
    measured = await race(url, messages, caller, CALLERS)
    await redis.aclose()
    return measured


async def publish_pipelines(url: str, messages: int) -> Measured:
    """One caller sends pipelines: the client's best bulk path, without one result a caller."""
    await emptied(url)
    redis = raw(url)

    async def bulk() -> None:
        for begin in range(0, messages, BULK):
            pipe: Any = redis.pipeline(transaction=False)
            for number in range(begin, min(begin + BULK, messages)):
                pipe.xadd(STREAM, {"body": encode(order(number)), "id": f"{number:016x}", **RAW_HEADERS})
            await pipe.execute()

    await redis.ping()
    measured = await race(url, messages, bulk, 1)
    await redis.aclose()
    return measured


async def publish_ductape(url: str, messages: int) -> Measured:
    """Every caller awaits its own `event.publish`."""
    await emptied(url)
    ductape = await opened(url)
    numbers = iter(range(messages))

    async def caller() -> None:
        publish = ductape.event.publish
        for number in numbers:
            await publish(EVENT, order(number))

    await ductape.event.publish(EVENT, order(0))
    measured = await race(url, messages, caller, CALLERS)
    await ductape.close()
    return measured


async def publish_faststream(url: str, messages: int) -> Measured:
    """Every caller awaits its own `broker.publish`."""
    await emptied(url)
    broker, numbers = faststream().RedisBroker(url, logger=None, max_connections=CALLERS + 1), iter(range(messages))

    async def caller() -> None:
        for number in numbers:
            await broker.publish(msgspec.to_builtins(order(number)), stream=STREAM, headers=RAW_HEADERS)

    await broker.connect()
    measured = await race(url, messages, caller, CALLERS)
    await broker.stop()
    return measured


# -- backlogs


async def fill_raw(url: str, messages: int) -> Measured:
    """Load what a raw client reads."""
    measured = await publish_pipelines(url, messages)
    redis = raw(url)
    await redis.xgroup_create(STREAM, GROUP, "0")
    await redis.aclose()
    return measured


async def fill_ductape(url: str, messages: int) -> Measured:
    """Load what ductape reads; its publisher declares the group."""
    await emptied(url)
    ductape = await opened(url)
    await ductape.event.publish_many(EVENT, (order(number) for number in range(messages)))
    await ductape.close()
    return Measured(value=0.0)


async def fill_faststream(url: str, messages: int) -> Measured:
    """Load what FastStream reads, in its own envelope."""
    await emptied(url)
    broker = faststream().RedisBroker(url, logger=None)
    await broker.connect()
    for number in range(messages):
        await broker.publish(msgspec.to_builtins(order(number)), stream=STREAM, headers=RAW_HEADERS)
    await broker.stop()
    redis = raw(url)
    await redis.xgroup_create(STREAM, GROUP, "0")
    await redis.aclose()
    return Measured(value=0.0)


# -- consume


def reading(*, each: bool) -> Callable[[str, int], Awaitable[Measured]]:
    """Return a consumer with redis-py: XREADGROUP, and XACK for each message, or for each batch."""

    async def run(url: str, messages: int) -> Measured:
        redis, ledger = raw(url), Ledger(messages)
        decode, seen = msgspec.json.Decoder(Order).decode, ledger.seen

        async def handle(message: Order) -> None:
            seen[message.number] += 1

        done = 0
        await redis.ping()
        began = time.process_time()
        while done < messages:
            answer: Any = await redis.xreadgroup(GROUP, MEMBER, {STREAM: ">"}, count=COUNT, block=1000)
            if not answer:
                break
            [[_, entries]] = answer.items() if isinstance(answer, dict) else answer
            entries = entries[0] if isinstance(answer, dict) else entries
            for id, fields in entries:
                await handle(decode(fields[b"body"]))
                if each:
                    await redis.xack(STREAM, GROUP, id)
            if not each:
                await redis.xack(STREAM, GROUP, *[id for id, _ in entries])
            done += len(entries)
        cpu = time.process_time() - began
        await redis.aclose()
        return Measured(value=cpu / messages * 1e6, notes=ledger.faults() + await left(url))

    return run


def subscribing(**options: Any) -> Callable[[str, int], Awaitable[Measured]]:
    """Return a consumer with ductape: typed decoding, acknowledged after the handler."""

    async def run(url: str, messages: int) -> Measured:
        ductape = await opened(url)
        ledger = Ledger(messages)
        seen = ledger.seen

        async def handle(message: Order) -> None:
            seen[message.number] += 1

        await warmed(ductape)
        began = time.process_time()
        subscription = await ductape.event.subscribe(EVENT, callback=handle, **options)
        await patiently(lambda: subscription.stats()["handled"], messages)
        await ductape.close()  # settles what is left: part of the work
        cpu = time.process_time() - began
        return Measured(value=cpu / messages * 1e6, notes=ledger.faults() + await left(url))

    return run


async def warmed(ductape: Ductape) -> None:
    """Load the client library and connect, as the raw clients have: one message through another topic."""
    name, arrived = f"{BROKER}:warm", asyncio.Event()

    async def handle(message: Order) -> None:
        arrived.set()

    await ductape.broker.topic.create(name="Warm", tag=name)
    subscription = await ductape.event.subscribe(name, callback=handle)
    await ductape.event.publish(name, order(0))
    await asyncio.wait_for(arrived.wait(), PATIENCE)
    await subscription.close()


async def patiently(handled: Callable[[], float], messages: int) -> None:
    """Wait until all are handled, or nothing comes any more; looks 20 times a second."""
    last, since = 0.0, time.monotonic()
    while (now := handled()) < messages and time.monotonic() - since < PATIENCE:
        if now != last:
            last, since = now, time.monotonic()
        await asyncio.sleep(0.05)


async def consume_faststream(url: str, messages: int) -> Measured:
    """FastStream's subscriber on a group, at the same guarantee: acknowledged after the handler, one by one."""
    broker, ledger = faststream().RedisBroker(url, logger=None), Ledger(messages)
    seen = ledger.seen

    async def handle(message: dict[str, Any]) -> None:
        seen[message["number"]] += 1

    stream = faststream().StreamSub(STREAM, group=GROUP, consumer=MEMBER, max_records=COUNT)
    broker.subscriber(stream=stream)(handle)
    began = time.process_time()
    await broker.start()
    await patiently(lambda: messages - seen.count(0), messages)
    await broker.stop()
    cpu = time.process_time() - began
    return Measured(value=cpu / messages * 1e6, notes=ledger.faults() + await left(url))


CASES: Mapping[str, Mapping[str, Contestant]] = {
    "publish-1000": {
        "XADD awaited": Contestant(run=publish_awaited),
        "pipelines of 1,000": Contestant(run=publish_pipelines, weight=4),
        "FastStream": Contestant(run=publish_faststream, needs="faststream.redis"),
        "ductape": Contestant(run=publish_ductape, weight=4),
    },
    "consume": {
        "XREADGROUP, one XACK each": Contestant(run=reading(each=True), backlog="raw"),
        "XREADGROUP, XACK a batch": Contestant(run=reading(each=False), backlog="raw", weight=4),
        "FastStream": Contestant(run=consume_faststream, needs="faststream.redis", backlog="FastStream"),
        "ductape": Contestant(run=subscribing(concurrency=64, prefetch=1000), backlog="ductape", weight=4),
        "ductape, defaults": Contestant(run=subscribing(), backlog="ductape", weight=4),
    },
    FILL: {
        "raw": Contestant(run=fill_raw),
        "ductape": Contestant(run=fill_ductape),
        "FastStream": Contestant(run=fill_faststream),
    },
}
