"""Publishing through a sender that answers wrongly, late, or never: the caller always learns the truth, in time."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from typing import Any

import pytest

from core.tests.fake import Fake, FakeConnection, FakeSender, answered, failing, never
from core.tests.kit import EVENT, opened, quiet
from ductape.adapter import Channel, Fault, Limits, Outgoing, Stored
from ductape.errors import AdapterError, PublishError


def ids(fake: Fake) -> list[list[str]]:
    return [[record.id for record in records] for records in fake.sent]


async def test_a_call_that_the_client_cancels_is_sent_again_and_the_lane_lives() -> None:
    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    async with opened(fake := Fake()) as shop:
        fake.script("send", cancelled)
        await shop.publish(1, id="a")
        await shop.publish(2, id="b")
        assert ids(fake) == [["a"], ["a"], ["b"]]
        assert [sender.closed for sender in fake.senders] == [True, False]


@pytest.mark.parametrize("answers", [[], [Stored(), Stored()]], ids=["none", "too many"])
async def test_a_wrong_number_of_answers_is_taken_as_ambiguous_and_sent_again(answers: list[Stored]) -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("send", answers)
        receipt = await shop.publish(1, id="a")
        assert receipt.id == "a"
        assert ids(fake) == [["a"], ["a"]]


@pytest.mark.parametrize("answer", [None, "stored", ValueError("native")])
async def test_an_answer_that_is_none_of_the_contract_is_taken_as_ambiguous_and_sent_again(answer: object) -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("send", [answer])
        await shop.publish(1, id="a")
        assert ids(fake) == [["a"], ["a"]]


async def test_an_unclassified_exception_may_have_stored_it_and_ends_the_sender() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("send", ZeroDivisionError("secret text"))
        fake.always["sender"] = fake.always["send"] = failing(Fault.TRANSIENT)
        fake.script("sender", lambda connection, channel: async_(connection.make_sender(channel)))
        with pytest.raises(PublishError) as caught:
            await shop.publish(1, id="a", timeout=3)
        assert (caught.value.code, caught.value.stored) == ("PUBLISH_TIMEOUT", "maybe")
        assert "id='a'" in str(caught.value)
        assert "secret text" not in str(caught.value)


async def async_(value: Any) -> Any:
    return value


async def test_a_send_that_overstays_is_abandoned_and_the_record_sent_again_by_a_new_sender() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("send", never)
        began = shop.clock.now()
        receipt = await shop.publish(1, id="a")
        assert receipt.id == "a"
        assert ids(fake) == [["a"], ["a"]]
        assert 10.0 <= shop.clock.now() - began < 11.0
        assert [sender.closed for sender in fake.senders] == [True, False]


async def test_the_sender_says_how_long_a_call_may_take() -> None:
    async with opened(fake := Fake(limits=Limits(seconds=2.0))) as shop:
        fake.script("send", never)
        began = shop.clock.now()
        await shop.publish(1)
        assert 2.0 <= shop.clock.now() - began < 2.5


async def test_the_late_answer_of_an_abandoned_send_changes_nothing() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def late(sender: FakeSender, records: Sequence[Outgoing]) -> Any:
        await gate
        return await sender.store(records)

    async with opened(fake := Fake()) as shop:
        fake.script("send", late)
        first = await shop.publish(1, id="a")
        gate.set_result(None)
        await quiet()
        second = await shop.publish(2, id="b")
        assert (first.id, second.id) == ("a", "b")
        assert [record.id for record in fake.stored] == ["a", "a", "b"]
        assert shop.client.stats()["orders.new"]["pending"] == 0


async def test_while_a_call_is_stuck_the_deadline_answers_maybe() -> None:
    async with opened(fake := Fake(limits=Limits(seconds=60))) as shop:
        fake.script("send", never)
        with pytest.raises(PublishError) as caught:
            await shop.publish(1, id="a", timeout=5)
        assert (caught.value.code, caught.value.stored) == ("PUBLISH_TIMEOUT", "maybe")


async def test_what_waits_behind_a_stuck_call_is_certainly_not_stored() -> None:
    async with opened(fake := Fake(limits=Limits(seconds=60))) as shop:
        fake.script("send", never)
        stuck = asyncio.ensure_future(shop.event.publish(EVENT, 1, timeout=5))
        await quiet()
        with pytest.raises(PublishError) as caught:
            await shop.publish(2, id="b", timeout=5)
        assert caught.value.stored == "no"
        with pytest.raises(PublishError):
            await shop.run(stuck)


async def test_a_lost_answer_of_a_record_means_not_stored_and_a_new_sender() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("send", answered(Fault.LOST))
        await shop.publish(1, id="a")
        assert ids(fake) == [["a"], ["a"]]
        assert len(fake.senders) == 2


async def test_a_transient_failure_keeps_the_sender() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("send", failing(Fault.TRANSIENT), answered(Fault.TRANSIENT))
        await shop.publish(1, id="a")
        assert ids(fake) == [["a"]] * 3
        assert len(fake.senders) == 1


async def test_transient_until_the_deadline_is_certainly_not_stored() -> None:
    async with opened(fake := Fake()) as shop:
        fake.always["send"] = failing(Fault.TRANSIENT)
        with pytest.raises(PublishError) as caught:
            await shop.publish(1, id="a", timeout=10)
        assert (caught.value.code, caught.value.stored) == ("PUBLISH_TIMEOUT", "no")
        assert len(fake.sent) < 20, "it backs off"


async def test_one_ambiguous_answer_makes_it_maybe_for_ever() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("send", answered(Fault.AMBIGUOUS))
        fake.always["send"] = failing(Fault.TRANSIENT)
        with pytest.raises(PublishError) as caught:
            await shop.publish(1, id="a", timeout=10)
        assert caught.value.stored == "maybe"


async def test_a_refused_message_fails_alone_and_at_once() -> None:
    async def second_is_bad(sender: FakeSender, records: Sequence[Outgoing]) -> list[Any]:
        return [failing(Fault.MESSAGE) if record.id == "b" else Stored() for record in records]

    async with opened(fake := Fake()) as shop:
        await shop.publish(0)
        fake.script("send", second_is_bad)
        answers = await shop.run(
            asyncio.gather(*(shop.event.publish(EVENT, 1, id=id) for id in "abc"), return_exceptions=True)
        )
        assert [type(answer).__name__ for answer in answers] == ["Receipt", "PublishError", "Receipt"]
        assert (answers[1].code, answers[1].stored) == ("PUBLISH_FAILED", "no")
        assert isinstance(answers[1].__cause__, AdapterError)
        assert ids(fake)[1:] == [["a", "b", "c"]]


async def test_an_operator_s_mistake_is_told_at_once_and_publishing_works_after_it_is_mended() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("declare", failing(Fault.CONFIG))
        began = shop.clock.now()
        with pytest.raises(PublishError) as caught:
            await shop.publish(1)
        assert (caught.value.code, caught.value.stored) == ("PUBLISH_FAILED", "no")
        assert shop.clock.now() - began < 1
        await shop.publish(2)


# ---- rule 3: opening


async def test_a_failed_opening_is_never_ambiguous() -> None:
    async with opened(fake := Fake()) as shop:
        fake.always["sender"] = failing(Fault.LOST)
        with pytest.raises(PublishError) as caught:
            await shop.publish(1, timeout=5)
        assert caught.value.stored == "no"


async def test_a_failed_reopening_is_not_ambiguous_for_what_was_never_sent() -> None:
    async with opened(fake := Fake()) as shop:
        await shop.publish(0)
        fake.script("send", answered(Fault.LOST))
        fake.always["sender"] = failing(Fault.LOST)
        with pytest.raises(PublishError) as caught:
            await shop.publish(1, timeout=5)
        assert caught.value.stored == "no"


async def test_a_sender_that_cannot_be_opened_because_the_connection_is_lost_gets_a_new_connection() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("sender", failing(Fault.LOST))
        await shop.publish(1)
        assert [connection.closed for connection in fake.connections] == [True, False]


async def test_a_sender_that_cannot_be_opened_for_a_moment_keeps_the_connection() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("sender", failing(Fault.TRANSIENT))
        await shop.publish(1)
        assert len(fake.connections) == 1


async def test_a_sender_that_arrives_after_it_was_given_up_is_closed() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def late(connection: FakeConnection, channel: Channel) -> FakeSender:
        await gate
        return connection.make_sender(channel)

    async with opened(fake := Fake()) as shop:
        fake.script("sender", late)
        await shop.publish(1)
        gate.set_result(None)
        await quiet()
        assert [sender.closed for sender in fake.senders] == [False, True]


async def test_a_connection_that_arrives_after_it_was_given_up_is_closed() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def late(fake: Fake) -> FakeConnection:
        await gate
        return FakeConnection(fake)

    async with opened(fake := Fake()) as shop:
        fake.script("connect", late)
        await shop.publish(1)
        gate.set_result(None)
        await quiet()
        assert [connection.closed for connection in fake.connections] == [False, True]


async def test_an_error_from_close_harms_nothing() -> None:
    async with opened(fake := Fake()) as shop:
        await shop.publish(1)
        fake.always["close"] = RuntimeError("close failed")
        fake.script("send", answered(Fault.LOST))
        await shop.publish(2)
        await shop.publish(3)
    assert all(connection.closed for connection in fake.connections)


async def test_a_close_that_never_returns_is_abandoned_after_its_bound() -> None:
    async with opened(fake := Fake()) as shop:
        await shop.publish(1)
        fake.always["close"] = never
        began = shop.clock.now()
        await shop.close()
        assert shop.clock.now() - began <= 10.1, "sender and connection, five seconds each"


# ---- lanes of the broker


class Partitioned(FakeSender):
    """Its broker has two lanes: keys that begin with a letter before m, and the others."""

    def lane(self, record: Outgoing) -> Hashable | None:
        return None if record.key is None else record.key < "m"


class PartitionedConnection(FakeConnection):
    def make_sender(self, channel: Channel) -> FakeSender:
        return Partitioned(self.fake, channel)


def partitioned(limits: Limits | None = None) -> Fake:
    async def connect(fake: Fake) -> FakeConnection:
        return PartitionedConnection(fake)

    fake = Fake(limits=limits)
    fake.always["connect"] = connect
    return fake


async def test_a_stuck_call_does_not_take_the_slots_of_a_broker_with_own_lanes() -> None:
    async with opened(fake := partitioned(Limits(calls=1, seconds=5))) as shop:
        fake.script("send", never)
        first = asyncio.ensure_future(shop.event.publish(EVENT, 1, key="a", id="1"))
        await quiet()
        await shop.publish(2, key="z", id="2")
        await shop.run(first)
        assert sorted(record.id for record in fake.stored) == ["1", "2"]


async def test_a_key_keeps_its_own_lane_while_the_sender_is_opened_again() -> None:
    async with opened(fake := partitioned(Limits(calls=4))) as shop:
        await shop.publish(0, key="a", id="0")
        fake.script("send", answered(Fault.LOST))
        first = asyncio.ensure_future(shop.event.publish(EVENT, 1, key="a", id="1"))
        await shop.until(lambda: len(fake.sent) == 2)
        rest = [asyncio.ensure_future(shop.event.publish(EVENT, n, key="a", id=str(n))) for n in range(2, 9)]
        await shop.run(asyncio.gather(first, *rest))
        assert [record.id for record in fake.stored] == [str(n) for n in range(9)]


async def test_calls_are_bounded_where_the_broker_has_more_lanes_than_calls() -> None:
    running = most = 0

    async def watched(sender: FakeSender, records: Sequence[Outgoing]) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await quiet(3)
        running -= 1
        return await sender.store(records)

    async with opened(fake := partitioned(Limits(calls=1))) as shop:
        fake.always["send"] = watched
        await shop.run(asyncio.gather(*(shop.event.publish(EVENT, 1, key=key) for key in "azbycx" * 10)))
        assert (most, len(fake.stored)) == (1, 60)
