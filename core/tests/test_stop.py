"""The ordered end, and what a rebalance takes: rules 5 to 8 of the trials."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.tests.fake import Fake, FakeReceiver, OneChannel, failing, never
from core.tests.kit import opened, quiet
from ductape import Retry
from ductape.adapter import Capabilities, Count, Fault, Order, Purpose, Verdict
from ductape_memory import LOG

ACK, RETRY, RELEASE = Verdict.ACK, Verdict.RETRY, Verdict.RELEASE
DELAYS = Capabilities(count=Count.EXACT, retry_delay=1000.0)
PARKS = Capabilities(count=Count.EXACT)
ORDERED = Capabilities(count=Count.EXACT, order=Order.KEY)


def bodies(number: int) -> list[bytes]:
    return [str(n).encode() for n in range(number)]


async def test_at_stop_only_the_running_handlers_run_and_the_rest_goes_back_first() -> None:
    async with opened(fake := Fake(DELAYS)) as shop:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        log = shop.log(lambda event: release)
        await shop.subscribe(log, concurrency=4)
        fake.feed(*bodies(20))
        await shop.until(lambda: len(fake.receiver.delivered) == 20)
        await quiet()
        closing = asyncio.ensure_future(shop.client.close())
        await quiet()
        assert "stop" in fake.names()
        fake.feed(b"99")
        release.set_result(None)
        await shop.run(closing)
        assert log.messages == [0, 1, 2, 3]
        released = [body for body, verdict, _ in fake.settlements if verdict is RELEASE]
        acked = [body for body, verdict, _ in fake.settlements if verdict is ACK]
        assert sorted(map(int, released)) == list(range(4, 20))
        assert sorted(acked) == ["0", "1", "2", "3"]


async def test_what_receive_still_returns_after_stop_is_given_back_unhandled() -> None:
    async def last_words(receiver: FakeReceiver, limit: int, wait: float) -> Any:
        if not receiver.stopped:
            return await receiver.take(limit, wait)
        fake.always.pop("receive")
        return [receiver.deliver(body=b"7", headers={"ductape-event": "orders:new"})]

    async with opened(fake := Fake(DELAYS)) as shop:
        log = shop.log()
        await shop.subscribe(log)
        fake.always["receive"] = last_words
        fake.receiver.ring()
        await quiet()
        await shop.close()
        assert log.calls == []
        assert fake.settlements == [("7", RELEASE, 0.0)]


async def test_a_receiver_that_goes_on_delivering_after_stop_is_closed_within_a_bound() -> None:
    async def endless(receiver: FakeReceiver, limit: int, wait: float) -> Any:
        await shop.clock.sleep(0.5 if receiver.stopped else wait)
        return [receiver.deliver(body=b"7", headers={"ductape-event": "orders:new"})]

    async with opened(fake := Fake(DELAYS)) as shop:
        await shop.subscribe(shop.log())
        fake.always["receive"] = endless
        began = shop.clock.now()
        await shop.close()
        assert shop.clock.now() - began < 30
        assert fake.receiver.closed


async def test_a_receive_that_hangs_at_stop_is_abandoned_and_not_called_beside_itself() -> None:
    calls = 0

    async def hangs(receiver: FakeReceiver, limit: int, wait: float) -> Any:
        nonlocal calls
        calls += 1
        return await never()

    async with opened(fake := Fake(DELAYS)) as shop:
        fake.always["receive"] = hangs
        await shop.subscribe(shop.log())
        await quiet()
        began = shop.clock.now()
        await shop.close()
        assert shop.clock.now() - began <= 15
        assert fake.receiver.closed
        assert calls == 1


async def test_a_stop_and_a_close_that_hang_are_abandoned() -> None:
    async with opened(fake := Fake(DELAYS)) as shop:
        await shop.subscribe(shop.log())
        fake.always |= {"stop": never, "close": never}
        began = shop.clock.now()
        await shop.close()
        assert shop.clock.now() - began <= 16


async def test_a_parked_retry_goes_back_with_its_remaining_delay() -> None:
    can = Capabilities(count=Count.EXACT, retry_delay=1000.0, retry_step=60.0)
    async with opened(fake := Fake(can)) as shop:
        await shop.subscribe(shop.log(lambda event: ValueError()), retry=Retry(delay=20))
        fake.feed(b"1")
        await shop.advance(5)
        await shop.close()
        [(body, verdict, delay)] = fake.settlements
        assert (body, verdict) == ("1", RETRY)
        assert delay == 60.0, "as the broker's step allows, never early"


async def test_a_parked_retry_that_the_broker_cannot_keep_goes_to_the_way_back_with_its_remaining_delay() -> None:
    async with opened(fake := Fake(PARKS)) as shop:
        fake.purposes[Purpose.RETRY] = Capabilities(count=Count.EXACT, send_delay=3600.0)
        log = shop.log(lambda event: ValueError())
        await shop.subscribe(log, retry=Retry(delay=20))
        fake.feed(b"1")
        await shop.advance(5)
        due = shop.clock.time() - 5 + 20
        await shop.close()
        [copy] = [record for record in fake.stored if record.origin is not None]
        assert copy.headers["ductape-attempt"] == "1"
        assert due <= float(copy.headers["ductape-not-before"]) <= due + 4.1
        assert 15 <= copy.delay <= 19.1
        assert fake.settlements == [("1", ACK, 0.0)]


async def test_a_lane_goes_back_in_order_after_its_head_is_settled() -> None:
    async with opened(fake := Fake(ORDERED), topics={"new": {"order": "key"}}) as shop:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        log = shop.log(lambda event: release)
        await shop.subscribe(log)
        fake.feed(*bodies(5), key="a")
        await shop.until(lambda: log.calls)
        await quiet()
        closing = asyncio.ensure_future(shop.client.close())
        await quiet()
        assert fake.settlements == []
        release.set_result(None)
        await shop.run(closing)
        assert log.messages == [0]
        assert fake.settlements == [
            ("0", ACK, 0.0),
            *((str(n), RELEASE, 0.0) for n in range(1, 5)),
        ]
        assert [shown for name, shown in fake.journal if name == "settle"][0] == [("0", ACK, 0.0)]  # noqa: RUF015


async def test_a_parked_head_goes_back_before_what_waits_behind_it_also_where_the_broker_keeps_delays() -> None:
    can = Capabilities(order=Order.KEY, count=Count.EXACT, retry_delay=100.0, lease=30.0, lease_total=1000.0)
    async with opened(fake := Fake(can), topics={"new": {"order": "key"}}) as shop:
        await shop.subscribe(shop.log(lambda event: ValueError("x")), retry=Retry(delay=20.0))
        fake.feed(b"1", b"2", key="k")
        await shop.advance(1)
        await shop.close()
        assert fake.settlements == [("1", RELEASE, 0.0), ("2", RELEASE, 0.0)]


async def test_handlers_get_the_grace_time_and_are_then_ended_and_handed_back() -> None:
    async with opened(fake := Fake(DELAYS), grace=7) as shop:
        log = shop.log(lambda event: shop.clock.sleep(5 if event.message == 1 else 100))
        await shop.subscribe(log)
        fake.feed(b"1", b"2")
        await shop.until(lambda: len(log.calls) == 2)
        began = shop.clock.now()
        await shop.close()
        assert 7 <= shop.clock.now() - began < 9
        assert sorted(fake.settlements) == [("1", ACK, 0.0), ("2", RELEASE, 0.0)]


async def test_stop_is_bounded_while_the_broker_is_away_and_gives_settling_up_after_five_seconds() -> None:
    async with opened(fake := Fake(DELAYS)) as shop:
        log = shop.log()
        fake.always["settle"] = failing(Fault.TRANSIENT)
        await shop.subscribe(log)
        fake.feed(*bodies(100))
        await shop.until(lambda: len(log.calls) >= 50)
        calls = fake.names("settle").count("settle")
        began = shop.clock.now()
        await shop.close()
        assert shop.clock.now() - began <= 6
        assert fake.names("settle").count("settle") - calls < 25, "it backs off"


async def test_settlements_do_not_linger_at_stop() -> None:
    async with opened(fake := Fake(DELAYS)) as shop:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await shop.subscribe(shop.log(lambda event: release), concurrency=3)
        fake.feed(*bodies(3))
        await shop.advance(0)
        closing = asyncio.ensure_future(shop.client.close())
        await quiet()
        release.set_result(None)
        began = shop.clock.now()
        await shop.run(closing)
        assert shop.clock.now() - began < 0.001
        assert len(fake.settlements) == 3


# ---- rule 6: moves


async def test_a_move_counts_as_running_and_is_neither_doubled_nor_released_at_stop() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(sender: Any, records: Any) -> Any:
        await gate
        return await sender.store(records)

    async with opened(fake := Fake(DELAYS)) as shop:
        fake.always["send to dead"] = slow
        await shop.subscribe(shop.log(lambda event: ValueError()), retry=Retry(attempts=1))
        fake.feed(b"1")
        await shop.until(lambda: fake.sent)
        closing = asyncio.ensure_future(shop.client.close())
        await quiet()
        assert fake.settlements == []
        gate.set_result(None)
        await shop.run(closing)
        assert len(fake.stored) == 1
        assert fake.settlements == [("1", ACK, 0.0)]


async def test_a_move_that_does_not_finish_leaves_the_original_to_the_broker() -> None:
    async with opened(fake := Fake(DELAYS), grace=3) as shop:
        fake.always["send to dead"] = never
        await shop.subscribe(shop.log(lambda event: ValueError()), retry=Retry(attempts=1))
        fake.feed(b"1")
        await shop.until(lambda: fake.sent)
        await shop.close()
        assert fake.settlements == [("1", RELEASE, 0.0)]


async def test_a_dead_letter_is_stored_before_the_original_is_acked_and_health_tells_when_it_cannot_be() -> None:
    async with opened(fake := Fake(DELAYS)) as shop:
        fake.always["send to dead"] = failing(Fault.TRANSIENT)
        await shop.subscribe(shop.log(lambda event: ValueError()), retry=Retry(attempts=1))
        fake.feed(b"1")
        await shop.advance(100)
        assert fake.settlements == []
        health = await shop.run(shop.client.health())
        assert not health.healthy
        del fake.always["send to dead"]
        await shop.until(lambda: fake.settlements)
        assert [record.body for record in fake.stored] == [b"1"]
        await shop.advance(2)
        health = await shop.run(shop.client.health())
        assert health.healthy


async def test_closing_one_subscription_of_a_group_leaves_the_moves_of_the_others_alone() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(sender: Any, records: Any) -> Any:
        await gate
        return await sender.store(records)

    async with opened(fake := OneChannel(DELAYS), topics={"new": {}, "old": {}}, grace=2) as shop:
        fake.always["send to dead"] = slow
        await shop.subscribe(shop.log(lambda event: ValueError()), retry=Retry(attempts=1), group="all")
        other = await shop.subscribe(shop.log(), "orders:old", group="all")
        fake.feed(b"1")
        await shop.until(lambda: fake.sent)
        await shop.run(other.close())
        gate.set_result(None)
        await shop.until(lambda: fake.settlements)
        assert fake.settlements == [("1", ACK, 0.0)]


async def test_closing_one_subscription_of_a_group_hands_back_what_it_has_not_started() -> None:
    topics = {"new": {"order": "key"}, "old": {"order": "key"}}
    async with opened(fake := OneChannel(ORDERED), topics=topics, grace=2) as shop:
        log = shop.log(lambda event: shop.clock.sleep(1))
        closing = await shop.subscribe(log, group="all")
        await shop.subscribe(shop.log(), "orders:old", group="all")
        fake.feed(*bodies(4), key="a")
        await shop.until(lambda: log.calls)
        await shop.run(closing.close())
        await shop.advance(1)
        assert log.messages == [0]
        assert fake.settlements == [("0", ACK, 0.0), *((str(n), RELEASE, 0.0) for n in range(1, 4))]


# ---- rule 7: drain and end


async def test_drain_waits_for_what_runs_and_drops_at_once_what_is_queued_or_parked() -> None:
    async with opened(fake := Fake(PARKS)) as shop:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        log = shop.log(lambda event: ValueError() if event.message == 0 else release)
        await shop.subscribe(log, concurrency=2, retry=Retry(delay=20))
        fake.feed(*bodies(6))
        await shop.until(lambda: len(log.calls) == 3)
        epoch = fake.receiver.epoch
        draining = asyncio.ensure_future(epoch.drain(60))
        await quiet()
        assert epoch.held == 2
        assert not draining.done()
        release.set_result(None)
        assert await shop.run(draining) == 0
        assert shop.clock.now() - 1000 < 1
        assert sorted(body for body, _, _ in fake.settlements) == ["1", "2"]
        await shop.advance(60)
        assert sorted(log.messages) == [0, 1, 2]


async def test_drain_waits_for_a_move_and_gives_up_in_time() -> None:
    async with opened(fake := Fake(PARKS)) as shop:
        fake.always["send to dead"] = never
        await shop.subscribe(shop.log(lambda event: ValueError()), retry=Retry(attempts=1))
        fake.feed(b"1")
        await shop.until(lambda: fake.sent)
        began = shop.clock.now()
        assert await shop.run(fake.receiver.epoch.drain(4)) == 1
        assert shop.clock.now() - began < 4.1


async def test_an_ordered_parked_head_does_not_hold_a_drain() -> None:
    async with opened(fake := Fake(ORDERED), topics={"new": {"order": "key"}}) as shop:
        log = shop.log(lambda event: ValueError())
        await shop.subscribe(log, retry=Retry(delay=20))
        fake.feed(*bodies(4), key="a")
        await shop.until(lambda: log.calls)
        await quiet()
        assert await shop.run(fake.receiver.epoch.drain(60)) == 0
        assert shop.clock.now() == 1000
        await shop.advance(100)
        assert log.messages == [0]


async def test_what_finishes_after_its_epoch_ended_is_not_settled() -> None:
    async with opened(fake := Fake(PARKS)) as shop:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        log = shop.log(lambda event: release)
        await shop.subscribe(log)
        fake.feed(b"1")
        await shop.until(lambda: log.calls)
        epoch = fake.receiver.epoch
        epoch.end()
        release.set_result(None)
        await shop.advance(5)
        assert fake.settlements == []
        assert epoch.held == 0


@pytest.mark.parametrize("away", [0.0, 6.0])
async def test_a_client_that_closes_while_its_log_is_away_loses_nothing(away: float) -> None:
    async with opened(LOG) as shop:
        log = shop.log()
        for n in range(50):
            await shop.publish(n, key=str(n % 5))
        subscription = await shop.subscribe(log)
        await shop.until(lambda: len(log.calls) >= 20)
        shop.broker.faults.restart(away=away)
        await shop.run(subscription.close())
        await shop.subscribe(log)
        await shop.settled()
        assert set(log.messages) == set(range(50))
