"""Promises 1 and 2: what was confirmed reaches every group, and nothing is settled before it was processed."""

from __future__ import annotations

import asyncio

from ductape import Retry
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage


@scenario("delivery.publish-and-handle", level="promise")
async def once(stage: Stage) -> None:
    """Without failures every published message is handled exactly once, however many callers publish at a time."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler, concurrency=16)
    receipts = await asyncio.gather(*(shop.publish({"n": n}) for n in range(200)))
    await handler.until(lambda: len(handler.done) >= 200, stage.patience)
    await stage.clock.sleep(0.5)
    assert sorted(handler.ids) == sorted(one.id for one in receipts)
    assert sorted(one["n"] for one in handler.messages) == list(range(200))
    assert set(handler.attempts) == {1}
    assert shop.tap.broken == []


@scenario("delivery.each-group-of-the-topic", "many", level="promise")
async def groups(stage: Stage) -> None:
    """What was published before any subscription opened reaches every group that the topic names."""
    shop = await stage.shop(topic={"groups": ("billing", "audit")})
    ids = await shop.many(20)
    for group in ("billing", "audit"):
        handler = shop.handler()
        await shop.subscribe(handler, group)
        await handler.handled(20, stage.patience)
        assert sorted(handler.ids) == sorted(ids)


@scenario("delivery.members-share", "groups", level="promise")
async def share(stage: Stage) -> None:
    """Two clients of one group handle each message once between them."""
    first, second = await stage.shop(), await stage.shop()
    handler = first.handler()
    for shop in (first, second):
        await shop.subscribe(handler)
    ids = await first.many(100, key=lambda message: f"k{message['n']}")
    await handler.until(lambda: len(handler.done) >= 100, stage.soon + stage.patience)
    await stage.clock.sleep(0.5)
    assert sorted(handler.ids) == sorted(ids)


@scenario("delivery.not-settled-before-processed", "kept", level="promise")
async def processed(stage: Stage) -> None:
    """A message whose handler still runs when its process dies is handled by another process."""
    first = await stage.shop()
    hang = asyncio.Event()
    started = first.handler(lambda event: hang.wait(), "first")
    await first.subscribe(started, concurrency=4)
    ids = await first.many(3)
    await started.until(lambda: len(started.calls) == 3, stage.patience)
    await stage.kill(first)
    second = await stage.shop()
    handler = second.handler(name="second")
    await second.subscribe(handler)
    await handler.until(lambda: len(handler.done) >= 3, stage.soon + stage.patience)
    assert sorted(handler.ids) == sorted(ids)
    hang.set()


@scenario("delivery.a-dead-consumer-loses-nothing", "kept", level="promise")
async def dies(stage: Stage) -> None:
    """A consumer that dies in the middle of its work loses nothing: everything is handled by it or by another."""
    first = await stage.shop()
    handled = first.handler(lambda event: first.clock.sleep(0.02), "first")
    await first.subscribe(handled, concurrency=4)
    ids = await first.many(100)
    await handled.until(lambda: len(handled.done) >= 20, stage.patience)
    await stage.kill(first)
    done = set(handled.done)
    second = await stage.shop()
    handler = second.handler(name="second")
    await second.subscribe(handler)
    await handler.until(lambda: done | set(handler.done) >= set(ids), stage.soon + stage.patience)
    assert len(handler.ids) == len(set(handler.ids)), "the second one handles nothing twice"


@scenario("delivery.members-come-and-go", "kept", level="promise")
async def rebalance(stage: Stage) -> None:
    """Members that join and leave under load lose nothing, and what they finished in order is not handled twice."""
    staying = await stage.shop()
    handler = staying.handler(lambda event: staying.clock.sleep(0.1))  # more than they can: guests leave amid it
    await staying.subscribe(handler)
    ids: list[str] = []

    async def publish() -> None:
        for _ in range(10):
            ids.extend(await staying.many(20, key=lambda message: f"k{message['n']}"))
            await staying.clock.sleep(0.1)

    publishing = asyncio.ensure_future(publish())
    for _ in range(3):
        guest = await stage.shop()
        await guest.subscribe(handler)
        await stage.clock.sleep(0.2)
        await guest.close(5.0)
    await publishing
    await handler.until(lambda: set(handler.done) >= set(ids), stage.soon + stage.patience)
    await stage.clock.sleep(0.5)
    assert sorted(handler.done) == sorted(ids)


@scenario("delivery.delayed-publish", "send-delay", level="promise")
async def delayed(stage: Stage) -> None:
    """A delayed publish is handled after its delay, and never before."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler)
    began = stage.clock.now()
    delay = min(2.0, stage.can.send_delay)
    await shop.publish({"n": 1}, delay=delay)
    await handler.until(lambda: handler.calls, delay + stage.soon)
    assert delay <= handler.calls[0].at - began <= delay + stage.soon


@scenario("delivery.a-lost-answer-keeps-the-id", "groups", level="promise")
async def resent(stage: Stage) -> None:
    """A publish whose answer was lost is resent with the same id and deduplication mark, and confirmed once."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler, retry=Retry(attempts=2))
    lost = shop.tap.lose_answers("send", 1)
    receipt = await shop.publish({"n": 1})
    await handler.until(lambda: handler.done, stage.patience)
    await stage.clock.sleep(0.5)
    assert lost() == 1
    assert set(handler.ids) == {receipt.id}
    records = [record for call in shop.tap.of("send") for record in call.args[0]]
    assert len(records) == 2
    assert len({(one.id, one.dedup) for one in records}) == 1
