"""Promise 3: a failed message comes back after its back-off, never in a hot loop, on one budget."""

from __future__ import annotations

import asyncio

from ductape import Retry, RetryLater
from ductape.adapter import Purpose
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage


@scenario("retry.backs-off", level="promise")
async def backs_off(stage: Stage) -> None:
    """Each attempt waits for its back-off: never less, and no hot loop; attempts are numbered from 1."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: ValueError("no") if event.attempt < 3 else None)
    await shop.subscribe(handler, retry=Retry(attempts=5, delay=0.5, factor=2.0))
    receipt = await shop.publish({"n": 1})
    await handler.until(lambda: handler.done, 3 * stage.soon)
    await stage.clock.sleep(1.0)
    assert handler.attempts == [1, 2, 3]
    assert set(handler.ids) == {receipt.id}
    assert all(gap >= wanted for gap, wanted in zip(handler.gaps, (0.5, 1.0), strict=True)), handler.gaps


@scenario("retry.later-is-exact", level="promise")
async def later(stage: Stage) -> None:
    """`RetryLater` brings the message back after the time that it names, and counts as an attempt."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: RetryLater(1.5) if event.attempt == 1 else None)
    await shop.subscribe(handler)
    await shop.publish({"n": 1})
    await handler.until(lambda: handler.done, 1.5 + stage.soon)
    assert handler.attempts == [1, 2]
    assert 1.5 <= handler.gaps[0] <= 1.5 + stage.soon


@scenario("retry.others-go-on", level="promise")
async def others(stage: Stage) -> None:
    """A message that waits for its next attempt frees its handler: others are handled meanwhile."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: RetryLater(2.0) if event.message["n"] < 4 and event.attempt == 1 else None)
    await shop.subscribe(handler, concurrency=2)
    await shop.many(30)
    began = stage.clock.now()
    await handler.until(lambda: len(handler.done) >= 26, stage.patience)
    assert stage.clock.now() - began < 2.0
    await handler.until(lambda: len(handler.done) >= 30, 2.0 + stage.soon)
    assert handler.peak <= 2


@scenario("retry.one-budget-over-members", "kept", level="promise")
async def budget(stage: Stage) -> None:
    """A poison message over two members gets exactly its attempts, numbered in order, and then one dead letter."""
    shops = [await stage.shop(), await stage.shop()]
    handler = shops[0].handler(lambda event: ValueError("never") if event.message["n"] == 0 else None)
    for shop in shops:
        await shop.subscribe(handler, retry=Retry(attempts=4, delay=0.2, factor=1.0))
    await shops[0].many(20)
    poison = [0]
    await handler.until(lambda: len([one for one in handler.messages if one["n"] == 0]) >= 4, 4 * stage.soon)
    await stage.clock.sleep(1.5)
    attempts = [one.attempt for one in handler.calls if one.event.message["n"] in poison]
    assert attempts == [1, 2, 3, 4]
    assert [letter.attempts for letter in await shops[0].letters()] == [4]


@scenario("retry.hand-backs-are-no-failures", "kept", level="promise")
async def hand_backs(stage: Stage) -> None:
    """A message that was handed back many times before it ever failed still gets its attempts."""
    shop = await stage.shop()
    blocked = asyncio.Event()
    blocker = shop.handler(lambda event: blocked.wait())
    ids = await shop.many(4)
    for _ in range(5):
        subscription = await shop.subscribe(blocker, concurrency=1, prefetch=10)
        await blocker.until(lambda: blocker.running == 1, stage.soon)
        closing = asyncio.ensure_future(subscription.close())
        await stage.clock.sleep(0.2)
        blocked.set()
        await closing
        blocked.clear()
        if len(blocker.done) >= 3:
            break
    left = set(ids) - set(blocker.done)
    handler = shop.handler(lambda event: ValueError("no"))
    await shop.subscribe(handler, retry=Retry(attempts=3, delay=0.2, factor=1.0))
    await shop.until(lambda: len(handler.calls) >= 2 * len(left), 4 * stage.soon)
    await stage.clock.sleep(1.5)
    for id in left:
        assert handler.ids.count(id) >= 2, "a dead letter is written after failures here, not for hand-backs"
    assert {letter.id for letter in await shop.letters()} == left


@scenario("retry.long-delays-outlive-the-process", "kept virtual", level="promise")
async def outlives(stage: Stage) -> None:
    """A retry of ten minutes outlives the process that failed: another one gets it, in time, with its attempt."""
    first = await stage.shop()
    failing = first.handler(lambda event: RetryLater(600.0), "first")
    await first.subscribe(failing)
    receipt = await first.publish({"n": 1})
    await failing.until(lambda: failing.calls, stage.patience)
    await stage.clock.sleep(20.0)
    await stage.kill(first)
    second = await stage.shop()
    handler = second.handler(name="second")
    await second.subscribe(handler)
    await handler.until(lambda: handler.done, 600.0 + stage.soon)
    assert (handler.ids, handler.attempts) == ([receipt.id], [2])
    assert handler.calls[0].at - failing.calls[0].at >= 599.9


@scenario("retry.copies-keep-group-and-id", "many virtual", level="promise")
async def private(stage: Stage) -> None:
    """A retry concerns the group that failed alone: no other group sees the message again."""
    shop = await stage.shop(topic={"groups": ("billing", "audit")})
    failing = shop.handler(lambda event: RetryLater(90.0) if event.attempt == 1 else None)
    audit = shop.handler()
    await shop.subscribe(failing, "billing")
    await shop.subscribe(audit, "audit")
    receipt = await shop.publish({"n": 1}, headers={"trace": "kept"})
    await failing.until(lambda: len(failing.done) == 1, 90.0 + stage.soon)
    assert failing.ids == [receipt.id] * 2
    assert failing.gaps[0] >= 90.0
    assert dict(failing.calls[1].event.headers)["trace"] == "kept"
    await stage.clock.sleep(0.5)
    assert audit.ids == [receipt.id]


@scenario("retry.a-log-is-not-held-up", "kept watermark", level="promise")
async def moved_aside(stage: Stage) -> None:
    """On a log what waits long for its next attempt is moved aside: a held message would hold up the mark of others."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: RetryLater(25.0))
    await shop.subscribe(handler)
    await shop.publish({"n": 1})
    await handler.called(1, stage.patience)
    began = stage.clock.now()
    await shop.until(lambda: shop.tap.of("settle", purpose=Purpose.EVENTS), 15.0)
    assert stage.clock.now() - began <= 15.0, "long before its next attempt"
    assert shop.tap.of("send", purpose=Purpose.RETRY), "and not without a copy"
