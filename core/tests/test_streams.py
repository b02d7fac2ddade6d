"""Receiving in a loop of one's own, and settling every event oneself."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from core.tests.fake import Fake
from core.tests.kit import EVENT, opened, quiet
from ductape import Event, Retry
from ductape.adapter import Capabilities, Count, Order, Verdict
from ductape.errors import ConfigError, DuctapeError, StateError
from ductape_memory import QUEUE

ACK, RETRY, RELEASE = Verdict.ACK, Verdict.RETRY, Verdict.RELEASE
EXACT = Capabilities(count=Count.EXACT, retry_delay=1000.0)


async def take(events: Any, number: int) -> list[Any]:
    taken: list[Any] = []
    async for event in events:
        taken.append(event)
        if len(taken) == number:
            break
    return taken


async def test_every_event_is_settled_as_the_loop_says() -> None:
    async with opened(fake := Fake(EXACT)) as shop:

        async def loop() -> None:
            async with shop.event.stream(EVENT, retry=Retry(delay=7)) as events:
                a, b, c, d, e = await take(events, 5)
                a.ack()
                b.retry()
                c.retry(30)
                d.reject("not ours")
                e.release()
                await shop.clock.sleep(1)

        fake.feed(*(str(n).encode() for n in range(5)))
        await shop.run(loop())
        settled = {body: (verdict, delay) for body, verdict, delay in fake.settlements}
        assert settled["0"] == settled["3"] == (ACK, 0.0)
        assert settled["1"][0] is RETRY
        assert 7 <= settled["1"][1] <= 8.4
        assert settled["2"] == (RETRY, 30.0)
        assert settled["4"] == (RELEASE, 0.0)
        assert [record.headers["ductape-dead-error"] for record in fake.stored] == ["Reject: not ours"]


async def test_events_without_a_verdict_go_back_when_the_stream_is_left_and_are_no_attempt() -> None:
    async with opened() as shop:
        await shop.publish(0)

        async def loop() -> list[Any]:
            async with shop.event.stream(EVENT) as events:
                return await take(events, 3)

        task = asyncio.ensure_future(loop())
        await quiet()
        await shop.publish(1)
        await shop.publish(2)
        left = await shop.run(task)
        log = shop.log()
        await shop.subscribe(log)
        await shop.settled()
        assert (log.messages, log.attempts) == ([0, 1, 2], [1, 1, 1])
        with pytest.raises(StateError) as caught:
            left[0].ack()
        assert caught.value.code == "ALREADY_SETTLED"


async def test_an_event_takes_one_verdict() -> None:
    async with opened(fake := Fake(EXACT)) as shop:

        async def loop() -> None:
            async with shop.event.stream(EVENT) as events:
                [event] = await take(events, 1)
                event.ack()
                for act in (event.ack, event.retry, event.reject, event.release):
                    with pytest.raises(StateError):
                        act()

        fake.feed(b"1")
        await shop.run(loop())
        assert fake.settlements == [("1", ACK, 0.0)]


async def test_payloads_are_decoded_to_the_type_that_is_asked_for() -> None:
    class Order(msgspec.Struct):
        id: int

    async with opened() as shop:

        async def loop() -> Any:
            async with shop.event.stream(EVENT, type=Order, group="g") as events:
                await shop.event.publish(EVENT, {"wrong": 1})
                await shop.event.publish(EVENT, {"id": 7})
                [event] = await take(events, 1)
                event.ack()
                return event

        event = await shop.run(loop())
        assert isinstance(event, Event)
        assert (event.message, event.group, event.attempt) == (Order(7), "g", 1)
        assert [letter.reason for letter in await shop.dead("g")] == ["unreadable"]


async def test_no_more_than_the_concurrency_is_out_at_a_time() -> None:
    async with opened() as shop:
        await shop.run(shop.event.publish_many(EVENT, range(20)))

        async def loop() -> int:
            async with shop.event.stream(EVENT, concurrency=3) as events:
                await take(events, 3)
                return events._queue.qsize()

        assert await shop.run(loop()) == 0


async def test_an_exception_in_the_loop_leaves_the_stream_in_order() -> None:
    async with opened() as shop:
        await shop.publish(1)

        async def loop() -> None:
            async with shop.event.stream(EVENT) as events:
                await take(events, 1)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await shop.run(loop())
        assert shop.left() == 1


async def test_a_stream_can_be_opened_again() -> None:
    async with opened() as shop:
        for n in range(3):
            await shop.publish(n)

            async def loop() -> Any:
                async with shop.event.stream(EVENT) as events:
                    [event] = await take(events, 1)
                    event.ack()
                    return event.message

            assert await shop.run(loop()) == n


async def test_releasing_a_head_releases_what_waits_behind_it_in_order() -> None:
    can = Capabilities(count=Count.EXACT, order=Order.KEY)
    async with opened(fake := Fake(can), topics={"new": {"order": "key"}}) as shop:

        async def loop() -> list[Any]:
            async with shop.event.stream(EVENT) as events:
                [event] = await take(events, 1)
                event.release()
                await shop.clock.sleep(1)
                return [event.message] + [events._queue.get_nowait().message for _ in range(events._queue.qsize())]

        fake.feed(b"0", b"1", b"2", key="k")
        assert await shop.run(loop()) == [0]
        assert fake.settlements == [("0", RELEASE, 0.0), ("1", RELEASE, 0.0), ("2", RELEASE, 0.0)]


async def test_an_ordered_stream_stays_in_order_over_a_release() -> None:
    async with opened(QUEUE, topics={"new": {"order": "key"}}) as shop:
        for n in range(4):
            await shop.publish(n, key="k")

        async def loop() -> list[Any]:
            seen: list[Any] = []
            async with shop.event.stream(EVENT) as events:
                async for event in events:
                    seen.append(event.message)
                    if len(seen) == 2:
                        event.release()
                    else:
                        event.ack()
                    if len(seen) == 5:
                        return seen
            raise AssertionError

        assert await shop.run(loop()) == [0, 1, 1, 2, 3]


async def test_a_stream_takes_no_batches() -> None:
    async with opened() as shop:
        with pytest.raises(ConfigError, match="batch") as caught:
            shop.event.stream(EVENT, batch=10)
        assert caught.value.code == "OPTION_INVALID"


async def test_a_stream_ends_when_its_client_closes() -> None:
    async with opened() as shop:

        async def loop() -> list[Any]:
            async with shop.event.stream(EVENT) as events:
                return [event async for event in events]

        task = asyncio.ensure_future(loop())
        await quiet()
        await shop.close()
        assert await shop.run(task) == []


async def test_a_stream_that_a_policy_stops_says_why() -> None:
    async with opened() as shop:

        async def loop() -> list[Any]:
            async with shop.event.stream(EVENT, type=int, on_poison="stop") as events:
                return [event async for event in events]

        task = asyncio.ensure_future(loop())
        await quiet()
        await shop.publish("text")
        with pytest.raises(DuctapeError, match="on_poison") as caught:
            await shop.run(task)
        assert caught.value.code == "PAYLOAD_UNREADABLE"
