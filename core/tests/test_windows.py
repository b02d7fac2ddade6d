"""Windows, pauses, poison, and what a channel cannot do; rules 13, 14, 18, 19, 22 and 23."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.tests.fake import Fake
from core.tests.kit import opened, quiet
from ductape.adapter import Capabilities, Purpose, Verdict
from ductape.errors import CapabilityError, ConfigError
from ductape_memory import LOG, LOSSY, QUEUE, STREAM

ACK, RELEASE = Verdict.ACK, Verdict.RELEASE
TWO = {"new": {}, "old": {}}
OLD = "orders:old"


# ---- rule 14: windows


@pytest.mark.parametrize(
    ("can", "options", "window"),
    [
        (Capabilities(), {}, 64),
        (Capabilities(), {"concurrency": 100}, 200),
        (Capabilities(watermark=True), {}, 128),
        (Capabilities(watermark=True), {"concurrency": 100}, 200),
        (Capabilities(), {"prefetch": 10}, 10),
    ],
    ids=["default", "twice the concurrency", "log", "log, twice", "asked for"],
)
async def test_the_window_is_what_was_asked_for_or_twice_the_concurrency_and_at_least_64(
    can: Capabilities, options: dict[str, Any], window: int
) -> None:
    async with opened(fake := Fake(can)) as shop:
        await shop.subscribe(shop.log(), **options)
        events, retry = fake.receivers
        assert events.intake.window + retry.intake.window == window
        assert retry.intake.window == window // 8


async def test_the_window_is_a_hard_bound() -> None:
    async with opened(fake := Fake(Capabilities(retry_joins=True))) as shop:
        await shop.subscribe(shop.log(lambda event: shop.clock.sleep(50)), prefetch=20)
        fake.feed(*(str(n).encode() for n in range(100)))
        await shop.advance(10)
        assert len(fake.receiver.delivered) == 20


async def test_receiving_waits_until_a_quarter_of_the_window_is_free() -> None:
    async with opened(fake := Fake(Capabilities(retry_joins=True))) as shop:
        gates = [asyncio.get_running_loop().create_future() for _ in range(40)]
        await shop.subscribe(shop.log(lambda event: gates[event.message]), prefetch=40, concurrency=40)
        fake.feed(*(str(n).encode() for n in range(40)))
        await shop.advance(1)
        before = fake.names("receive").count("receive")
        for n in range(10):
            gates[n].set_result(None)
            await shop.advance(0.006)
        limits = [detail[0] for name, detail in fake.journal if name == "receive"][before:]
        assert [limit for limit in limits if limit][0] >= 10  # noqa: RUF015
        for gate in gates[10:]:
            gate.set_result(None)


async def test_a_full_window_still_serves_the_client() -> None:
    async with opened(fake := Fake()) as shop:
        await shop.subscribe(shop.log(lambda event: shop.clock.sleep(50)), prefetch=8)
        fake.feed(*(str(n).encode() for n in range(8)))
        await shop.advance(20)
        assert [detail for name, detail in fake.journal if name == "receive"].count((0, 0.0)) >= 15


async def test_settlements_linger_a_little_while_few_wait() -> None:
    async with opened(fake := Fake()) as shop:
        await shop.subscribe(shop.log(lambda event: shop.clock.sleep(0.001 * event.message)))
        fake.feed(*(str(n).encode() for n in range(5)))
        await shop.until(lambda: len(fake.settlements) == 5)
        assert fake.names("settle").count("settle") <= 2


# ---- pause


async def test_a_paused_subscription_starts_nothing_and_receives_nothing_until_it_resumes() -> None:
    async with opened() as shop:
        log = shop.log()
        subscription = await shop.subscribe(log)
        subscription.pause()
        await shop.publish(1)
        await shop.advance(30)
        assert log.calls == []
        await shop.publish(2)
        await shop.advance(30)
        health = await shop.run(shop.client.health())
        assert health.subscriptions[0].state == "paused"
        assert health.healthy
        subscription.resume()
        await shop.settled()
        assert sorted(log.messages) == [1, 2]


async def test_a_pause_lets_what_runs_finish_and_keeps_leases() -> None:
    async with opened() as shop:
        log = shop.log(lambda event: shop.clock.sleep(10))
        subscription = await shop.subscribe(log, concurrency=1)
        for n in range(3):
            await shop.publish(n)
        await shop.until(lambda: log.calls)
        subscription.pause()
        await shop.advance(300)
        assert log.messages == [0]
        subscription.resume()
        await shop.settled()
        assert log.attempts == [1, 1, 1]


# ---- rule 18: what cannot be read


async def test_a_delivery_that_the_adapter_could_not_read_follows_on_poison_without_a_handler() -> None:
    async with opened(fake := Fake()) as shop:
        log = shop.log()
        await shop.subscribe(log)
        fake.feed(b"\xff", error="not UTF-8")
        fake.feed(b"1")
        await shop.until(lambda: len(fake.settlements) == 2)
        assert log.messages == [1]
        [letter] = fake.stored
        assert (letter.body, letter.headers["ductape-dead-reason"]) == (b"\xff", "unreadable")
        assert letter.headers["ductape-dead-error"] == "not UTF-8"


async def test_poison_can_be_dropped() -> None:
    async with opened() as shop:
        subscription = await shop.subscribe(shop.log(), on_poison="drop")
        shop.broker.put("orders.new", b"no json")
        await shop.settled()
        assert await shop.dead() == []
        assert subscription.stats()["dropped"] == 1


async def test_poison_can_stop_the_subscription_and_stays_with_the_broker() -> None:
    async with opened() as shop:
        log = shop.log()
        await shop.subscribe(log, on_poison="stop", concurrency=1)
        shop.broker.put("orders.new", b"no json")
        await shop.publish(1)
        await shop.advance(1)
        health = await shop.run(shop.client.health())
        assert health.subscriptions[0].state == "stopped"
        assert "on_poison" in health.subscriptions[0].error
        await shop.close()
        assert shop.left() >= 1
        assert await_bodies(shop)[0] == b"no json"


def await_bodies(shop: Any) -> list[bytes]:
    return [entry.body for entry in shop.broker.messages("orders.new", "shop.new")]


async def test_an_unreadable_message_does_not_hold_up_its_key() -> None:
    async with opened(QUEUE, topics={"new": {"order": "key"}}) as shop:
        log = shop.log()

        async def typed(message: int) -> None:
            log.calls.append(message)  # type: ignore[arg-type]

        await shop.subscribe(typed)
        for payload in (1, "x", 2):
            await shop.publish(payload, key="k")
        await shop.settled()
        assert log.calls == [1, 2]


# ---- rule 22 and capabilities


async def test_a_lossy_channel_drops_what_fails_and_tells_how_much_was_lost() -> None:
    async with opened(LOSSY) as shop:
        log = shop.log(lambda event: ValueError())
        subscription = await shop.subscribe(log)
        await shop.publish(1)
        await shop.advance(100)
        assert log.attempts == [1, 2, 3, 4, 5]
        assert subscription.stats()["dropped"] == 1
        health = await shop.run(shop.client.health())
        assert health.brokers[0].durability == "none"
        assert health.subscriptions[0].dropped == 0


@pytest.mark.parametrize(
    ("can", "options", "topic", "capability"),
    [
        (LOSSY, {"group": "billing"}, {}, "groups"),
        (STREAM, {"order": "key"}, {"order": "key"}, "order"),
        (QUEUE, {"start": "earliest"}, {}, "history"),
        (Capabilities(lease=30.0, lease_total=60.0), {"timeout": 61}, {}, "lease_total"),
        (
            Capabilities(lease=60.0, lease_total=60.0, lease_shared=True),
            {"timeout": 20, "concurrency": 8, "prefetch": 64},
            {},
            "lease_total",
        ),
    ],
    ids=["groups", "order", "history", "lease", "shared lease"],
)
async def test_what_a_channel_cannot_do_is_refused_when_the_subscription_opens(
    can: Capabilities, options: dict[str, Any], topic: dict[str, Any], capability: str
) -> None:
    async with opened(can, topics={"new": topic, "ok": {}}) as shop:
        with pytest.raises(CapabilityError, match="MEMORY") as caught:
            await shop.subscribe(shop.log(), **options)
        assert (caught.value.code, caught.value.fields["capability"]) == ("CAPABILITY_MISSING", capability)
        log = shop.log()
        await shop.subscribe(log, "orders:ok")
        await shop.publish(1, "orders:ok")
        await shop.until(lambda: log.calls)


async def test_order_is_decided_with_the_topic() -> None:
    async with opened(fake := Fake(Capabilities(order=LOG.order)), topics={"new": {}, "old": {"order": "key"}}) as shop:
        with pytest.raises(ConfigError, match=r"topic\.update") as caught:
            await shop.subscribe(shop.log(), order="key")
        assert caught.value.code == "OPTION_INVALID"
        await shop.subscribe(shop.log(), OLD)
        assert fake.receiver.intake.order.name == fake.receiver.channel.order.name == "KEY"
        await shop.publish(1, OLD)
        assert fake.senders[-1].channel.order.name == "KEY"


@pytest.mark.parametrize("group", ["billing.dead", "billing.retry", "a-retry", "a_DEAD", "a:dead", "", "with space", 5])
async def test_group_names_that_end_like_a_derived_channel_or_are_no_names_are_refused(group: Any) -> None:
    async with opened() as shop:
        with pytest.raises(ConfigError, match="group") as caught:
            await shop.subscribe(shop.log(), group=group)
        assert caught.value.code == "OPTION_INVALID"


async def test_the_capabilities_of_the_channel_count_not_those_of_the_class() -> None:
    fake = Fake(Capabilities(history=True))
    fake.purposes[Purpose.EVENTS] = Capabilities(history=False)
    async with opened(fake) as shop:
        with pytest.raises(CapabilityError):
            await shop.subscribe(shop.log(), start="earliest")
        await quiet()
        await shop.subscribe(shop.log())
