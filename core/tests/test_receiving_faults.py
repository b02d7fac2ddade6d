"""Receiving through a receiver that fails, lies, or hangs: nothing is lost, nothing waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.tests.fake import Fake, FakeConnection, FakeReceiver, answered, failing, never
from core.tests.kit import opened, quiet
from ductape import Retry
from ductape.adapter import Capabilities, Channel, Count, Fault, Intake, Purpose, Verdict
from ductape.errors import OpenError

ACK, RETRY, RELEASE = Verdict.ACK, Verdict.RETRY, Verdict.RELEASE
LEASED = Capabilities(count=Count.EXACT, lease=30.0, lease_total=3600.0, retry_delay=1000.0)


# ---- rule 1 and 19: declare, then capabilities, before every opening


async def test_channel_and_groups_are_declared_before_every_opening_and_reopening() -> None:
    async with opened(fake := Fake(), topics={"new": {"groups": ["billing", "audit"]}}) as shop:
        await shop.subscribe(shop.log(), group="mail")
        await shop.publish(1)
        fake.script("send", answered(Fault.LOST))
        await shop.publish(2)
        first = fake.receiver
        first.epoch.end()
        fake.script("receive", failing(Fault.LOST))
        first.ring()
        await shop.until(lambda: fake.receiver is not first)
        groups: list[str] = []
        for name, detail in fake.journal:
            if name == "declare" and detail[0] is Purpose.EVENTS:
                groups.append(detail[1])
            elif name == "sender" and detail is Purpose.EVENTS:
                assert {"billing", "audit"} <= set(groups)
                groups.clear()
            elif name == "receiver" and detail[0] is Purpose.EVENTS:
                assert {"billing", "audit", "mail"} <= set(groups)
                groups.clear()
        assert fake.names("sender", "receiver").count("sender") == 2


async def test_capabilities_are_read_after_declare_and_before_opening() -> None:
    async with opened(fake := Fake()) as shop:
        await shop.publish(1)
        assert fake.names("declare", "capabilities", "sender") == ["declare", "capabilities", "sender"]


async def test_a_publisher_declares_again_after_a_minute_and_not_while_it_rests() -> None:
    async with opened(fake := Fake(), topics={"new": {"groups": ["billing", "audit"]}}) as shop:
        await shop.publish(1)
        before = fake.names("declare").count("declare")
        await shop.advance(300)
        assert fake.names("declare").count("declare") == before
        await shop.publish(2)
        assert [detail for name, detail in fake.journal if name == "declare"][before:] == [
            (Purpose.EVENTS, "billing"),
            (Purpose.EVENTS, "audit"),
        ]
        await shop.publish(3)
        assert fake.names("declare").count("declare") == before + 2


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_a_wish_where_to_start_reaches_the_declaration_that_makes_the_group(start: str) -> None:
    starts: list[tuple[str, str | None]] = []

    async def declared(_: object, channel: Channel) -> None:
        if channel.purpose is Purpose.EVENTS:
            starts.append((channel.group, channel.start))

    async with opened(fake := Fake(Capabilities(history=True))) as shop:
        fake.always["declare"] = declared
        await shop.subscribe(shop.log(), group="audit", start=start)
        assert set(starts) == {("shop.new", None), ("audit", start)}


# ---- rule 2 and 3: late and lost objects


async def test_a_receiver_that_arrives_after_it_was_given_up_is_closed() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def late(connection: FakeConnection, channel: Channel, intake: Intake) -> FakeReceiver:
        await gate
        return FakeReceiver(connection.fake, channel, intake)

    async with opened(fake := Fake()) as shop:
        fake.script("receiver", late)
        began = shop.clock.now()
        with pytest.raises(OpenError) as caught:
            await shop.subscribe(shop.log())
        assert caught.value.code == "CONNECT_FAILED"
        assert 60 <= shop.clock.now() - began < 62, "joining a group waits for its other members"
        gate.set_result(None)
        await quiet()
        assert fake.receivers[-1].closed


async def test_a_receiver_that_cannot_be_opened_because_the_connection_is_lost_gets_a_new_connection() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("receiver", failing(Fault.LOST))
        await shop.subscribe(shop.log())
        assert [connection.closed for connection in fake.connections] == [True, False]


async def test_a_subscription_that_an_operator_has_to_mend_is_refused_at_once() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("receiver", failing(Fault.CONFIG))
        with pytest.raises(OpenError) as caught:
            await shop.subscribe(shop.log())
        assert caught.value.code == "SUBSCRIBE_FAILED"
        await shop.subscribe(shop.log())
        fake.feed(b"1")
        await shop.until(lambda: fake.settlements)


async def test_the_second_of_two_that_open_one_group_together_tries_by_itself_if_the_first_failed() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def refused(*_: object) -> None:
        await gate
        raise failing(Fault.CONFIG)

    async with opened(fake := Fake()) as shop:
        fake.script("receiver", refused)
        first, second = (asyncio.ensure_future(shop.event.subscribe("orders:new", callback=shop.log())) for _ in "12")
        await quiet()
        gate.set_result(None)
        answers = await shop.run(asyncio.gather(first, second, return_exceptions=True))
        assert [type(answer).__name__ for answer in answers] == ["OpenError", "Subscription"]
        fake.feed(b"1")
        await shop.until(lambda: fake.settlements)


async def test_a_broker_that_is_away_when_a_subscription_opens_is_waited_for() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("connect", *[failing(Fault.TRANSIENT)] * 5)
        await shop.subscribe(shop.log())
        assert 1 < shop.clock.now() - 1000 < 30


async def test_a_broker_that_stays_away_is_told_within_a_bound() -> None:
    async with opened(fake := Fake()) as shop:
        fake.always["connect"] = failing(Fault.TRANSIENT)
        with pytest.raises(OpenError, match="on demand") as caught:
            await shop.subscribe(shop.log())
        assert caught.value.code == "CONNECT_FAILED"
        assert shop.clock.now() - 1000 <= 31


# ---- rule 4: TRANSIENT keeps the epoch, anything else ends it


async def test_a_transient_failure_keeps_receiver_and_epoch() -> None:
    async with opened(fake := Fake()) as shop:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        log = shop.log(lambda event: release)
        await shop.subscribe(log)
        fake.feed(b"1")
        await shop.until(lambda: log.calls)
        fake.script("receive", failing(Fault.TRANSIENT), failing(Fault.TRANSIENT))
        fake.receiver.ring()
        await shop.advance(5)
        release.set_result(None)
        await shop.until(lambda: fake.settlements)
        assert fake.settlements == [("1", ACK, 0.0)]
        assert fake.names("receiver").count("receiver") == 2, "events and the way back, once each"


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.AMBIGUOUS, Fault.CONFIG, Fault.MESSAGE])
async def test_any_other_failure_ends_the_epoch_and_opens_a_new_receiver(fault: Fault) -> None:
    async with opened(fake := Fake()) as shop:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        log = shop.log(lambda event: release if event.message == 1 else None)
        await shop.subscribe(log, concurrency=1)
        fake.feed(b"1", b"2")
        await shop.until(lambda: log.calls)
        first = fake.receiver
        fake.script("receive", failing(fault))
        first.ring()
        await shop.until(lambda: fake.receiver is not first)
        assert first.closed
        release.set_result(None)
        fake.feed(b"3")
        await shop.until(lambda: fake.settlements)
        assert log.messages == [1, 3], "what had not started is with somebody else"
        assert fake.settlements == [("3", ACK, 0.0)]
        assert first.epoch.held == 0


async def test_an_epoch_ends_with_its_receiver_also_if_that_does_not_close() -> None:
    async with opened(fake := Fake()) as shop:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        log = shop.log(lambda event: release)
        await shop.subscribe(log)
        fake.feed(b"1")
        await shop.until(lambda: log.calls)
        first = fake.receiver
        fake.always["close"] = never
        fake.script("receive", failing(Fault.LOST))
        first.ring()
        await shop.until(lambda: fake.receiver is not first)
        assert not first.epoch.alive
        release.set_result(None)
        await shop.advance(1)
        assert fake.settlements == []


async def test_an_epoch_that_ends_while_its_call_returns_starts_nothing() -> None:
    async def revoked(receiver: FakeReceiver, limit: int, wait: float) -> Any:
        asyncio.get_running_loop().call_soon(receiver.epoch.end)
        return [receiver.deliver(body=b"1", headers={"ductape-event": "orders:new"})]

    async with opened(fake := Fake()) as shop:
        log = shop.log()
        await shop.subscribe(log)
        fake.script("receive", revoked)
        fake.receiver.ring()
        await shop.advance(12)
        assert (log.calls, fake.settlements, fake.receiver.epoch.held) == ([], [], 0)


async def test_a_receive_that_hangs_is_given_up_and_what_it_brings_later_is_not_handled() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def late(receiver: FakeReceiver, limit: int, wait: float) -> Any:
        await gate
        return [receiver.deliver(body=b"9", headers={"ductape-event": "orders:new"})]

    async with opened(fake := Fake()) as shop:
        fake.script("receive", late)
        log = shop.log()
        await shop.subscribe(log)
        first = fake.receiver
        await shop.until(lambda: fake.receiver is not first)
        assert 20 <= shop.clock.now() - 1000 < 21, "its wait and ten seconds"
        gate.set_result(None)
        fake.feed(b"1")
        await shop.until(lambda: fake.settlements)
        assert log.messages == [1]


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), asyncio.CancelledError()], ids=["native", "cancelled"])
async def test_an_unclassified_or_cancelled_call_of_the_client_is_lost_and_reopened(error: BaseException) -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("receive", error)
        log = shop.log()
        await shop.subscribe(log)
        fake.feed(b"1")
        await shop.until(lambda: fake.settlements)
        assert log.messages == [1]


async def test_reopening_backs_off_and_gives_up_after_the_tries_of_the_config() -> None:
    class Limited(Fake):
        class config(Fake.config):  # noqa: N801
            max_reconnect_attempts: int | None = 3

    async with opened(fake := Limited()) as shop:
        await shop.subscribe(shop.log())
        fake.always["receive"] = fake.always["receiver"] = failing(Fault.LOST)
        fake.receiver.ring()
        await shop.until(
            lambda: not shop.client._engine.groups or any(group.failure for group in shop.client.engine.groups.values())
        )
        [group] = shop.client.engine.groups.values()
        assert group.failure.code == "SUBSCRIBE_FAILED"
        health = await shop.run(shop.client.health())
        assert (health.healthy, health.subscriptions[0].state) == (False, "stopped")


# ---- rule 8: mixed epochs


async def test_settling_live_and_dead_deliveries_together_counts_both_off() -> None:
    async with opened(fake := Fake()) as shop:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await shop.subscribe(shop.log(lambda event: release))
        fake.feed(b"1")
        await quiet()
        first = fake.receiver
        old = first.epoch
        from ductape.adapter import Epoch

        first.epoch = Epoch("second", shop.clock)
        fake.feed(b"2")
        await quiet()
        old.end()
        release.set_result(None)
        await shop.until(lambda: fake.settlements)
        await shop.advance(1)
        assert fake.settlements == [("2", ACK, 0.0)]
        assert (old.held, first.epoch.held) == (0, 0)
        assert shop.client.engine is not None
        [group] = shop.client.engine.groups.values()
        assert [len(source.held) for source in group.sources] == [0, 0]


# ---- what a foreign or broken message may not do


@pytest.mark.parametrize(
    "number",
    ["inf", "nan", "-3", "many", "1e400", "9" * 400],
    ids=["inf", "nan", "negative", "text", "float", "digits"],
)
async def test_a_foreign_number_in_a_header_of_ours_harms_nothing(number: str) -> None:
    async with opened(fake := Fake(LEASED)) as shop:
        log = shop.log()
        await shop.subscribe(log)
        fake.feed(b"1", headers={"ductape-attempt": number, "ductape-event": "orders:new"})
        fake.feed(b"2", headers={"ductape-not-before": number, "ductape-event": "orders:new"})
        fake.feed(b"3")
        await shop.until(lambda: len(fake.settlements) == 3, within=60)
        assert sorted(log.messages) == [1, 2, 3]


@pytest.mark.parametrize("observer", ["received", "settled", "moved"])
async def test_an_observer_that_fails_disturbs_nothing(observer: str, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        pass

    def fail(*_: object) -> None:
        raise ZeroDivisionError("observer")

    setattr(Broken, observer, fail)
    async with opened(fake := Fake(LEASED), middleware=[Broken()]) as shop:
        await shop.subscribe(
            shop.log(lambda event: ValueError() if event.message == 1 else None), retry=Retry(attempts=1)
        )
        fake.feed(b"1", b"2")
        await shop.until(lambda: len(fake.settlements) == 2)
        fake.feed(b"3")
        await shop.until(lambda: len(fake.settlements) == 3)
    assert "observer" in caplog.text
