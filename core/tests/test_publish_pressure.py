"""Many callers: coalescing, order, bounds, cancellation, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from core.tests.fake import Fake, FakeSender, answered, failing, never
from core.tests.kit import EVENT, opened, quiet
from ductape.adapter import Fault, Limits, Outgoing, Stored
from ductape.errors import ConfigError, ManyFailed, Overloaded, PayloadError, PublishError, StateError


def ids(fake: Fake) -> list[list[str]]:
    return [[record.id for record in records] for records in fake.sent]


async def test_a_thousand_concurrent_publishes_take_a_few_calls() -> None:
    async with opened(fake := Fake()) as shop:
        receipts = await shop.run(asyncio.gather(*(shop.event.publish(EVENT, n) for n in range(1000))))
        assert len({receipt.id for receipt in receipts}) == 1000
        assert len(fake.sent) <= 3


async def test_a_lone_publish_is_sent_at_once() -> None:
    async with opened() as shop:
        await shop.publish(0)
        began = shop.clock.now()
        await shop.publish(1)
        assert shop.clock.now() == began


async def test_batches_keep_to_the_records_and_bytes_of_a_call() -> None:
    async with opened(fake := Fake(limits=Limits(records=10, bytes=4000))) as shop:
        await shop.run(asyncio.gather(*(shop.event.publish(EVENT, b"x" * 20) for _ in range(40))))
        assert max(len(records) for records in fake.sent) == 10
        await shop.run(asyncio.gather(*(shop.event.publish(EVENT, b"x" * 1500) for _ in range(6))))
        assert [len(records) for records in fake.sent[-3:]] == [2, 2, 2]
        await shop.publish(b"x" * 9000)


async def test_a_message_above_the_bytes_of_a_call_still_goes_alone() -> None:
    async with opened(fake := Fake(limits=Limits(bytes=1000))) as shop:
        await shop.publish(b"x" * 5000)
        assert len(fake.stored) == 1


async def test_one_key_keeps_its_order_over_lanes_and_resends() -> None:
    turn = 0

    async def shaky(sender: FakeSender, records: Sequence[Outgoing]) -> Any:
        nonlocal turn
        turn += 1
        if turn % 3 == 1:
            raise failing(Fault.TRANSIENT)
        if turn % 3 == 2 and len(records) > 1:
            head = await sender.store(records[:1])
            return [*head, *[failing(Fault.TRANSIENT)] * (len(records) - 1)]
        return await sender.store(records)

    async with opened(fake := Fake(limits=Limits(records=7, calls=4))) as shop:
        fake.always["send"] = shaky
        await shop.run(asyncio.gather(*(shop.event.publish(EVENT, n, key=f"k{n % 5}", id=str(n)) for n in range(200))))
        for key in range(5):
            mine = [int(record.id) for record in fake.stored if record.key == f"k{key}"]
            assert mine == sorted(mine)
            assert len(mine) == 40


async def test_keyless_records_fill_one_batch_after_the_other() -> None:
    async with opened(fake := Fake(limits=Limits(records=10, calls=8))) as shop:
        await shop.publish(0)
        await shop.run(asyncio.gather(*(shop.event.publish(EVENT, n) for n in range(30))))
        assert [len(records) for records in fake.sent[1:]] == [10, 10, 10]


async def test_one_key_is_never_in_two_calls_at_a_time() -> None:
    out: list[str] = []

    async def slow(sender: FakeSender, records: Sequence[Outgoing]) -> Any:
        keys = {record.key or "" for record in records}
        assert not keys & set(out)
        out.extend(keys)
        await quiet(5)
        for key in keys:
            out.remove(key)
        return await sender.store(records)

    async with opened(fake := Fake(limits=Limits(records=3, calls=4))) as shop:
        fake.always["send"] = slow
        await shop.run(asyncio.gather(*(shop.event.publish(EVENT, n, key=f"k{n % 6}") for n in range(60))))
        assert len(fake.stored) == 60


# ---- pressure


async def test_publishing_waits_at_the_bound_and_goes_on() -> None:
    most = 0

    async def watched(sender: FakeSender, records: Sequence[Outgoing]) -> Any:
        nonlocal most
        most = max(most, int(shop.client.stats()["orders.new"]["pending"]))
        await quiet(3)
        return await sender.store(records)

    async with opened(fake := Fake(limits=Limits(records=10)), max_pending=20) as shop:
        fake.always["send"] = watched
        await shop.run(asyncio.gather(*(shop.event.publish(EVENT, n) for n in range(300))))
        assert len(fake.stored) == 300
        assert most <= 20


async def test_the_bound_holds_and_order_is_kept_while_new_callers_arrive_under_pressure() -> None:
    async with opened(fake := Fake(limits=Limits(records=4)), max_pending=4) as shop:
        most = 0
        tasks: list[asyncio.Future[Any]] = []

        async def watched(sender: FakeSender, records: Sequence[Outgoing]) -> Any:
            nonlocal most
            stored = await sender.store(records)
            if len(tasks) < 400:
                asyncio.get_running_loop().call_soon(arrive, 3)
                asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, arrive, 3)
            most = max(most, int(shop.client.stats()["orders.new"]["pending"]))
            return stored

        def arrive(number: int) -> None:
            for _ in range(number):
                tasks.append(asyncio.ensure_future(shop.event.publish(EVENT, 0, key="k", id=f"{len(tasks):04}")))

        fake.always["send"] = watched
        arrive(12)
        await shop.until(lambda: len(tasks) >= 400)
        await shop.run(asyncio.gather(*tasks))
        order = [record.id for record in fake.stored]
        assert order == sorted(order)
        assert most <= 4


async def test_a_caller_that_finds_no_room_in_time_is_told_that_it_is_too_much() -> None:
    async with opened(fake := Fake(limits=Limits(seconds=100)), max_pending=2) as shop:
        fake.script("send", never)
        waiting = [asyncio.ensure_future(shop.event.publish(EVENT, n)) for n in range(2)]
        await quiet()
        with pytest.raises(Overloaded, match="max_pending") as caught:
            await shop.publish(3, timeout=5)
        assert (caught.value.code, caught.value.stored) == ("OVERLOADED", "no")
        await shop.run(asyncio.gather(*waiting, return_exceptions=True))


async def test_bytes_are_bounded_too() -> None:
    async with opened(fake := Fake(limits=Limits(seconds=100)), max_pending_bytes=10_000) as shop:
        fake.script("send", never)
        waiting = asyncio.ensure_future(shop.event.publish(EVENT, b"x" * 12_000, timeout=9))
        await quiet()
        with pytest.raises(Overloaded):
            await shop.publish(1, timeout=5)
        with pytest.raises(PublishError):
            await shop.run(waiting)


async def test_large_messages_that_waited_together_do_not_enter_together() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(sender: FakeSender, records: Sequence[Outgoing]) -> Any:
        await gate
        return await sender.store(records)

    async with opened(fake := Fake(limits=Limits(records=100)), max_pending=100, max_pending_bytes=100_000) as shop:
        fake.script("send", slow)
        fake.always["send"] = never
        tasks = [asyncio.ensure_future(shop.event.publish(EVENT, "x", timeout=5)) for _ in range(100)]
        await quiet()
        tasks += [asyncio.ensure_future(shop.event.publish(EVENT, "x" * 50_000, timeout=5)) for _ in range(50)]
        await quiet()
        gate.set_result(None)
        await quiet()
        [outbox] = shop.client.engine.outboxes.values()
        assert outbox.pending_bytes < 200_000, "the bound, and one message above it"
        await shop.run(asyncio.gather(*tasks, return_exceptions=True))


async def test_a_cancelled_caller_that_waited_for_room_leaves_its_place_to_the_next() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(sender: FakeSender, records: Sequence[Outgoing]) -> Any:
        await gate
        return await sender.store(records)

    async with opened(fake := Fake(), max_pending=1) as shop:
        fake.script("send", slow)
        first, second, third = (asyncio.ensure_future(shop.event.publish(EVENT, n)) for n in range(3))
        await quiet()
        second.cancel()
        await quiet()
        gate.set_result(None)
        await shop.run(asyncio.gather(first, third))
        assert shop.clock.now() < 1001


async def test_a_bad_payload_that_waited_for_room_leaves_its_place_to_the_next() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(sender: FakeSender, records: Sequence[Outgoing]) -> Any:
        await gate
        return await sender.store(records)

    async with opened(fake := Fake(), max_pending=1) as shop:
        fake.script("send", slow)
        tasks = [asyncio.ensure_future(shop.event.publish(EVENT, payload)) for payload in (1, object(), 2)]
        await quiet()
        gate.set_result(None)
        answers = await shop.run(asyncio.gather(*tasks, return_exceptions=True))
        assert [type(answer).__name__ for answer in answers] == ["Receipt", "PayloadError", "Receipt"]
        assert shop.clock.now() < 1001


async def test_a_cancelled_publish_that_was_not_sent_is_not_sent() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(sender: FakeSender, records: Sequence[Outgoing]) -> Any:
        await gate
        return await sender.store(records)

    async with opened(fake := Fake()) as shop:
        fake.script("send", slow)
        first = asyncio.ensure_future(shop.event.publish(EVENT, 1, id="a"))
        await quiet()
        second = asyncio.ensure_future(shop.event.publish(EVENT, 2, id="b"))
        third = asyncio.ensure_future(shop.event.publish(EVENT, 3, id="c"))
        await quiet()
        second.cancel()
        gate.set_result(None)
        await shop.run(asyncio.gather(first, third))
        assert ids(fake) == [["a"], ["c"]]
        assert shop.client.stats()["orders.new"]["pending"] == 0


# ---- publish_many


async def test_publish_many_gives_a_receipt_for_each_in_order_with_few_calls() -> None:
    async with opened(fake := Fake()) as shop:
        receipts = await shop.run(shop.event.publish_many(EVENT, ({"n": n} for n in range(2500)), key=lambda m: "k"))
        assert [receipt.id for receipt in receipts] == [record.id for record in fake.stored]
        assert len(fake.sent) <= 6
        assert {record.key for record in fake.stored} == {"k"}


async def test_publish_many_tells_for_each_message_what_became_of_it() -> None:
    async def second_is_bad(sender: FakeSender, records: Sequence[Outgoing]) -> list[Any]:
        return [failing(Fault.MESSAGE) if record.body == b"2" else Stored() for record in records]

    async with opened(fake := Fake()) as shop:
        fake.always["send"] = second_is_bad
        with pytest.raises(ManyFailed) as caught:
            await shop.run(shop.event.publish_many(EVENT, [1, 2, object(), 3]))
        kinds = [type(result).__name__ for result in caught.value.results]
        assert kinds == ["Receipt", "PublishError", "PayloadError", "Receipt"]
        assert caught.value.stored == "no"


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "with middleware"])
async def test_publish_many_into_an_absent_broker_ends_within_one_deadline(wrapped: bool) -> None:
    class Through:
        def publisher(self, next: Any, site: Any) -> Any:
            async def send(message: Any) -> Any:
                return await next(message)

            return send

    async with opened(fake := Fake(), middleware=[Through()] if wrapped else []) as shop:
        fake.always["connect"] = failing(Fault.TRANSIENT)
        began = shop.clock.now()
        with pytest.raises(ManyFailed) as caught:
            await shop.run(shop.event.publish_many(EVENT, range(100), timeout=10))
        assert shop.clock.now() - began < 25
        assert len(caught.value.results) == 100
        assert caught.value.stored == "no"


async def test_publish_many_says_maybe_if_one_may_be_stored() -> None:
    async with opened(fake := Fake()) as shop:
        await shop.publish(0)
        fake.script("send", answered(Fault.AMBIGUOUS))
        fake.always["send"] = failing(Fault.TRANSIENT)
        with pytest.raises(ManyFailed) as caught:
            await shop.run(shop.event.publish_many(EVENT, [1, 2], timeout=5))
        assert caught.value.stored == "maybe"


async def test_a_cancelled_publish_many_leaves_nothing_behind() -> None:
    async with opened(fake := Fake(limits=Limits(seconds=100))) as shop:
        await shop.publish(0)
        fake.script("send", never)
        many = asyncio.ensure_future(shop.event.publish_many(EVENT, range(10), timeout=5))
        await quiet()
        many.cancel()
        await shop.advance(30)
        assert many.cancelled()


# ---- the end


async def test_close_stores_what_waits() -> None:
    async with opened(fake := Fake()) as shop:
        tasks = [asyncio.ensure_future(shop.event.publish(EVENT, n)) for n in range(50)]
        await quiet(4)
        await shop.close()
        await asyncio.gather(*tasks)
        assert len(fake.stored) == 50


async def test_close_fails_what_cannot_be_stored_within_the_grace_time() -> None:
    async with opened(fake := Fake(limits=Limits(seconds=100)), grace=3) as shop:
        await shop.publish(0)
        fake.always["send"] = never
        tasks = [asyncio.ensure_future(shop.event.publish(EVENT, n, key="k")) for n in range(3)]
        await quiet()
        began = shop.clock.now()
        await shop.close()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [(each.code, each.stored) for each in answers if isinstance(each, PublishError)] == [
            ("PUBLISH_FAILED", "maybe"),
            ("PUBLISH_FAILED", "maybe"),
            ("PUBLISH_FAILED", "maybe"),
        ]
        assert shop.clock.now() - began < 4


async def test_close_does_not_spin_over_messages_that_nobody_waits_for() -> None:
    async with opened(fake := Fake()) as shop:
        await shop.publish(0)
        fake.always["send"] = failing(Fault.TRANSIENT)
        task = asyncio.ensure_future(shop.event.publish(EVENT, 1))
        await shop.advance(3)
        task.cancel()
        await quiet()
        await asyncio.wait_for(shop.close(), 5)


async def test_close_wakes_callers_that_wait_for_room() -> None:
    async with opened(fake := Fake(limits=Limits(seconds=100)), max_pending=1, grace=2) as shop:
        fake.script("send", never)
        first, second = (asyncio.ensure_future(shop.event.publish(EVENT, n)) for n in range(2))
        await quiet()
        began = shop.clock.now()
        await shop.close()
        answers = await shop.run(asyncio.gather(first, second, return_exceptions=True))
        assert shop.clock.now() - began < 5
        assert [getattr(answer, "stored", answer) for answer in answers] == ["maybe", "no"]


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "with middleware"])
async def test_a_bound_publisher_says_closed_after_close(wrapped: bool) -> None:
    class Through:
        def publisher(self, next: Any, site: Any) -> Any:
            async def send(message: Any) -> Any:
                return await next(message)

            return send

    async with opened(middleware=[Through()] if wrapped else []) as shop:
        publisher = await shop.event.publisher(EVENT)
        await shop.run(publisher.publish(1))
        await shop.close()
        with pytest.raises(StateError) as caught:
            await shop.run(publisher.publish(2))
        assert caught.value.code == "CLOSED"
        with pytest.raises(StateError):
            await shop.publish(3)
        async with shop.client:
            await shop.publish(4)
            assert [entry.body for entry in shop.broker.messages("orders.new")] == [b"1", b"4"]
            await shop.close()


@pytest.mark.parametrize("options", [{"max_pending": 0}, {"max_pending": "many"}, {"max_pending_bytes": -1}])
def test_a_bound_that_nothing_fits_into_is_refused(options: dict[str, Any]) -> None:
    from ductape import Ductape

    with pytest.raises(ConfigError, match=next(iter(options))) as caught:
        Ductape(product="shop", env="dev", **options)
    assert caught.value.code == "OPTION_INVALID"


async def test_a_payload_error_does_not_disturb_the_others() -> None:
    async with opened() as shop:
        tasks = [shop.event.publish(EVENT, payload) for payload in (1, object(), 2)]
        answers = await shop.run(asyncio.gather(*tasks, return_exceptions=True))
        assert isinstance(answers[1], PayloadError)
        assert [entry.body for entry in shop.broker.messages("orders.new")] == [b"1", b"2"]
