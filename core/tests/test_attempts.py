"""Which attempt it is, who keeps a retry, and what waits behind it: rules 9, 10, 12 and 16."""

from __future__ import annotations

import math

import pytest

from core.tests.fake import Fake
from core.tests.kit import EVENT, opened
from ductape import Reject, Retry, RetryLater
from ductape.adapter import Capabilities, Count, Order, Purpose, Verdict
from ductape_memory import LOG, QUEUE

ACK, RETRY, RELEASE = Verdict.ACK, Verdict.RETRY, Verdict.RELEASE
EXACT = Capabilities(count=Count.EXACT, retry_delay=1000.0)
APPROXIMATE = Capabilities(count=Count.APPROXIMATE, retry_delay=1000.0)
COUNTLESS = Capabilities(count=Count.NONE)


# ---- rule 9: attempts


async def test_where_counts_are_exact_the_attempt_is_what_was_carried_and_counted() -> None:
    async with opened(fake := Fake(EXACT)) as shop:
        log = shop.log()
        await shop.subscribe(log)
        fake.feed(b"1", count=3)
        fake.feed(b"2", count=2, headers={"ductape-attempt": "2", "ductape-event": EVENT})
        await shop.until(lambda: len(fake.settlements) == 2)
        assert log.attempts == [3, 4]


async def test_an_exact_count_buries_after_a_failure_and_never_before() -> None:
    async with opened(fake := Fake(EXACT)) as shop:
        log = shop.log(lambda event: ValueError() if event.message == 1 else None)
        await shop.subscribe(log, retry=Retry(attempts=3))
        fake.feed(b"1", b"2", count=6)
        await shop.until(lambda: len(fake.settlements) == 2)
        assert sorted(log.messages) == [1, 2]
        assert [record.body for record in fake.stored] == [b"1"]


@pytest.mark.parametrize("handed_back", [1, 4, 6])
async def test_hand_backs_do_not_bury_early_where_they_raise_the_count(handed_back: int) -> None:
    async with opened(fake := Fake(APPROXIMATE)) as shop:
        log = shop.log(lambda event: ValueError())
        await shop.subscribe(log, retry=Retry(attempts=5))
        fake.feed(b"1", count=1 + handed_back)
        await shop.until(lambda: fake.settlements)
        assert fake.stored == []
        assert fake.settlements[0][1] is RETRY


async def test_an_approximate_count_buries_what_failed_twice_here() -> None:
    async with opened(fake := Fake(APPROXIMATE)) as shop:
        log = shop.log(lambda event: ValueError())
        await shop.subscribe(log, retry=Retry(attempts=5))
        fake.feed(b"1", count=5)
        await shop.until(lambda: len(fake.settlements) == 1)
        fake.feed(b"1", count=6)
        await shop.until(lambda: len(fake.settlements) == 2)
        assert len(log.calls) == 2
        assert [record.headers["ductape-dead-reason"] for record in fake.stored] == ["exhausted"]


async def test_without_a_delay_of_the_broker_its_count_feeds_the_crash_guard_alone() -> None:
    can = Capabilities(count=Count.APPROXIMATE)
    async with opened(fake := Fake(can)) as shop:
        log = shop.log(lambda event: None)
        await shop.subscribe(log, retry=Retry(attempts=3))
        fake.feed(b"1", count=8)
        fake.feed(b"2", count=2, failed=1)
        fake.feed(b"3", count=9)
        await shop.until(lambda: len(fake.settlements) == 3)
        assert dict(zip(log.messages, log.attempts, strict=True)) == {1: 1, 2: 2}
        assert [(record.body, record.headers["ductape-dead-reason"]) for record in fake.stored] == [
            (b"3", "crash-loop")
        ]


@pytest.mark.parametrize("can", [EXACT, APPROXIMATE], ids=["exact", "approximate"])
async def test_what_takes_its_consumers_down_is_buried_as_a_crash_loop_beyond_five_more(can: Capabilities) -> None:
    async with opened(fake := Fake(can)) as shop:
        log = shop.log()
        await shop.subscribe(log, retry=Retry(attempts=5))
        fake.feed(b"1", count=10)
        fake.feed(b"2", count=11)
        await shop.until(lambda: len(fake.settlements) == 2)
        assert log.messages == [1]
        assert [record.headers["ductape-dead-reason"] for record in fake.stored] == ["crash-loop"]


async def test_without_a_count_the_attempt_is_what_is_known_to_have_failed() -> None:
    async with opened(fake := Fake(COUNTLESS)) as shop:
        log = shop.log()
        await shop.subscribe(log)
        fake.feed(b"1", failed=2, headers={"ductape-attempt": "1", "ductape-event": EVENT})
        await shop.until(lambda: fake.settlements)
        assert log.attempts == [4]


async def test_without_a_count_a_broker_s_own_delay_is_not_used() -> None:
    async with opened(fake := Fake(Capabilities(retry_delay=1000.0))) as shop:
        log = shop.log(lambda event: ValueError() if event.attempt == 1 else None)
        await shop.subscribe(log)
        fake.feed(b"1")
        await shop.until(lambda: fake.settlements)
        assert (log.attempts, fake.settlements) == ([1, 2], [("1", ACK, 0.0)])


# ---- rule 10: copies


async def test_copies_have_dedup_ids_of_their_own_and_publishes_have_their_id() -> None:
    async with opened(fake := Fake(COUNTLESS)) as shop:
        fake.purposes[Purpose.RETRY] = Capabilities(send_delay=math.inf)
        await shop.publish(0, id="m")
        log = shop.log(lambda event: RetryLater(500))
        await shop.subscribe(log, retry=Retry(attempts=3))
        for attempt in range(3):
            fake.feed(b"1", headers={"ductape-id": "m", "ductape-attempt": str(attempt), "ductape-event": EVENT})
            await shop.until(lambda: len(fake.settlements) == attempt + 1)  # noqa: B023
        records = fake.stored
        assert [record.id for record in records] == ["m"] * 4
        assert len({record.dedup for record in records}) == 4
        assert records[0].dedup == "m"
        assert [record.dedup.rpartition("~")[0] for record in records[1:]] == ["m~1", "m~2", "m~3"]


async def test_a_copy_that_is_sent_again_keeps_its_dedup_id() -> None:
    from core.tests.fake import answered
    from ductape.adapter import Fault

    async with opened(fake := Fake(EXACT)) as shop:
        fake.script("send to dead", answered(Fault.AMBIGUOUS), answered(Fault.AMBIGUOUS))
        await shop.subscribe(shop.log(lambda event: Reject()))
        fake.feed(b"1")
        await shop.until(lambda: fake.settlements)
        assert len({record.dedup for records in fake.sent for record in records}) == 1
        assert len(fake.sent) == 3


async def test_a_copy_replaces_what_earlier_moves_added() -> None:
    earlier = {
        "ductape-event": EVENT,
        "ductape-id": "m",
        "ductape-attempt": "4",
        "ductape-not-before": "1.5",
        "ductape-dead-reason": "old",
        "ductape-dead-unknown": "old",
        "traceparent": "00-1",
        "x": "y",
    }
    async with opened(fake := Fake(COUNTLESS)) as shop:
        await shop.subscribe(shop.log(lambda event: ValueError()))
        fake.feed(b"1", headers=earlier)
        await shop.until(lambda: fake.settlements)
        [record] = fake.stored
        assert record.headers["ductape-dead-reason"] == "exhausted"
        assert record.headers["ductape-dead-attempts"] == "5"
        assert "ductape-dead-unknown" not in record.headers
        kept = {name: value for name, value in record.headers.items() if not name.startswith("ductape-dead")}
        assert kept == {"ductape-event": EVENT, "ductape-id": "m", "traceparent": "00-1", "x": "y"}


async def test_an_error_s_text_is_cut_to_what_a_header_holds() -> None:
    async with opened(fake := Fake(Capabilities(max_header=100))) as shop:
        await shop.subscribe(shop.log(lambda event: ValueError("ü\n" * 5000)), retry=Retry(attempts=1))
        fake.feed(b"1")
        await shop.until(lambda: fake.settlements)
        text = fake.stored[0].headers["ductape-dead-error"]
        assert len(text.encode()) <= 100
        assert "\n" not in text


# ---- who keeps a retry: design 5


async def test_a_delay_within_the_broker_s_reach_is_the_broker_s() -> None:
    async with opened(fake := Fake(EXACT)) as shop:
        await shop.subscribe(shop.log(lambda event: ValueError()), retry=Retry(delay=10))
        fake.feed(b"1")
        await shop.until(lambda: fake.settlements)
        [(_, verdict, delay)] = fake.settlements
        assert verdict is RETRY
        assert 10 <= delay <= 12


async def test_a_delay_below_the_broker_s_step_is_parked() -> None:
    can = Capabilities(count=Count.APPROXIMATE, retry_delay=1000.0, retry_step=1.0)
    async with opened(fake := Fake(can)) as shop:
        log = shop.log(lambda event: ValueError() if event.attempt == 1 else None)
        await shop.subscribe(log, retry=Retry(delay=0.3))
        fake.feed(b"1")
        await shop.until(lambda: fake.settlements)
        assert fake.settlements == [("1", ACK, 0.0)]
        assert 0.3 <= log.gaps[0] <= 0.36


async def test_a_failure_that_was_parked_counts_when_the_broker_delivers_again() -> None:
    can = Capabilities(count=Count.APPROXIMATE, retry_delay=1000.0, retry_step=1.0)
    async with opened(fake := Fake(can)) as shop:
        log = shop.log(lambda event: RetryLater(0.3 if event.attempt == 1 else 5.0))
        await shop.subscribe(log)
        fake.feed(b"1")
        await shop.until(lambda: fake.settlements)
        fake.feed(b"1", count=2)
        await shop.until(lambda: len(fake.settlements) == 2)
        assert log.attempts == [1, 2, 3]


@pytest.mark.parametrize(("can", "hold"), [(COUNTLESS, 30), (Capabilities(watermark=True), 5)], ids=["any", "log"])
async def test_a_short_delay_is_parked_and_a_long_one_moves_to_the_way_back(can: Capabilities, hold: int) -> None:
    async with opened(fake := Fake(can)) as shop:
        fake.purposes[Purpose.RETRY] = Capabilities(send_delay=100.0)
        log = shop.log(lambda event: RetryLater(hold - 1 if event.attempt == 1 else hold + 1))
        await shop.subscribe(log)
        fake.feed(b"1")
        await shop.until(lambda: fake.settlements)
        assert log.attempts == [1, 2]
        assert same_gap(log.gaps[0], hold - 1)
        [copy] = fake.stored
        assert copy.headers["ductape-attempt"] == "2"
        assert copy.delay == hold + 1
        assert fake.settlements == [("1", ACK, 0.0)]


def same_gap(gap: float, wanted: float) -> bool:
    return wanted <= gap < wanted + 0.01


async def test_the_way_back_delays_as_far_as_it_can_itself_and_the_receiver_keeps_the_rest() -> None:
    async with opened(fake := Fake(COUNTLESS)) as shop:
        fake.purposes[Purpose.RETRY] = Capabilities(send_delay=15.0)
        log = shop.log(lambda event: RetryLater(40) if event.attempt == 1 else None)
        await shop.subscribe(log)
        fake.feed(b"1")
        await shop.until(lambda: fake.stored)
        [copy] = fake.stored
        assert copy.delay == 15.0
        await shop.advance(15)
        fake.feed(b"1", purpose=Purpose.RETRY, headers=dict(copy.headers))
        await shop.until(lambda: len(fake.settlements) == 2)
        assert log.attempts == [1, 2]
        assert 40 <= log.gaps[0] < 40.1


async def test_what_is_due_far_away_goes_back_to_a_broker_that_keeps_it_and_holds_no_place() -> None:
    async with opened(fake := Fake(COUNTLESS)) as shop:
        fake.purposes[Purpose.RETRY] = Capabilities(count=Count.APPROXIMATE, send_delay=900.0, retry_delay=2000.0)
        log = shop.log()
        await shop.subscribe(log)
        due = shop.clock.time() + 3000
        headers = {"ductape-event": EVENT, "ductape-attempt": "1", "ductape-not-before": str(due)}
        fake.feed(b"1", purpose=Purpose.RETRY, headers=headers, count=1)
        await shop.advance(1)
        assert log.calls == []
        assert fake.settlements == [("1", RETRY, 2000.0)]
        await shop.advance(1999)
        fake.feed(b"1", purpose=Purpose.RETRY, headers=headers, count=2)
        await shop.advance(1)
        assert [delay for _, _, delay in fake.settlements] == [2000.0, pytest.approx(1000, abs=2)]


async def test_far_due_messages_do_not_use_up_the_attempts_of_an_exact_count() -> None:
    async with opened(fake := Fake(COUNTLESS)) as shop:
        fake.purposes[Purpose.RETRY] = Capabilities(count=Count.EXACT, send_delay=100.0, retry_delay=100.0)
        log = shop.log()
        await shop.subscribe(log)
        due = shop.clock.time() + 350
        headers = {"ductape-event": EVENT, "ductape-attempt": "1", "ductape-not-before": str(due)}
        fake.feed(b"1", purpose=Purpose.RETRY, headers=headers, count=1)
        for _ in range(8):
            done = len(fake.settlements)
            await shop.advance(100.1)
            if log.calls:
                break
            if len(fake.settlements) > done and fake.settlements[-1][1] is RETRY:
                fake.feed(b"1", purpose=Purpose.RETRY, headers=headers, count=done + 2)
        await shop.until(lambda: log.calls)
        assert log.attempts == [2]
        assert 350 <= log.times[0] - 1000 < 470


# ---- order and blocked lanes: rule 12


@pytest.mark.parametrize("can", [QUEUE, LOG], ids=["queue", "log"])
async def test_a_failing_head_holds_its_key_and_nothing_overtakes_it_while_others_go_on(can: Capabilities) -> None:
    async with opened(can, topics={"new": {"order": "key"}}) as shop:
        log = shop.log(lambda event: ValueError() if event.message == ["a", 0] and event.attempt < 4 else None)
        await shop.subscribe(log, retry=Retry(delay=3))
        for n in range(4):
            for key in "abc":
                await shop.publish([key, n], key=key)
        await shop.settled()
        for key in "abc":
            done = [n for name, n in log.messages if name == key]
            assert done == ([0, 0, 0, 0, 1, 2, 3] if key == "a" else [0, 1, 2, 3])


async def test_total_order_holds_everything_behind_a_failing_head() -> None:
    async with opened(QUEUE, topics={"new": {"order": "total"}}) as shop:
        log = shop.log(lambda event: ValueError() if event.message == 1 and event.attempt < 3 else None)
        await shop.subscribe(log)
        for n in range(4):
            await shop.publish(n, key=str(n))
        await shop.settled()
        assert log.messages == [0, 1, 1, 1, 2, 3]


async def test_a_buried_head_lets_the_next_of_its_key_go_on_after_it_is_stored() -> None:
    async with opened(QUEUE, topics={"new": {"order": "key"}}) as shop:
        log = shop.log(lambda event: ValueError() if event.message == 0 else None)
        await shop.subscribe(log, retry=Retry(attempts=2))
        for n in range(3):
            await shop.publish(n, key="a")
        await shop.settled()
        assert log.messages == [0, 0, 1, 2]
        assert [letter.message for letter in await shop.dead()] == [0]


async def test_a_blocked_lane_keeps_an_eighth_of_the_window_where_the_broker_locks_its_keys() -> None:
    can = Capabilities(count=Count.EXACT, order=Order.KEY, order_locks=True, retry_joins=True)
    async with opened(fake := Fake(can), topics={"new": {"order": "key"}}) as shop:
        log = shop.log(lambda event: ValueError() if event.message == 0 else None)
        await shop.subscribe(log, prefetch=32, retry=Retry(delay=20))
        fake.feed(*(str(n).encode() for n in range(32)), key="a")
        await shop.advance(1)
        assert log.messages == [0]
        assert sorted(int(body) for body, verdict, _ in fake.settlements if verdict is RELEASE) == list(range(5, 32))
        fake.feed(*(str(n).encode() for n in range(100, 120)), key="b")
        await shop.advance(1)
        assert len(log.calls) == 21


async def test_a_parked_retry_frees_its_handler_and_keeps_its_place() -> None:
    async with opened(fake := Fake(COUNTLESS)) as shop:
        log = shop.log(lambda event: ValueError() if event.message == 0 else None)
        subscription = await shop.subscribe(log, concurrency=1, prefetch=4, retry=Retry(delay=10))
        fake.feed(b"0", b"1", b"2")
        await shop.advance(1)
        assert log.messages == [0, 1, 2]
        assert subscription.stats()["parked"] == 1
        health = await shop.run(shop.client.health())
        assert (health.subscriptions[0].in_hand, health.subscriptions[0].parked) == (1, 1)
