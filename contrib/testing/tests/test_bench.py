"""The bench as a user meets it: retries, dead letters, order, delays, real waits, and virtual time."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, Literal

import msgspec
import pytest

import ductape_testing as testing
from ductape import Ductape, Event, Reject, Retry, RetryLater
from ductape.adapter import Fault
from ductape_testing import Bench, bench

EVENT = "order-events:new-orders"


Ordered = Literal["none", "key", "total"]


class Order(msgspec.Struct, rename="camel"):
    order_id: str
    total: float = 0.0


async def client(order: Ordered = "none") -> Ductape:
    """A service's client: Kafka in production, whose adapter is not installed."""
    ductape = Ductape(product="shop", env="prd")
    await ductape.broker.create(
        name="Order Events",
        tag="order-events",
        envs=[
            {
                "slug": "prd",
                "type": "KAFKA",
                "create": False,
                "config": {"brokers": ["kafka:9092"], "groupId": "g", "sasl": {"password": "${NOT_SET}"}},
            },
            {"slug": "stg", "type": "AWS_SQS", "config": {}},
        ],
    )
    await ductape.broker.topic.create(name="New Orders", message_broker_tag="order-events", tag=EVENT, order=order)
    return ductape


async def shop(*, order: Ordered = "none", retry: Retry | None = None) -> SimpleNamespace:
    """A service: one handler in one group."""
    ductape = await client(order)
    app = SimpleNamespace(ductape=ductape, seen=[])

    @ductape.event.subscribe(EVENT, group="billing", retry=retry or Retry(attempts=5))
    async def bill(order: Order, event: Event[Order]) -> None:
        app.seen.append((order.order_id, event.attempt))

    app.bill = bill
    return app


async def test_the_example_of_the_readme() -> None:
    app = await shop()
    async with testing.bench(app.ductape) as bench:
        bench.fail(app.bill, ValueError, times=5)
        await app.ductape.event.publish("order-events:new-orders", {"orderId": "1"})
        await bench.settled()
        [letter] = bench.dead("order-events:new-orders", group="billing")
        assert letter.attempts == 5 and bench.elapsed > 15  # noqa: PT018  # the README's line
    assert (letter.reason, letter.error, letter.message) == ("exhausted", "ValueError:", {"orderId": "1"})
    assert app.seen == []


async def test_a_log_comes_to_the_same() -> None:
    app = await shop()
    async with bench(app.ductape, imitate="log") as b:
        b.fail(app.bill, ValueError, times=5)
        await app.ductape.event.publish(EVENT, {"orderId": "1"})
        await b.settled()
        [letter] = b.dead(EVENT, group="billing")
        assert letter.attempts == 5
        assert 15 < b.elapsed < 20


@pytest.mark.parametrize("imitate", ["queue", "log", "stream"])
async def test_retries_come_at_their_time(imitate: str) -> None:
    app = await shop()
    async with bench(app.ductape, imitate=imitate) as b:
        b.fail(app.bill, RetryLater(3.0))
        b.fail(app.bill, RetryLater(0.25))
        b.fail(app.bill, RetryLater(40.0))
        await app.ductape.event.publish(EVENT, {"orderId": "1"})
        await b.settled()
        calls = b.handled(app.bill)
        assert [round(call.at, 5) for call in calls] == [0.0, 3.0, 3.25, 43.25]
        assert [call.attempt for call in calls] == [1, 2, 3, 4]
        assert [call.outcome for call in calls] == ["failed", "failed", "failed", "done"]
        assert b.elapsed == pytest.approx(43.25)
    assert app.seen == [("1", 4)]


async def test_time_stands_still_until_it_is_moved() -> None:
    app = await shop(retry=Retry(delay=10.0))
    async with bench(app.ductape) as b:
        b.fail(app.bill, ValueError)
        await app.ductape.event.publish(EVENT, {"orderId": "1"})
        await asyncio.sleep(0.05)
        assert (b.elapsed, len(b.handled(EVENT))) == (0.0, 1)
        await b.advance(9.9)
        assert (b.elapsed, len(b.handled(EVENT))) == (9.9, 1)
        await b.advance(2.2)
        assert (round(b.elapsed, 6), len(b.handled(EVENT))) == (12.1, 2)
        assert app.seen == [("1", 2)]


async def test_two_groups_each_have_their_fate() -> None:
    ductape = await client()
    seen: list[str] = []

    @ductape.event.subscribe(EVENT, group="billing")
    async def bill(order: Order) -> None:
        raise Reject("no such customer")

    @ductape.event.subscribe(EVENT, group="shipping")
    async def ship(order: Order) -> None:
        seen.append(order.order_id)

    async with bench(ductape) as b:
        await ductape.event.publish(EVENT, {"orderId": "1"}, key="k", headers={"tenant": "blue"})
        await b.settled()
        [letter] = b.dead(EVENT)
        assert (letter.group, letter.reason, letter.attempts) == ("billing", "rejected", 1)
        assert (letter.key, letter.headers["tenant"], letter.body) == ("k", "blue", b'{"orderId":"1"}')
        assert b.dead(EVENT, group="shipping") == []
        assert b.elapsed == 0.0
        assert seen == ["1"]
        assert [call.outcome for call in b.handled(EVENT, group="shipping")] == ["done"]
        [failed] = b.handled(bill)
        assert isinstance(failed.error, Reject)
        assert failed.message == Order("1")


@pytest.mark.parametrize("imitate", [None, "log"])
async def test_order_by_key_holds_under_failure(imitate: str | None) -> None:
    app = await shop(order="key")
    async with bench(app.ductape, imitate=imitate) as b:
        b.fail(app.bill, ValueError, times=2, when=lambda event: event.message.order_id == "a1")
        for id, key in ("a1", "a"), ("b1", "b"), ("a2", "a"), ("a3", "a"):
            await app.ductape.event.publish(EVENT, {"orderId": id}, key=key)
        await b.settled()
        assert [id for id, _ in app.seen if id[0] == "a"] == ["a1", "a2", "a3"]
        [other] = [call for call in b.handled(EVENT) if call.key == "b"]
        assert other.at == 0.0
        assert b.elapsed > 3


async def test_a_delayed_publish_arrives_when_it_is_due() -> None:
    app = await shop()
    async with bench(app.ductape) as b:
        await app.ductape.event.publish(EVENT, {"orderId": "1"}, delay=3600)
        await b.settled()
        assert [call.at for call in b.handled(app.bill)] == [3600.0]
        [sent] = b.published(EVENT)
        assert (sent.delay, sent.at, sent.message) == (3600.0, 0.0, {"orderId": "1"})


async def test_handlers_that_wait_for_something_real_are_waited_for() -> None:
    ductape = await client()
    done: list[float] = []

    @ductape.event.subscribe(EVENT, retry=Retry(delay=1.0))
    async def slow(order: Order, event: Event[Order]) -> None:
        await asyncio.sleep(0.05)
        done.append(b.elapsed)
        if event.attempt == 1:
            raise RetryLater(2.0)

    @ductape.event.subscribe(EVENT, group="quick")
    async def quick(order: Order) -> None: ...

    async with bench(ductape) as b:
        b.fail(quick, RetryLater(1.0))
        await ductape.event.publish(EVENT, {"orderId": "1"})
        await b.settled()
        assert done == [0.0, 2.0]


async def test_plain_functions_run_in_threads_and_fail_alike() -> None:
    ductape = await client()
    seen: list[str] = []

    @ductape.event.subscribe(EVENT, group="billing")
    def bill(order: Order) -> None:
        time.sleep(0.02)
        seen.append(order.order_id)

    async with bench(ductape) as b:
        plan = b.fail(bill, OSError("full"), times=2)
        await asyncio.gather(*(ductape.event.publish(EVENT, {"orderId": str(n)}) for n in range(5)))
        await b.settled()
        assert sorted(seen) == list("01234")
        assert (plan.count, plan.left) == (2, 0)
        assert sorted(call.outcome for call in b.handled(bill)) == ["done"] * 5 + ["failed"] * 2


async def test_a_plain_function_may_return_something_to_await() -> None:
    ductape = await client()

    async def later(order: Order) -> None:
        await asyncio.sleep(0.01)
        if order.order_id == "bad":
            raise Reject("bad")

    @ductape.event.subscribe(EVENT, group="billing")
    def bill(order: Order) -> Any:
        return later(order)

    async with bench(ductape) as b:
        await ductape.event.publish(EVENT, {"orderId": "good"})
        await ductape.event.publish(EVENT, {"orderId": "bad"})
        await b.settled()
        assert {call.message.order_id: call.outcome for call in b.handled(bill)} == {"good": "done", "bad": "failed"}
        assert len(b.dead(EVENT)) == 1


async def test_batches() -> None:
    ductape = await client()
    sizes: list[int] = []

    @ductape.event.subscribe(EVENT, group="billing", concurrency=1, batch=10, batch_wait=0.5)
    async def bill(orders: list[Order]) -> None:
        sizes.append(len(orders))

    async with bench(ductape) as b:
        b.fail(bill, ValueError, when=lambda events: len(events) == 4)
        for n in range(4):
            await ductape.event.publish(EVENT, {"orderId": str(n)})
        await b.settled()
        assert sum(sizes) == 4
        assert [call.outcome for call in b.handled(bill)] == ["failed"] * 4 + ["done"] * 4


async def test_a_hung_handler_ends_by_its_timeout_when_time_is_moved() -> None:
    ductape = await client()

    @ductape.event.subscribe(EVENT, group="billing", timeout=5, retry=Retry(attempts=1))
    async def bill(order: Order) -> None:
        await asyncio.Event().wait()

    async with bench(ductape) as b:
        await ductape.event.publish(EVENT, {"orderId": "1"})
        with pytest.raises(AssertionError) as failed:
            await b.settled(patience=0.05)
        assert "handlers still run" in str(failed.value)
        assert f"{EVENT} in group 'billing': 1 running" in str(failed.value)
        assert "bench.advance(" in str(failed.value)
        await b.advance(7)
        await b.settled()
        [letter] = b.dead(EVENT)
        assert letter.error.startswith("HandlerTimeout")


async def test_what_is_not_settled_in_time_is_named() -> None:
    app = await shop()
    async with bench(app.ductape) as b:
        b.fail(app.bill, ValueError, times=None)
        await app.ductape.event.publish(EVENT, {"orderId": "1"})
        with pytest.raises(AssertionError) as failed:
            await b.settled(within=2)
        text = str(failed.value)
        assert text.startswith("not settled: 2 s of virtual time are not enough (virtual time: ")
        assert "order-events.new-orders: 1 messages that group 'billing' has not settled" in text


async def test_a_handler_that_feeds_itself_is_found_out() -> None:
    ductape = await client()

    @ductape.event.subscribe(EVENT, group="billing")
    async def bill(order: Order) -> None:
        await ductape.event.publish(EVENT, order)

    async with bench(ductape) as b:
        await ductape.event.publish(EVENT, {"orderId": "1"})
        with pytest.raises(AssertionError, match="of real time"):
            await b.settled(patience=0.2)


async def test_what_a_paused_subscription_holds_is_not_waited_for() -> None:
    ductape = await client()
    seen: list[str] = []

    async def bill(order: Order) -> None:
        seen.append(order.order_id)

    async with bench(ductape) as b:
        subscription = await ductape.event.subscribe(EVENT, callback=bill, group="billing")
        subscription.pause()
        await ductape.event.publish(EVENT, {"orderId": "1"})
        await b.settled()
        assert seen == []
        subscription.resume()
        await b.settled()
        assert seen == ["1"]


async def test_a_failing_broker_lets_time_run_for_whoever_waits_for_it() -> None:
    app = await shop()
    async with bench(app.ductape) as b:
        faults = b.broker("order-events").faults
        faults.fail("send", Fault.TRANSIENT, times=3)
        await app.ductape.event.publish(EVENT, {"orderId": "1"})
        await b.settled()
        faults.restart(away=5)
        await app.ductape.event.publish(EVENT, {"orderId": "2"})
        await b.settled()
        assert 5 < b.elapsed < 25
        assert sorted(id for id, _ in app.seen) == ["1", "2"]
        assert [sent.message["orderId"] for sent in b.published(EVENT)] == ["1", "2"]


async def test_a_dead_letter_is_replayed() -> None:
    app = await shop()
    async with bench(app.ductape) as b:
        b.fail(app.bill, Reject("closed"))
        await app.ductape.event.publish(EVENT, {"orderId": "1"})
        await b.settled()
        assert len(b.dead(EVENT)) == 1
        async for letter in app.ductape.event.dead(EVENT, group="billing"):
            await letter.replay()
        await b.settled()
        assert b.dead(EVENT) == []
        assert app.seen == [("1", 1)]


async def test_the_application_may_open_and_close_its_client_itself() -> None:
    app = await shop()
    async with bench(app.ductape) as b:
        for number in range(2):
            async with app.ductape:
                b.fail(app.bill, ValueError)
                for _ in range(3):
                    await app.ductape.event.publish(EVENT, {"orderId": str(number)})
        await app.ductape.open()
        await b.settled()
        assert len([call for call in b.handled(EVENT) if call.outcome == "done"]) == 6


async def test_a_stream_is_read_and_time_is_advanced() -> None:
    ductape = await client()
    async with bench(ductape) as b, ductape.event.stream(EVENT, group="reader") as events:
        await ductape.event.publish(EVENT, {"orderId": "1"})
        attempts = []
        async for event in events:
            attempts.append(event.attempt)
            if event.attempt == 2:
                event.ack()
                break
            event.retry(30)
            await b.advance(31)
        await b.settled()
        assert attempts == [1, 2]


async def test_another_environment_has_a_broker_of_its_own() -> None:
    app = await shop()
    async with bench(app.ductape) as b:
        await app.ductape.event.publish(EVENT, {"orderId": "1"}, env="stg")
        await b.settled()
        assert app.seen == []
        assert b.broker("order-events", env="stg") is not b.broker("order-events")


async def test_foreign_messages() -> None:
    app = await shop()
    async with bench(app.ductape) as b:
        b.broker("order-events").put("order-events.new-orders", b"not json")
        await b.settled()
        [letter] = b.dead(EVENT)
        assert (letter.reason, letter.message) == ("unreadable", b"not json")


async def crowd(b: Bench, app: SimpleNamespace, number: int) -> None:
    await asyncio.gather(*(app.ductape.event.publish(EVENT, {"orderId": str(n)}) for n in range(number)))
    await b.settled()


@pytest.mark.parametrize("imitate", [None, "log", "stream"])
async def test_many_messages_and_failures(imitate: str | None) -> None:
    app = await shop()
    async with bench(app.ductape, imitate=imitate) as b:
        b.fail(app.bill, ValueError, times=150)
        await crowd(b, app, 500)
        assert len({id for id, _ in app.seen}) == 500 - len(b.dead(EVENT))
        assert len(b.published(EVENT)) == 500


async def test_callbacks_are_watched_too() -> None:
    ductape = await client()

    async def bill(order: Order) -> None: ...

    async with bench(ductape) as b:
        await ductape.event.subscribe({"event": EVENT, "callback": bill, "group": "billing"})
        b.fail(bill, ValueError)
        await ductape.event.publish(EVENT, {"orderId": "1"})
        await b.settled()
        assert [call.outcome for call in b.handled(bill)] == ["failed", "done"]
