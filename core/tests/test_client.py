"""The client's life: opening, closing, overriding, serving, and how it looks meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from core.tests.fake import Fake, failing, never
from core.tests.kit import EVENT, VirtualClock, opened, quiet
from ductape import Ductape, Retry
from ductape.adapter import Fault
from ductape.errors import DuctapeError, OpenError, StateError
from ductape_memory import MemoryAdapter, MemoryBroker


async def described(**topics: Any) -> Ductape:
    client = Ductape(product="shop", env="dev")
    await client.broker.create(tag="orders", envs=[{"slug": "dev", "type": "MEMORY"}])
    for tag, fields in (topics or {"new": {}}).items():
        await client.broker.topic.create(tag=f"orders:{tag}", **fields)
    return client


async def test_decorated_handlers_open_with_the_client_and_close_with_it() -> None:
    client, clock = await described(), VirtualClock()
    got: list[Any] = []

    @client.event.subscribe(EVENT)
    async def handler(message: int) -> None:
        got.append(message)

    with client.override(adapter=lambda name: MemoryAdapter(), clock=lambda: clock):
        for n in (1, 2):
            async with client:
                await clock.run(client.event.publish(EVENT, n))
                await clock.until(lambda: len(got) == n)  # noqa: B023
                await clock.run(client.close())
            await clock.run(client.close())
    assert got == [1, 2]
    assert callable(handler)


async def test_what_was_subscribed_before_opening_does_not_keep_decorated_handlers_closed() -> None:
    client, clock = await described(new={}, old={}), VirtualClock()
    got: list[Any] = []

    @client.event.subscribe("orders:old")
    async def decorated(message: int) -> None:
        got.append(("decorated", message))

    async def called(message: int) -> None:
        got.append(("called", message))

    with client.override(adapter=lambda name: MemoryAdapter(), clock=lambda: clock):
        await clock.run(client.event.subscribe({"event": EVENT, "callback": called, "env": "dev", "product": "shop"}))
        await clock.run(client.open())
        await clock.run(client.open())
        await clock.run(client.event.publish(EVENT, 1))
        await clock.run(client.event.publish("orders:old", 2))
        await clock.until(lambda: len(got) == 2)
        await clock.run(client.close())
    assert sorted(got) == [("called", 1), ("decorated", 2)]


async def test_opening_that_fails_closes_what_was_opened() -> None:
    fake, clock = Fake(), VirtualClock()
    client = await described(new={}, old={})
    for event in (EVENT, "orders:old"):
        client.event.subscribe(event)(_nothing)
    fake.script("receiver", failing(Fault.CONFIG))
    with client.override(adapter=lambda name: fake, clock=lambda: clock):
        with pytest.raises(OpenError) as caught:
            await clock.run(client.open())
        assert caught.value.code == "SUBSCRIBE_FAILED"
        assert all(each.closed for each in (*fake.receivers, *fake.connections))
        await clock.run(client.open())
        await clock.run(client.close())


async def _nothing(message: Any) -> None:
    """A handler."""


async def test_after_close_everything_says_closed_and_a_new_opening_works() -> None:
    async with opened() as shop:
        await shop.publish(1)
        await shop.close()
        await shop.close()
        for call in (
            lambda: shop.event.publish(EVENT, 1),
            lambda: shop.event.publish_many(EVENT, [1]),
            lambda: shop.event.subscribe(EVENT, callback=_nothing),
            lambda: shop.event.publisher(EVENT),
        ):
            with pytest.raises(StateError, match="open it again|async with") as caught:  # noqa: RUF043
                await shop.run(call())
            assert caught.value.code == "CLOSED"
        async with shop.client:
            await shop.publish(2)
            assert len(shop.broker.messages("orders.new")) == 2
            await shop.close()


async def test_a_handler_may_publish_while_the_client_closes() -> None:
    async with opened(topics={"new": {}, "old": {}}) as shop:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def handler(message: int) -> None:
            started.append(message)
            await release
            await shop.event.publish("orders:old", message)

        started: list[int] = []
        await shop.subscribe(handler)
        await shop.publish(7)
        await shop.until(lambda: started)
        closing = asyncio.ensure_future(shop.client.close())
        await quiet()
        release.set_result(None)
        await shop.run(closing)
        assert [entry.body for entry in shop.broker.messages("orders.old")] == [b"7"]
        assert shop.left() == 0


async def test_an_open_client_cannot_be_overridden_and_an_override_ends() -> None:
    async with opened() as shop:
        await shop.publish(1)
        with (
            pytest.raises(StateError) as caught,
            shop.client.override(adapter=lambda name: Fake(), clock=VirtualClock),
        ):
            raise AssertionError
        assert caught.value.code == "ALREADY_OPEN"
        await shop.publish(2)


async def test_a_decorator_on_an_open_client_is_refused_with_what_to_do() -> None:
    async with opened() as shop:
        await shop.publish(1)
        with pytest.raises(StateError, match="callback") as caught:
            shop.event.subscribe(EVENT)(_nothing)
        assert caught.value.code == "ALREADY_OPEN"


async def test_two_publishes_that_open_the_client_together_share_connection_and_sender() -> None:
    async with opened(fake := Fake()) as shop:
        await shop.run(asyncio.gather(*(shop.event.publish(EVENT, n) for n in range(10))))
        assert (len(fake.connections), len(fake.senders)) == (1, 1)


async def test_nothing_is_left_running_after_close() -> None:
    before = asyncio.all_tasks()
    async with opened() as shop:
        log = shop.log(lambda event: ValueError() if event.message % 7 == 0 else None)
        subscription = await shop.subscribe(log, retry=Retry(attempts=2, delay=1), timeout=5)
        await shop.run(shop.event.publish_many(EVENT, range(50)))
        await shop.until(lambda: len(log.calls) > 40)
        assert subscription.stats()["received"]
    await quiet(300)
    assert asyncio.all_tasks() == before


# ---- serve


async def test_serve_runs_until_it_is_stopped() -> None:
    client, clock = await described(), VirtualClock()
    got: list[Any] = []
    client.event.subscribe(EVENT)(got.append if False else _append(got))
    with client.override(adapter=lambda name: MemoryAdapter(), clock=lambda: clock):
        serving = asyncio.ensure_future(client.serve())
        await quiet()
        await clock.run(client.event.publish(EVENT, 1))
        await clock.until(lambda: got)
        client.stop()
        await clock.run(serving)
    assert got == [1]
    assert client.engine is None


def _append(got: list[Any]) -> Any:
    async def handler(message: Any) -> None:
        got.append(message)

    return handler


async def test_serve_ends_with_the_failure_of_a_subscription() -> None:
    client, clock = await described(), VirtualClock()

    @client.event.subscribe(EVENT, on_poison="stop")
    async def handler(message: int) -> None: ...

    with client.override(adapter=lambda name: MemoryAdapter(), clock=lambda: clock):
        serving = asyncio.ensure_future(client.serve())
        await quiet()
        await clock.run(client.event.publish(EVENT, "text"))
        with pytest.raises(DuctapeError, match="on_poison") as caught:
            await clock.run(serving)
        assert caught.value.code == "PAYLOAD_UNREADABLE"
        assert MemoryBroker.of("default").depth("orders.new", "shop.new") == 1


async def test_serve_ends_with_the_failure_of_a_subscription_that_was_opened_later() -> None:
    client, clock = await described(new={}, old={}), VirtualClock()
    client.event.subscribe("orders:old")(_nothing)

    async def handler(message: int) -> None: ...

    with client.override(adapter=lambda name: MemoryAdapter(), clock=lambda: clock):
        serving = asyncio.ensure_future(client.serve())
        await quiet()
        await clock.run(client.event.subscribe(EVENT, callback=handler, on_poison="stop"))
        await clock.run(client.event.publish(EVENT, "text"))
        with pytest.raises(DuctapeError, match="on_poison"):
            await clock.run(serving)


async def test_run_inside_a_running_loop_says_what_to_await() -> None:
    client = await described()
    with pytest.raises(StateError, match=r"await ductape\.serve") as caught:
        client.run()
    assert caught.value.code == "WRONG_LOOP"


# ---- health and stats


async def test_a_client_that_opened_nothing_is_healthy_and_has_no_stats() -> None:
    client = await described()
    health = await client.health()
    assert (health.healthy, health.brokers, health.subscriptions) == (True, [], [])
    assert client.stats() == {}
    assert repr(client) == "<Ductape product='shop' env='dev' not open>"


async def test_health_and_stats_tell_what_is_in_hand() -> None:
    async with opened() as shop:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        log = shop.log(lambda event: release if event.message < 2 else ValueError())
        subscription = await shop.subscribe(log, retry=Retry(delay=60), concurrency=3)
        await shop.run(shop.event.publish_many(EVENT, range(5)))
        await shop.advance(12)
        health = await shop.run(shop.client.health())
        [group] = health.subscriptions
        assert health.healthy
        assert (group.state, group.events, group.group, group.channel) == (
            "receiving",
            [EVENT],
            "shop.new",
            "orders.new",
        )
        assert group.oldest == pytest.approx(12, abs=0.1)
        assert (group.in_hand, group.window) == (2, 64)
        assert group.last_progress < 11
        [broker] = health.brokers
        assert (broker.broker, broker.state, broker.durability, broker.pending) == ("orders", "connected", "stored", 0)
        stats = shop.client.stats()
        assert stats["orders.new"]["stored"] == 5
        assert stats[f"{EVENT}/shop.new"]["received"] == 5
        assert subscription.stats()["running"] == 2
        assert subscription.stats()["failed"] == 3
        msgspec.json.encode(health)
        release.set_result(None)


async def test_health_tells_of_a_receiver_that_fails_and_recovers() -> None:
    async with opened(fake := Fake()) as shop:
        await shop.subscribe(shop.log())
        fake.always["receive"] = failing(Fault.LOST)
        fake.script("receiver", *[failing(Fault.TRANSIENT)] * 3)
        fake.receiver.ring()
        await shop.advance(0.2)
        health = await shop.run(shop.client.health())
        assert (health.healthy, health.subscriptions[0].state) == (False, "failing")
        assert "on demand" in health.subscriptions[0].error
        del fake.always["receive"]
        await shop.advance(60)
        health = await shop.run(shop.client.health())
        assert health.healthy


async def test_health_waits_for_no_lag_that_does_not_come() -> None:
    async with opened() as shop:
        await shop.subscribe(shop.log())
        shop.broker.faults.stall("lag", seconds=1000)
        began = shop.clock.now()
        health = await shop.run(shop.client.health())
        assert health.subscriptions[0].lag is None
        assert shop.clock.now() - began <= 2.1
        shop.broker.faults.clear()
        await shop.publish(1)
        assert (await shop.run(shop.client.health())).subscriptions[0].lag == 0


async def test_long_lived_objects_tell_about_themselves() -> None:
    async with opened() as shop:
        subscription = await shop.subscribe(shop.log())
        await shop.publish(1)
        engine = shop.client.engine
        assert engine is not None
        [group] = engine.groups.values()
        shown = [shop.client, engine, subscription, group, *group.sources, *engine.outboxes.values(), shop.event]
        for each in shown:
            assert " object at 0x" not in repr(each)


async def test_no_text_of_a_running_client_shows_the_process_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2secret")
    async with opened() as shop:
        await shop.subscribe(shop.log())
        await shop.publish(1)
        engine = shop.client.engine
        assert engine is not None
        for each in (shop.client, engine, engine.settings, engine.atlas, engine.bounds, *engine.groups.values()):
            assert "hunter2secret" not in repr(each)
            assert "hunter2secret" not in str(vars(each)) if hasattr(each, "__dict__") else True


async def test_native_hands_out_the_client_library_s_object_and_names_what_is_wrong() -> None:
    from ductape.errors import ConfigError

    async with opened() as shop:
        assert await shop.run(shop.client.native("orders", MemoryBroker)) is shop.broker
        with pytest.raises(ConfigError, match="dict") as caught:
            await shop.run(shop.client.native("orders", dict))
        assert caught.value.code == "OPTION_INVALID"


async def test_a_connection_that_never_answers_is_given_up_within_its_bound() -> None:
    async with opened(fake := Fake()) as shop:
        fake.always["connect"] = never
        began = shop.clock.now()
        with pytest.raises(OpenError) as caught:
            await shop.subscribe(_nothing)
        assert caught.value.code == "CONNECT_FAILED"
        assert shop.clock.now() - began <= 41
