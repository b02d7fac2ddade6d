"""Promise 8: shutdown in order, bounded, with work in flight."""

from __future__ import annotations

import asyncio

import pytest

from ductape import RetryLater
from ductape.adapter import AdapterError, Count, Fault, Purpose
from ductape.errors import StateError
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage
from ductape_conformance._tap import Call


@scenario("stop.finishes-what-runs-returns-the-rest", "kept", level="promise")
async def finishes(stage: Stage) -> None:
    """Closing lets running handlers finish, starts nothing more, and hands the rest back at once, uncounted."""
    first, second = await stage.shop(), await stage.shop()
    go = asyncio.Event()
    slow = first.handler(lambda event: go.wait(), "first")
    subscription = await first.subscribe(slow, concurrency=4)
    ids = await first.many(20)
    await slow.until(lambda: len(slow.calls) == 4, stage.patience)
    closing = asyncio.ensure_future(subscription.close())
    await stage.clock.sleep(0.3)
    if stage.can.watermark:  # a partition is handed over when what runs there is done
        go.set()
    quick = second.handler(name="second")
    await second.subscribe(quick)
    if not stage.can.watermark:
        await quick.until(lambda: len(quick.done) == 16, stage.soon)
    go.set()
    await closing
    await quick.until(lambda: len(quick.done) == 16, stage.soon)
    await stage.clock.sleep(0.5)
    assert len(slow.calls) == 4
    assert sorted(slow.done + quick.ids) == sorted(ids)
    if stage.can.count is not Count.APPROXIMATE:
        assert set(quick.attempts) == {1}, "a hand-back is no attempt"


@scenario("stop.what-overstays-goes-to-others", "kept", level="promise")
async def overstays(stage: Stage) -> None:
    """A handler that does not end within the grace time does not hold up closing; its message is handled elsewhere."""
    first = await stage.shop()
    never = asyncio.Event()
    slow = first.handler(lambda event: never.wait(), "first")
    await first.subscribe(slow)
    (id,) = await first.many(1)
    await slow.until(lambda: slow.calls, stage.patience)
    began = stage.clock.now()
    await first.close(1.0)
    assert stage.clock.now() - began < 1.0 + 15.0
    second = await stage.shop()
    quick = second.handler(name="second")
    await second.subscribe(quick)
    await quick.until(lambda: quick.done, stage.soon + stage.patience)
    assert quick.ids == [id]


@scenario("stop.waiting-retries-keep-their-time", "kept", level="promise")
async def parked(stage: Stage) -> None:
    """A retry that waits in a process that closes is not tried earlier than it asked, nor lost, nor begun anew."""
    first = await stage.shop()
    failing = first.handler(lambda event: RetryLater(3.0), "first")
    await first.subscribe(failing)
    (id,) = await first.many(1)
    await failing.until(lambda: failing.calls, stage.patience)
    await stage.clock.sleep(0.3)
    await first.close(2.0)
    second = await stage.shop()
    handler = second.handler(name="second")
    await second.subscribe(handler)
    await handler.until(lambda: handler.done, 3.0 + stage.soon + stage.patience)
    assert (handler.ids, handler.attempts) == ([id], [2])
    assert handler.calls[0].at - failing.calls[0].at >= 2.9


@scenario("stop.publishes-are-stored", "kept", level="promise")
async def publishes(stage: Stage) -> None:
    """Publishes that wait when the client closes are stored before it disconnects."""
    shop = await stage.shop()
    await shop.many(1)

    async def slow(call: Call) -> object:
        await shop.clock.sleep(0.05)
        return await call.proceed()

    shop.tap.rules["send"] = slow
    waiting = [asyncio.ensure_future(shop.publish({"n": n})) for n in range(50)]
    await asyncio.sleep(0)
    await shop.close(5.0)
    receipts = await asyncio.gather(*waiting)
    second = await stage.shop()
    handler = second.handler()
    await second.subscribe(handler)
    await handler.until(lambda: len(handler.done) >= 51, stage.patience)
    assert set(handler.ids) >= {one.id for one in receipts}


@scenario("stop.settlements-are-flushed", "kept", level="promise")
async def flushed(stage: Stage) -> None:
    """What was handled before closing is settled before it disconnects: it does not come again."""
    first = await stage.shop()
    handled = first.handler()
    await first.subscribe(handled)
    await first.many(50)
    await handled.until(lambda: len(handled.done) >= 50, stage.patience)
    await first.close(5.0)
    second = await stage.shop()
    handler = second.handler()
    await second.subscribe(handler)
    await stage.clock.sleep(stage.soon)
    assert handler.ids == []


@scenario("stop.asks-in-order", "groups", level="promise")
async def ordered(stage: Stage) -> None:
    """The receiver is asked to stop, then what is left is settled, then it is closed, then the connection."""
    shop = await stage.shop()
    go = asyncio.Event()
    handler = shop.handler(lambda event: go.wait())
    await shop.subscribe(handler, concurrency=2)
    await shop.many(10)
    await handler.until(lambda: len(handler.calls) == 2, stage.patience)
    closing = asyncio.ensure_future(shop.client.close(5.0))
    await stage.clock.sleep(0.2)
    go.set()
    await closing
    (receiver,) = [one for one in shop.tap.receivers if one.channel.purpose is Purpose.EVENTS]
    calls = [call for call in shop.tap.calls if call.target in (receiver, receiver.tap.connections[0])]
    names = [call.method for call in calls if call.method in ("stop", "settle", "close")]
    assert names[-2:] == ["close", "close"]
    assert "stop" in names[:-2]
    assert not receiver.out, "everything was settled"
    assert len(handler.calls) == 2
    with pytest.raises(StateError):
        await shop.publish({"n": 0})


@scenario("stop.bounded-while-the-server-is-silent", "kept stall", level="promise")
async def silent(stage: Stage) -> None:
    """Closing ends within its bounds while the server answers nothing."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler)
    await shop.publish({"n": 1})
    await handler.until(lambda: handler.done, stage.patience)
    await stage.harness.stall()
    began = stage.clock.now()
    await shop.close(1.0)
    assert stage.clock.now() - began < 30.0
    await stage.harness.resume()


@scenario("stop.bounded-while-settling-fails", "kept", level="promise")
async def failing(stage: Stage) -> None:
    """Closing ends within its bounds, without a hot loop, while every settlement fails."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler)

    async def gone(call: Call) -> object:
        raise AdapterError(Fault.TRANSIENT, "the server is away")

    shop.tap.rules["settle"] = gone
    await shop.many(5)
    await handler.until(lambda: len(handler.done) >= 5, stage.patience)
    began, before = stage.clock.now(), len(shop.tap.of("settle"))
    await shop.close(1.0)
    assert stage.clock.now() - began < 30.0
    assert len(shop.tap.of("settle")) - before < 60
