"""How handlers are run beside one another, and ended."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest

from core.tests.fake import Fake
from core.tests.kit import EVENT, opened, quiet
from ductape import Event, Retry
from ductape.adapter import Verdict
from ductape.errors import HandlerError, HandlerTimeout

ACK, RETRY, RELEASE = Verdict.ACK, Verdict.RETRY, Verdict.RELEASE


class Order(msgspec.Struct):
    id: int
    total: float = 0.0


@dataclass
class Plain:
    id: int


class Typed(TypedDict):
    id: int


# ---- ending handlers


async def test_a_hung_handler_is_ended_by_its_timeout_and_the_message_retried() -> None:
    async with opened() as shop:
        failures: list[BaseException] = []

        async def handler(event: Event[Any]) -> None:
            log.times.append(shop.clock.now())
            if event.attempt == 1:
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError as error:
                    failures.append(error)
                    raise

        log = shop.log()
        await shop.subscribe(handler, timeout=8, retry=Retry(delay=1))
        await shop.publish(1)
        await shop.settled()
        [failure] = failures
        assert failure.args == ("HANDLER_TIMEOUT",), "so that middleware can tell it from a shutdown"
        assert 9 <= log.gaps[0] <= 8 + 1 + 1.2


async def test_the_dead_letter_of_a_hung_handler_names_the_timeout() -> None:
    async with opened() as shop:
        await shop.subscribe(shop.log(lambda event: shop.clock.sleep(1000)), timeout=2, retry=Retry(attempts=1))
        await shop.publish(1)
        await shop.settled()
        [letter] = await shop.dead()
        assert letter.error.startswith(f"{HandlerTimeout.__name__}: HANDLER_TIMEOUT: ")


async def test_a_handler_that_swallows_its_end_is_asked_again_and_its_worker_serves_on() -> None:
    async with opened() as shop:
        asked = 0

        async def stubborn(event: Event[Any]) -> None:
            nonlocal asked
            done.append(event.message)
            while event.message == 1 and asked < 3:
                try:
                    await shop.clock.sleep(1000)
                except asyncio.CancelledError:
                    asked += 1

        done: list[int] = []
        subscription = await shop.subscribe(stubborn, timeout=2, concurrency=1)
        for n in (1, 2, 3):
            await shop.publish(n)
        await shop.settled()
        assert (done, asked) == ([1, 2, 3], 3)
        began = shop.clock.now()
        await shop.run(subscription.close())
        assert shop.clock.now() - began < 1, "its worker ends"


async def test_a_handler_that_raises_a_cancellation_of_its_own_fails_and_its_worker_serves_on() -> None:
    async with opened() as shop:
        log = shop.log(lambda event: asyncio.CancelledError() if event.message == 1 else None)
        await shop.subscribe(log, concurrency=1, retry=Retry(attempts=2, delay=1))
        for n in (1, 2, 1):
            await shop.publish(n)
        await shop.settled()
        assert sorted(log.messages) == [1, 1, 1, 1, 2]
        assert len(await shop.dead()) == 2


async def test_a_handler_that_awaits_a_cancelled_task_fails_like_any_other() -> None:
    async with opened() as shop:

        async def handler(event: Event[Any]) -> None:
            task = asyncio.ensure_future(shop.clock.sleep(100))
            task.cancel()
            await task

        await shop.subscribe(handler, retry=Retry(attempts=1))
        await shop.publish(1)
        await shop.settled()
        assert [letter.error.split(":")[0] for letter in await shop.dead()] == ["CancelledError"]


async def test_handlers_never_run_beside_more_than_the_concurrency() -> None:
    running = most = 0

    async def handler(message: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await shop.clock.sleep(0.1)
        running -= 1

    async with opened() as shop:
        await shop.subscribe(handler, concurrency=5)
        await shop.run(shop.event.publish_many(EVENT, range(100)))
        await shop.settled()
        assert most == 5


async def test_a_slow_handler_does_not_hold_up_more_than_its_own_message() -> None:
    async with opened() as shop:
        log = shop.log(lambda event: shop.clock.sleep(100 if event.message == 0 else 0))
        await shop.subscribe(log, concurrency=2)
        await shop.run(shop.event.publish_many(EVENT, range(50)))
        await shop.until(lambda: len(log.calls) == 50)
        assert shop.clock.now() - 1000 < 50
        await quiet()


# ---- what handlers raise, and where plain ones run


async def test_an_error_whose_text_cannot_be_written_is_a_failure_like_any_other() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            return str(self.args[3])

    errors = [ValueError("file \udcff not found"), Broken(), ValueError("x")]
    async with opened(fake := Fake()) as shop:
        log = shop.log(lambda event: errors[event.message % 3])
        subscription = await shop.subscribe(log, retry=Retry(attempts=1), concurrency=1)
        for n in range(6):
            fake.feed(str(n).encode())
        await shop.until(lambda: len(fake.settlements) == 6)
        assert (len(log.calls), subscription.stats()["dead"]) == (6, 6)
        assert {verdict for _, verdict, _ in fake.settlements} == {ACK}
        told = [record.headers["ductape-dead-error"] for record in fake.stored]
        assert "not found" in told[0]
        assert told[1] == "Broken"
        json.dumps(told).encode()
        assert all(text.encode() for text in told)


async def test_plain_handlers_get_as_many_threads_as_their_concurrency_and_no_timeout_counts_a_queue() -> None:
    barrier = threading.Barrier(40, timeout=5)
    done: list[int] = []

    def handler(message: int) -> None:
        barrier.wait()
        done.append(message)

    async with opened() as shop:
        await shop.subscribe(handler, concurrency=40, timeout=1.0, retry=Retry(attempts=1))
        await shop.run(shop.event.publish_many(EVENT, range(40)))
        for _ in range(500):
            await quiet(5)
            await asyncio.sleep(0.005)
            if len(done) == 40:
                break
        assert sorted(done) == list(range(40))
        await shop.settled()
        assert await shop.dead() == []


@pytest.mark.parametrize("kind", ["asynchronous", "plain", "partial", "object"])
async def test_handlers_that_yield_are_refused(kind: str) -> None:
    async def asynchronous(message: Any) -> Any:
        yield message

    def plain(message: Any) -> Any:
        yield message

    class Object:
        def __call__(self, message: Any) -> Any:
            yield message

    kinds = {"asynchronous": asynchronous, "plain": plain, "partial": functools.partial(plain), "object": Object()}
    async with opened() as shop:
        with pytest.raises(HandlerError, match="yields"):
            await shop.subscribe(kinds[kind])
