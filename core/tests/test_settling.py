"""Settlements and leases: repeated while the epoch lives, bounded, coalesced; rules 17 and 20."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from core.tests.fake import Fake, FakeReceiver, OneChannel, answered, failing, never
from core.tests.kit import opened
from ductape.adapter import Capabilities, Count, Delivery, Fault, Verdict
from ductape.errors import AdapterError

ACK, RETRY, RELEASE = Verdict.ACK, Verdict.RETRY, Verdict.RELEASE
LEASED = Capabilities(count=Count.EXACT, lease=30.0, lease_total=3600.0, retry_delay=1000.0)


# ---- rule 17 and 20: settling


async def test_an_ack_is_tried_again_while_its_epoch_lives_also_past_the_lease() -> None:
    async with opened(fake := Fake(LEASED)) as shop:
        fake.script("settle", *[failing(Fault.TRANSIENT)] * 50)
        await shop.subscribe(shop.log())
        fake.feed(b"1")
        await shop.until(lambda: fake.settlements)
        assert shop.clock.now() - 1000 > 31
        assert fake.settlements == [("1", ACK, 0.0)]


async def test_failing_settlements_back_off() -> None:
    async with opened(fake := Fake(LEASED)) as shop:
        fake.always["settle"] = failing(Fault.TRANSIENT)
        await shop.subscribe(shop.log())
        fake.feed(b"1")
        await shop.advance(10)
        assert 10 < fake.names("settle").count("settle") < 20


async def test_leases_shorter_than_the_back_off_are_kept_meanwhile() -> None:
    async with opened(fake := Fake(msgspec.structs.replace(LEASED, lease=0.9))) as shop:
        fake.always["settle"] = failing(Fault.TRANSIENT)
        renewed: list[float] = []

        async def extend(receiver: FakeReceiver, deliveries: Sequence[Delivery]) -> list[AdapterError | None]:
            renewed.append(shop.clock.now())
            return await receiver.renew(deliveries)

        fake.always["extend"] = extend
        await shop.subscribe(shop.log())
        fake.feed(b"1")
        await shop.advance(20)
        assert max(after - before for before, after in itertools.pairwise(renewed)) < 0.9
        assert fake.names("settle").count("settle") < 40


async def test_an_ack_that_is_answered_lost_after_a_timeout_is_done() -> None:
    async with opened(fake := Fake(LEASED)) as shop:
        fake.script("settle", answered(Fault.AMBIGUOUS), answered(Fault.LOST))
        await shop.subscribe(shop.log())
        fake.feed(b"1")
        await shop.advance(5)
        assert fake.names("settle").count("settle") == 2
        [group] = shop.client.engine.groups.values()  # type: ignore[union-attr]
        assert not group.sources[0].held


async def test_a_settlement_answered_config_stops_receiving_until_it_is_mended() -> None:
    async with opened(fake := Fake(LEASED)) as shop:
        fake.always["settle"] = answered(Fault.CONFIG)
        log = shop.log()
        await shop.subscribe(log)
        fake.feed(b"1")
        await shop.advance(1)
        fake.feed(b"2")
        await shop.advance(12)
        taken = list(log.messages)
        fake.feed(b"3")
        await shop.advance(20)
        assert log.messages == taken, "nothing more is received"
        assert 3 not in log.messages
        health = await shop.run(shop.client.health())
        assert not health.healthy
        del fake.always["settle"]
        await shop.until(lambda: len(fake.settlements) == 3)
        assert log.messages == [1, 2, 3]


@pytest.mark.parametrize("answers", [[], [None, None, None]], ids=["none", "too many"])
async def test_a_wrong_number_of_settle_answers_ends_the_receiver_not_the_kernel(answers: list[None]) -> None:
    async with opened(fake := Fake(LEASED)) as shop:
        fake.script("settle", answers)
        await shop.subscribe(shop.log())
        first = fake.receiver
        fake.feed(b"1")
        await shop.until(lambda: first.closed)
        fake.feed(b"2")
        await shop.until(lambda: fake.settlements)
        assert fake.settlements == [("2", ACK, 0.0)]


@pytest.mark.parametrize("answers", [[], [None, None, None]], ids=["none", "too many"])
async def test_a_wrong_number_of_extend_answers_ends_the_receiver_not_the_kernel(answers: list[None]) -> None:
    async with opened(fake := Fake(LEASED)) as shop:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await shop.subscribe(shop.log(lambda event: release if event.message == 1 else None))
        fake.script("extend", answers)
        first = fake.receiver
        fake.feed(b"1")
        await shop.until(lambda: first.closed)
        release.set_result(None)
        fake.feed(b"2")
        await shop.until(lambda: fake.settlements)
        assert fake.settlements == [("2", ACK, 0.0)]


async def test_a_delivery_keeps_its_place_until_its_settlement_is_answered() -> None:
    async with opened(fake := Fake(LEASED)) as shop:
        fake.always["settle"] = never
        log = shop.log()
        await shop.subscribe(log, prefetch=8, concurrency=8)
        fake.feed(*(str(n).encode() for n in range(40)))
        await shop.advance(5)
        assert len(log.calls) == 7, "eight, and one of them for the way back"


async def test_what_is_being_settled_keeps_its_lease() -> None:
    async with opened(fake := Fake(LEASED)) as shop:
        fake.script("settle", *[failing(Fault.TRANSIENT)] * 40)
        await shop.subscribe(shop.log())
        fake.feed(b"1")
        await shop.advance(25)
        assert ("extend", [b"1"]) in fake.journal


async def test_a_settle_call_ends_within_a_third_of_the_lease() -> None:
    async with opened(fake := Fake(Capabilities(count=Count.EXACT, lease=9.0, lease_total=90.0))) as shop:
        fake.always["settle"] = never
        await shop.subscribe(shop.log())
        first = fake.receiver
        fake.feed(b"1")
        await shop.until(lambda: first.closed)
        assert shop.clock.now() - 1000 < 3.5


async def test_an_item_whose_lease_is_lost_is_dropped_if_it_has_not_started() -> None:
    async def second_is_lost(receiver: FakeReceiver, deliveries: Sequence[Any]) -> list[AdapterError | None]:
        return [failing(Fault.LOST) if each.body != b"1" else None for each in deliveries]

    async with opened(fake := Fake(LEASED)) as shop:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        log = shop.log(lambda event: release)
        await shop.subscribe(log, concurrency=1)
        fake.script("extend", second_is_lost)
        fake.feed(b"1", b"2", b"3")
        await shop.until(lambda: "extend" in fake.names())
        release.set_result(None)
        await shop.advance(2)
        assert log.messages == [1]
        assert fake.settlements == [("1", ACK, 0.0)]


async def test_settle_never_runs_beside_extend_or_itself() -> None:
    running = 0

    def alone(act: Any) -> Any:
        async def call(receiver: FakeReceiver, items: Sequence[Any]) -> Any:
            nonlocal running
            running += 1
            assert running == 1
            await shop.clock.sleep(1.5)
            running -= 1
            return await act(receiver, items)

        return call

    async with opened(fake := Fake(LEASED)) as shop:
        fake.always |= {"settle": alone(FakeReceiver.accept), "extend": alone(FakeReceiver.renew)}
        await shop.subscribe(shop.log(lambda event: shop.clock.sleep(float(event.message))), concurrency=64)
        fake.feed(*(str(n).encode() for n in range(60)))
        await shop.until(lambda: len(fake.settlements) == 60)
        assert "extend" in fake.names()


async def test_settlements_are_coalesced() -> None:
    async with opened(fake := Fake(LEASED)) as shop:
        await shop.subscribe(shop.log(), prefetch=1000, concurrency=50)
        fake.feed(*(str(n).encode() for n in range(1000)))
        await shop.until(lambda: len(fake.settlements) == 1000)
        assert fake.names("settle").count("settle") <= 30


async def test_settlements_linger_again_after_one_subscription_of_the_group_was_closed() -> None:
    async with opened(fake := OneChannel(), topics={"new": {}, "old": {}}) as shop:
        await shop.subscribe(shop.log(lambda event: shop.clock.sleep(0.0005 * event.message)), group="all")
        other = await shop.subscribe(shop.log(), "orders:old", group="all")
        await shop.run(other.close())
        fake.feed(*(str(n).encode() for n in range(8)))
        await shop.until(lambda: len(fake.settlements) == 8)
        assert fake.names("settle").count("settle") <= 2
