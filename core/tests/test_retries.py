"""What fails comes back: never early, and exactly its attempts. Dead letters are listed, replayed, dropped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.tests.fake import Fake, failing
from core.tests.kit import EVENT, opened
from ductape import Reject, Retry, RetryLater
from ductape.adapter import Capabilities, Fault, Purpose
from ductape.errors import StateError
from ductape_memory import LOG, QUEUE, STREAM

WORLDS = {"queue": QUEUE, "stream": STREAM, "log": LOG}
world = pytest.mark.parametrize("can", WORLDS.values(), ids=WORLDS)


@world
@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
async def test_what_always_fails_gets_exactly_its_attempts_and_then_the_dead_letter(
    can: Capabilities, attempts: int
) -> None:
    async with opened(can) as shop:
        log = shop.log(lambda event: ValueError("no such customer"))
        await shop.subscribe(log, retry=Retry(attempts=attempts, delay=1))
        await shop.publish({"id": 1}, headers={"x-tenant": "blue"}, key="k", id="m1")
        await shop.settled()
        await shop.advance(500)
        assert log.attempts == list(range(1, attempts + 1))
        [letter] = await shop.dead()
        assert (letter.reason, letter.attempts, letter.group, letter.id) == ("exhausted", attempts, "shop.new", "m1")
        assert letter.error == "ValueError: no such customer"
        assert (letter.body, letter.message) == (b'{"id":1}', {"id": 1})
        assert letter.headers == {"x-tenant": "blue", "content-type": "application/json"}
        assert letter.origin
        assert letter.at is not None
        assert letter.stored_at is not None


@world
async def test_retries_wait_their_back_off_and_never_come_early(can: Capabilities) -> None:
    async with opened(can) as shop:
        log = shop.log(lambda event: ValueError())
        await shop.subscribe(log, retry=Retry(attempts=7, delay=2, factor=3, longest=100))
        await shop.publish(1)
        await shop.settled()
        for gap, least in zip(log.gaps, (2, 6, 18, 54, 100, 100), strict=True):
            assert least <= gap <= least * 1.2 + 1.1


@world
async def test_retry_later_asks_for_a_time_and_counts(can: Capabilities) -> None:
    async with opened(can) as shop:
        log = shop.log(lambda event: RetryLater(40) if event.attempt < 3 else None)
        await shop.subscribe(log)
        await shop.publish(1)
        await shop.settled()
        assert log.attempts == [1, 2, 3]
        assert all(40 <= gap < 41.1 for gap in log.gaps)
        assert await shop.dead() == []


@world
async def test_a_rejected_message_is_a_dead_letter_at_once(can: Capabilities) -> None:
    async with opened(can) as shop:
        log = shop.log(lambda event: Reject("not ours"))
        await shop.subscribe(log)
        await shop.publish(1)
        await shop.settled()
        [letter] = await shop.dead()
        assert (letter.reason, letter.error, letter.attempts) == ("rejected", "Reject: not ours", 1)
        assert log.attempts == [1]


@world
async def test_an_undecodable_message_is_a_dead_letter_without_an_attempt(can: Capabilities) -> None:
    async def typed(message: dict[str, int]) -> None:
        handled.append(message)

    handled: list[Any] = []
    async with opened(can) as shop:
        await shop.subscribe(typed)
        await shop.publish({"id": "secret-value"})
        await shop.publish({"id": 2})
        await shop.settled()
        [letter] = await shop.dead()
        assert letter.reason == "unreadable"
        assert letter.body == b'{"id":"secret-value"}'
        assert "secret-value" not in letter.error
        assert handled == [{"id": 2}]


# ---- replay and drop


@world
async def test_a_replayed_letter_comes_back_to_its_group_only_with_its_id_and_attempts_from_one(
    can: Capabilities,
) -> None:
    async with opened(can, topics={"new": {"groups": ["billing", "audit"]}}) as shop:
        broken = True
        billing = shop.log(lambda event: ValueError() if broken else None)
        audit = shop.log()
        await shop.subscribe(billing, group="billing", retry=Retry(attempts=2, delay=1))
        await shop.subscribe(audit, group="audit")
        await shop.publish({"id": 1}, id="m1", headers={"x": "y"}, session={"tag": "user", "token": "secret"})
        await shop.settled("billing")
        await shop.settled("audit")
        assert [letter.id for letter in await shop.dead("billing")] == ["m1"]
        assert await shop.dead("audit") == []
        broken = False

        async def replay() -> None:
            async for each in shop.event.dead(EVENT, group="billing"):
                await each.replay()

        await shop.run(replay())
        await shop.settled("billing")
        await shop.advance(60)
        assert billing.attempts == [1, 2, 1]
        last = billing.calls[-1]
        assert (last.id, last.message, last.headers["x"]) == ("m1", {"id": 1}, "y")
        assert last.session is not None
        assert last.session.token == "secret"
        assert len(audit.calls) == 1
        assert await shop.dead("billing") == []


async def test_a_letter_that_fails_again_after_replay_gets_its_whole_budget_and_one_letter() -> None:
    async with opened(STREAM) as shop:
        log = shop.log(lambda event: ValueError())
        await shop.subscribe(log, retry=Retry(attempts=3, delay=1))
        await shop.publish(1)
        await shop.settled()

        async def replay() -> None:
            async for each in shop.event.dead(EVENT):
                await each.replay()

        await shop.run(replay())
        await shop.settled()
        await shop.advance(100)
        assert log.attempts == [1, 2, 3, 1, 2, 3]
        assert len(await shop.dead()) == 1


async def test_a_dropped_letter_is_gone_and_one_that_was_looked_at_stays() -> None:
    async with opened() as shop:
        await shop.subscribe(shop.log(lambda event: Reject("no")))
        for n in range(3):
            await shop.publish(n)
        await shop.settled()

        async def drop() -> None:
            async for each in shop.event.dead(EVENT):
                if each.message == 1:
                    await each.drop()

        await shop.run(drop())
        assert [letter.message for letter in await shop.dead()] == [0, 2]


async def test_a_drop_that_the_broker_does_not_confirm_says_so() -> None:
    async with opened(fake := Fake()) as shop:
        fake.feed(b"1", purpose=Purpose.DEAD)
        fake.always["settle"] = [failing(Fault.LOST)]

        async def drop() -> None:
            async for letter in shop.event.dead(EVENT):
                await letter.drop()

        with pytest.raises(StateError) as caught:
            await shop.run(drop())
        assert caught.value.code == "NOT_SETTLED"


async def test_letters_can_be_dropped_together_without_waiting_for_one_another() -> None:
    async with opened() as shop:
        await shop.subscribe(shop.log(lambda event: Reject("no")))
        for n in range(3):
            await shop.publish(n)
        await shop.settled()

        async def drop() -> float:
            letters = []
            listing = shop.event.dead(EVENT)
            async for each in listing:
                letters.append(each)
                if len(letters) == 3:
                    began = shop.clock.now()
                    await asyncio.gather(*(letter.drop() for letter in letters))
                    took = shop.clock.now() - began
            return took

        assert await shop.run(drop()) < 1
        assert await shop.dead() == []


async def test_a_letter_replayed_twice_at_once_comes_back_once() -> None:
    async with opened() as shop:
        log = shop.log(lambda event: Reject("no") if len(log.calls) == 1 else None)
        await shop.subscribe(log)
        await shop.publish(1)
        await shop.settled()

        async def replay() -> list[Any]:
            answers: list[Any] = []
            async for each in shop.event.dead(EVENT):
                answers += await asyncio.gather(each.replay(), each.replay(), return_exceptions=True)
            return answers

        answers = await shop.run(replay())
        await shop.settled()
        assert [getattr(answer, "code", None) for answer in answers] == [None, "ALREADY_SETTLED"]
        assert len(log.calls) == 2


async def test_a_letter_whose_listing_ended_says_so() -> None:
    from ductape.errors import StateError

    async with opened() as shop:
        await shop.subscribe(shop.log(lambda event: Reject("no")))
        await shop.publish(1)
        await shop.settled()
        [letter] = await shop.dead()
        for act in (letter.drop, letter.replay):
            with pytest.raises(StateError) as caught:
                await shop.run(act())
            assert caught.value.code == "ALREADY_SETTLED"
