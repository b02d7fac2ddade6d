"""Promises across distributions: the kernel on a real Redis server, with kills, cuts and members that come and go."""

import asyncio
import collections
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
import redis.asyncio as raw

from ductape import Ductape, Event, PublishError, Registry, Reject, Retry
from ductape.errors import AdapterNotUsable, OpenError
from ductape_conformance.proxy import TcpProxy
from ductape_redis import RedisAdapter
from tests.brokers.redis import Redis

LEASE = 2.0
Make = Callable[..., Awaitable[Ductape]]


async def until(true: Callable[[], object], within: float = 20.0) -> None:
    """Wait for a fact that no event tells."""
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.01)


@pytest.fixture
async def make(redis_server: Redis) -> AsyncIterator[Make]:
    """Make clients of one namespace; close them in the end."""
    clients: list[Ductape] = []
    topic = uuid.uuid4().hex[:8]

    async def client(
        url: str | None = None, *, groups: tuple[str, ...] = ("billing",), lease: float = LEASE, **options: Any
    ) -> Ductape:
        ductape = Ductape(product="shop", env="dev", **options)
        config = {"url": url or redis_server.url, "lease": LEASE}
        await ductape.broker.create(tag="orders", envs=[{"slug": "dev", "type": "REDIS", "config": config}])
        await ductape.broker.topic.create(tag="orders:new", groups=groups, options={})
        await ductape.broker.update(
            "orders", envs=[{"slug": "dev", "type": "REDIS", "config": {**config, "channel": topic}}]
        )
        clients.append(ductape)
        return ductape

    yield client
    await asyncio.gather(*(client.close(1.0) for client in clients))


@pytest.mark.kills
async def test_nothing_confirmed_is_lost_and_nothing_fails_when_the_server_is_killed(
    make: Make, redis_server: Redis
) -> None:
    ductape = await make()
    handled: list[str] = []
    confirmed: list[str] = []
    failed: list[PublishError] = []

    async def handle(event: Event) -> None:
        handled.append(event.id)

    await ductape.event.subscribe("orders:new", callback=handle, group="billing", concurrency=32)

    async def caller() -> None:
        for turn in range(20):
            try:
                confirmed.append((await ductape.event.publish("orders:new", {"turn": turn})).id)
            except PublishError as error:
                failed.append(error)
            await asyncio.sleep(0.02)

    async def kill() -> None:
        await until(lambda: len(confirmed) > 400)
        await asyncio.to_thread(redis_server.kill)
        await asyncio.to_thread(redis_server.restart)

    await asyncio.gather(kill(), *(caller() for _ in range(100)))
    assert (len(confirmed), failed) == (2000, [])
    await until(lambda: set(handled) >= set(confirmed))


async def test_a_cut_connection_loses_nothing_and_repeats_little(make: Make, redis_proxy: TcpProxy) -> None:
    ductape = await make(f"redis://127.0.0.1:{redis_proxy.port}/0")
    handled: list[str] = []

    async def handle(event: Event) -> None:
        await asyncio.sleep(0.001)
        handled.append(event.id)

    await ductape.event.subscribe("orders:new", callback=handle, group="billing")
    confirmed: list[str] = []
    for part in range(20):
        receipts = await ductape.event.publish_many("orders:new", [{"n": part * 50 + n} for n in range(50)])
        confirmed += [receipt.id for receipt in receipts]
        if part % 5 == 4:
            redis_proxy.cut()
    await until(lambda: set(handled) >= set(confirmed))
    twice = sum(count - 1 for count in collections.Counter(handled).values())
    assert twice <= 200, "tokens outlive a connection: only records of a call under way may be stored again"


async def test_a_poison_message_gets_exactly_its_attempts_over_two_members(make: Make) -> None:
    attempts: list[tuple[str, int, float]] = []

    def failing(name: str) -> Callable[[dict[str, Any], Event], Awaitable[None]]:
        async def handle(message: dict[str, Any], event: Event) -> None:
            if message["poison"]:
                attempts.append((name, event.attempt, time.monotonic()))
                raise ValueError("it can never work")

        return handle

    members = [await make(), await make()]
    retry = Retry(attempts=5, delay=0.1, factor=1.5)
    for name, member in zip("ab", members, strict=True):
        await member.event.subscribe("orders:new", callback=failing(name), group="billing", retry=retry)
    await members[0].event.publish("orders:new", {"poison": True}, headers={"trace": "kept"})
    await members[0].event.publish_many("orders:new", [{"poison": False}] * 100)
    await until(lambda: len(attempts) == 5)
    letters = [letter async for letter in members[0].event.dead("orders:new", group="billing")]
    assert [number for _, number, _ in attempts] == [1, 2, 3, 4, 5]
    gaps = [after - before for (_, _, before), (_, _, after) in pairwise(attempts)]
    assert all(gap >= 0.1 * 1.5**number for number, gap in enumerate(gaps))
    [letter] = letters
    assert (letter.reason, letter.attempts, letter.body) == ("exhausted", 5, b'{"poison":true}')
    assert dict(letter.headers) == {"content-type": "application/json", "trace": "kept"}


async def test_a_replayed_letter_reaches_its_group_alone_with_its_id(make: Make) -> None:
    ductape = await make(groups=("billing", "audit"))
    seen: list[tuple[str, str, int]] = []
    mended = False

    async def bill(event: Event) -> None:
        seen.append(("billing", event.id, event.attempt))
        if not mended:
            raise Reject("no such customer")

    async def audit(event: Event) -> None:
        seen.append(("audit", event.id, event.attempt))

    await ductape.event.subscribe("orders:new", callback=bill, group="billing")
    await ductape.event.subscribe("orders:new", callback=audit, group="audit")
    receipt = await ductape.event.publish("orders:new", {"n": 1})
    await until(lambda: len(seen) == 2)
    mended = True
    async for letter in ductape.event.dead("orders:new", group="billing"):
        await letter.replay()
    await until(lambda: len(seen) == 3)
    assert seen[2] == ("billing", receipt.id, 1)
    assert [letter async for letter in ductape.event.dead("orders:new", group="billing")] == []


async def test_a_group_that_the_server_lost_is_declared_again(make: Make, redis_server: Redis) -> None:
    publisher, idle = await make(), await make()
    await publisher.event.publish("orders:new", {"n": 0})
    server = raw.Redis.from_url(redis_server.url)
    await server.flushall()
    receipts = await publisher.event.publish_many("orders:new", [{"n": n} for n in range(100)])
    handled: list[str] = []

    async def handle(event: Event) -> None:
        handled.append(event.id)

    await idle.event.subscribe("orders:new", callback=handle, group="billing")
    await until(lambda: set(handled) >= {receipt.id for receipt in receipts})
    await server.aclose()


async def test_a_long_handler_keeps_its_lease_beside_another_member(make: Make) -> None:
    lease = 2 * LEASE  # renewed when half of it is left: room for a machine that stops for a second
    members = [await make(lease=lease), await make(lease=lease)]
    runs: list[str] = []

    async def handle(event: Event) -> None:
        runs.append(event.id)
        await asyncio.sleep(lease * 1.6)

    opened = [await member.event.subscribe("orders:new", callback=handle, group="billing") for member in members]
    await members[0].event.publish("orders:new", {"n": 1})
    await until(lambda: sum(each.stats()["handled"] for each in opened) == 1)
    assert len(runs) == 1


async def test_stopping_hands_back_at_once_what_has_not_started(make: Make) -> None:
    first, second = await make(), await make()
    started: list[str] = []
    go = asyncio.Event()

    async def slow(event: Event) -> None:
        started.append(event.id)
        await go.wait()

    subscription = await first.event.subscribe("orders:new", callback=slow, group="billing", concurrency=4)
    receipts = await first.event.publish_many("orders:new", [{"n": n} for n in range(20)])
    await until(lambda: len(started) == 4)
    closing = asyncio.ensure_future(subscription.close())
    handled: list[tuple[str, int]] = []

    async def quick(event: Event) -> None:
        handled.append((event.id, event.attempt))

    await second.event.subscribe("orders:new", callback=quick, group="billing")
    await until(lambda: len(handled) == 16, within=LEASE * 0.75)
    go.set()
    await closing
    assert {attempt for _, attempt in handled} == {1}, "a hand-back is no attempt"
    assert sorted(started + [id for id, _ in handled]) == sorted(receipt.id for receipt in receipts)


async def test_stop_ends_within_its_bounds_while_the_server_is_away(make: Make, redis_proxy: TcpProxy) -> None:
    ductape = await make(f"redis://127.0.0.1:{redis_proxy.port}/0")
    started = asyncio.Event()

    async def handle(message: object) -> None:
        started.set()

    await ductape.event.subscribe("orders:new", callback=handle, group="billing")
    await ductape.event.publish("orders:new", {"n": 1})
    await started.wait()
    redis_proxy.stall()
    began = time.monotonic()
    await ductape.close(1.0)
    assert time.monotonic() - began < 30.0
    redis_proxy.resume()


async def test_a_wrong_password_is_refused_and_never_shown(redis_server: Redis) -> None:
    ductape = Ductape(product="shop", env="dev")
    config = {"host": "127.0.0.1", "port": redis_server.port, "password": "opensesame"}
    await ductape.broker.create(tag="orders", envs=[{"slug": "dev", "type": "REDIS", "config": config}])
    await ductape.broker.topic.create(tag="orders:new")

    async def handle(message: object) -> None: ...

    with pytest.raises(OpenError) as refused:
        await ductape.event.subscribe("orders:new", callback=handle)
    assert refused.value.code == "SUBSCRIBE_FAILED"
    with pytest.raises(PublishError) as failed:
        await ductape.event.publish("orders:new", {})
    assert (failed.value.code, failed.value.stored) == ("PUBLISH_FAILED", "no")
    shown = (
        f"{refused.value} {failed.value} {ductape!r} {await ductape.broker.fetch('orders')!r} {await ductape.health()}"
    )
    assert "opensesame" not in shown
    await ductape.close()


async def test_an_adapter_that_is_not_installed_is_named_with_what_to_install() -> None:
    ductape = Ductape(product="shop", env="prd", registry=Registry.of({"REDIS": RedisAdapter}))
    await ductape.broker.create(
        tag="orders", envs=[{"slug": "prd", "type": "KAFKA", "config": {"brokers": ["x:9092"]}}]
    )
    await ductape.broker.topic.create(tag="orders:new")
    with pytest.raises(AdapterNotUsable, match="pip install ductape-kafka"):
        await ductape.event.publish("orders:new", {})
    await ductape.close()
