"""Promises 6 and 7: concurrency, window, leases, and handlers that hang."""

from __future__ import annotations

import asyncio

from ductape import Retry
from ductape.adapter import AdapterError, Fault, Purpose
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage
from ductape_conformance._tap import Call


@scenario("bounds.handlers-and-window", level="promise")
async def hard(stage: Stage) -> None:
    """No more handlers run than `concurrency`, and no more messages are out than `prefetch`, whatever waits."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: shop.clock.sleep(0.01))
    await shop.subscribe(handler, concurrency=5, prefetch=12)
    await shop.many(150)
    await handler.until(lambda: len(handler.done) >= 150, stage.patience)
    assert handler.peak == 5
    peaks = [one.peak for one in shop.tap.receivers if one.channel.purpose is Purpose.EVENTS]
    assert max(peaks) <= 12
    assert shop.tap.broken == []


@scenario("bounds.the-kernel-asks-for-what-is-free", level="promise")
async def asks(stage: Stage) -> None:
    """`receive` is asked for no more than the window has room for, one call at a time, and never beside another."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: shop.clock.sleep(0.02))
    await shop.subscribe(handler, concurrency=2, prefetch=8)
    out = [0]

    async def watch(call: Call) -> object:
        found = await call.proceed()
        out[0] = max(out[0], len(call.target.out) + call.args[0])
        return found

    shop.tap.rules["receive"] = watch
    await shop.many(60)
    await handler.until(lambda: len(handler.done) >= 60, stage.patience)
    limits = [call.args[0] for call in shop.tap.of("receive") if call.args[0]]
    assert max(limits) <= 8
    assert shop.tap.broken == []


@scenario("bounds.unanswered-settlements-keep-their-place", "kept", level="promise")
async def unanswered(stage: Stage) -> None:
    """A delivery keeps its place in the window until its settlement is answered: a stalled broker is not flooded."""
    shop = await stage.shop()
    go = asyncio.Event()

    async def stall(call: Call) -> object:
        if call.purpose is Purpose.EVENTS and not go.is_set():
            await shop.clock.sleep(0.8)  # less than any bound of the call
        return await call.proceed()

    shop.tap.rules["settle"] = stall
    handler = shop.handler()
    await shop.subscribe(handler, concurrency=4, prefetch=10)
    await shop.many(60)
    await handler.until(lambda: handler.calls, stage.patience)
    await stage.clock.sleep(0.6)
    assert len(handler.calls) <= 10
    go.set()
    await handler.until(lambda: len(handler.done) >= 60, stage.patience + stage.soon)
    assert max(one.peak for one in shop.tap.receivers) <= 10


@scenario("bounds.a-refused-settlement-is-repeated-with-back-off", "kept", level="promise")
async def backs_off(stage: Stage) -> None:
    """A settlement answered TRANSIENT is sent again, with back-off, until it is done; no handler runs again."""
    shop = await stage.shop()
    left = [6]

    async def refuse(call: Call) -> object:
        if call.purpose is Purpose.EVENTS and left[0]:
            left[0] -= 1
            return [AdapterError(Fault.TRANSIENT, "not now") for _ in call.args[0]]
        return await call.proceed()

    shop.tap.rules["settle"] = refuse
    handler = shop.handler()
    await shop.subscribe(handler)
    began = stage.clock.now()
    await shop.publish({"n": 1})
    await shop.until(lambda: len(shop.tap.of("settle")) >= 7, stage.patience)
    assert stage.clock.now() - began >= 1.0, "not in a hot loop"
    await stage.clock.sleep(stage.can.lease * 1.5 if stage.can.lease else 1.0)
    assert len(handler.calls) == 1
    assert len(shop.tap.of("settle")) == 7


@scenario("lease.a-long-handler-keeps-it", "kept extend", level="promise")
async def long(stage: Stage) -> None:
    """A handler that runs longer than the lease keeps its message: another member does not get it."""
    lease = stage.can.lease or 0.0
    shops = [await stage.shop(), await stage.shop()]
    handler = shops[0].handler(lambda event: shops[0].clock.sleep(lease * 2.2))
    for shop in shops:
        await shop.subscribe(handler)
    await shops[0].publish({"n": 1})
    await handler.until(lambda: handler.done, lease * 2.2 + stage.patience)
    await stage.clock.sleep(stage.soon)
    assert handler.attempts == [1]


@scenario("lease.waiting-messages-keep-it", "kept extend", level="promise")
async def waiting(stage: Stage) -> None:
    """Messages that wait for a handler keep their lease as well, and are handled once."""
    lease = stage.can.lease or 0.0
    shops = [await stage.shop(), await stage.shop()]
    handler = shops[0].handler(lambda event: shops[0].clock.sleep(lease * 0.8))
    await shops[0].subscribe(handler, concurrency=1, prefetch=4)
    ids = await shops[0].many(4)
    await handler.until(lambda: handler.calls, stage.patience)
    await shops[1].subscribe(handler, concurrency=1, prefetch=4)
    await handler.until(lambda: len(handler.done) >= 4, lease * 6 + stage.patience)
    assert sorted(handler.ids) == sorted(ids)


@scenario("lease.what-was-lost-is-not-started", "kept extend !lease-shared", level="promise")
async def dropped(stage: Stage) -> None:
    """A message whose lease was lost before its handler ran is dropped: another member has it, it runs there alone."""
    first, second = await stage.shop(), await stage.shop()
    go, full = asyncio.Event(), asyncio.Event()

    async def receive(call: Call) -> object:
        if full.is_set():  # what lapses is for the other one
            await first.clock.sleep(0.2)
        return await call.proceed(0 if full.is_set() else call.args[0], min(call.args[1], 0.2))

    first.tap.rules["receive"] = receive
    handler = first.handler(lambda event: go.wait() if len(handler.calls) == 1 else None)
    await first.subscribe(handler, concurrency=1, prefetch=16)
    ids = await first.many(4)
    await handler.called(1, stage.patience)
    await first.until(lambda: sum(len(one.out) for one in first.tap.events) == 4)
    full.set()

    async def lapse(call: Call) -> object:
        mine = [one for one in call.args[0] if one.headers["ductape-id"] == handler.ids[0]]
        kept = iter(await call.proceed(mine) if mine else ())
        return [next(kept) if one in mine else AdapterError(Fault.LOST, "it lapsed") for one in call.args[0]]

    first.tap.rules["extend"] = lapse
    await second.subscribe(handler)
    await handler.handled(3, (stage.can.lease or 0.0) + stage.soon + stage.patience)
    go.set()
    await handler.handled(4, stage.patience)
    await stage.clock.sleep(0.5)
    assert sorted(handler.ids) == sorted(ids), "each once"


@scenario("bounds.a-hung-handler-is-ended", level="promise")
async def hung(stage: Stage) -> None:
    """A handler that hangs is ended by `timeout`, and the message is tried again; others are not held up for ever."""
    shop = await stage.shop()
    never = asyncio.Event()
    handler = shop.handler(lambda event: never.wait() if event.message["n"] == 0 and event.attempt == 1 else None)
    # A small window: where one late settlement ends all leases, the time for a whole window has to fit into one.
    await shop.subscribe(handler, concurrency=1, prefetch=8, timeout=1.0, retry=Retry(delay=0.2))
    ids = await shop.many(3)
    await handler.until(lambda: len(handler.done) >= 3, 4.0 + stage.soon)
    assert sorted(handler.done) == sorted(ids)
    assert len(handler.calls) == 4
    first = next(one.at for one in handler.calls if one.event.message["n"] == 0)
    others = [one.at for one in handler.calls if one.event.message["n"] != 0]
    assert min(others) - first < 5.0 or first > min(others)


@scenario("bounds.a-slow-subscription-holds-up-no-other", level="promise")
async def slow_one(stage: Stage) -> None:
    """A subscription whose handlers hang, its window full, holds up no other of its client; nor does closing it."""
    shop = await stage.shop()
    other = f"{stage.namespace}:other"
    await shop.client.broker.topic.create(tag=other, groups=("billing",))
    never = asyncio.Event()
    hung, quick = shop.handler(lambda event: never.wait(), "hung"), shop.handler(name="quick")
    group = {"group": "billing"} if shop.grouped else {}
    slow = await shop.subscribe(hung, concurrency=2, prefetch=4)
    await shop.client.event.subscribe(other, callback=quick, **group)
    await shop.many(20)
    await hung.called(2, stage.patience)
    twenty = [{"n": n} for n in range(20)]
    await shop.client.event.publish_many(other, twenty)
    await quick.handled(20, stage.patience)
    closing = asyncio.ensure_future(slow.close())
    await shop.client.event.publish_many(other, twenty)
    await quick.handled(40, stage.patience)
    assert not closing.done(), "it waits for its handlers"
    never.set()
    await closing
    assert len(quick.calls) == 40
