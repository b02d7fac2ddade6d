"""How the kernel uses an adapter: what third parties may rely on, and what was learnt on real servers."""

from __future__ import annotations

import asyncio

import msgspec

from ductape import Reject, Retry, RetryLater
from ductape.adapter import AdapterError, Fault, Groups, Purpose
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage
from ductape_conformance._tap import Call, TapReceiver


@scenario("kernel.declares-before-it-opens", "many", level="promise")
async def declares(stage: Stage) -> None:
    """Every group of a topic is declared before each sender and receiver, reopening included."""
    shop = await stage.shop(topic={"groups": ("billing", "audit")})
    handler = shop.handler()
    await shop.subscribe(handler)
    await shop.publish({"n": 1})
    await handler.until(lambda: handler.done, stage.patience)
    broken = [True]

    async def lose(call: Call) -> object:
        if broken.pop() if broken else False:
            raise AdapterError(Fault.LOST, "on demand")
        return await call.proceed()

    shop.tap.rules["receive"] = lose
    await shop.publish({"n": 2})
    await shop.until(lambda: len(shop.tap.events) == 2, stage.patience + 10.0)
    declared: set[str] = set()
    for call in shop.tap.of("declare", "sender", "receiver", purpose=Purpose.EVENTS):
        if call.method == "declare":
            declared.add(call.channel.group if call.channel is not None else "")
        else:
            assert declared >= {"billing", "audit"}, f"before {call.method}"
            declared.clear()


@scenario("kernel.declares-again-every-minute", "many virtual", level="promise")
async def minutely(stage: Stage) -> None:
    """A publisher declares its groups again every minute or so: what a lost group gets is not lost for long."""
    shop = await stage.shop(topic={"groups": ("billing", "audit")})
    await shop.publish({"n": 1})
    before = len(shop.tap.of("declare"))
    for _ in range(4):
        await stage.clock.sleep(61.0)
        await shop.publish({"n": 1})
    assert len(shop.tap.of("declare")) >= before + 6, "two groups, three minutes"


@scenario("kernel.nothing-runs-beside-settle", "kept extend", level="promise")
async def alone(stage: Stage) -> None:
    """`settle` never runs beside `extend` or itself, and `receive` is one call at a time, however slow they are."""
    shop = await stage.shop()

    lease = stage.can.lease or 0.0

    async def slow(call: Call) -> object:
        await shop.clock.sleep(lease / 20)
        return await call.proceed()

    for method in ("settle", "extend"):
        shop.tap.rules[method] = slow
    # Some hold their lease for long, and others are settled all the while.
    handler = shop.handler(lambda event: shop.clock.sleep(lease * (1.3 if event.message["n"] < 3 else 0.01)))
    await shop.subscribe(handler, concurrency=8)
    await shop.many(400)
    await handler.until(lambda: len(handler.done) >= 400, lease * 4 + stage.patience)
    assert shop.tap.of("extend")
    assert shop.tap.broken == []


@scenario("kernel.a-lost-receiver-is-replaced", "kept", level="promise")
async def replaced(stage: Stage) -> None:
    """When a receiver is lost nothing of its epoch is started or settled; all of it is handled through the next."""
    shop = await stage.shop()
    fuse, go = asyncio.Event(), asyncio.Event()
    lost: list[TapReceiver] = []

    async def receive(call: Call) -> object:
        if call.purpose is Purpose.EVENTS and fuse.is_set() and (not lost or lost[0] is call.target):
            lost.append(call.target)
            raise AdapterError(Fault.LOST, "connection reset")
        return await call.proceed(call.args[0], min(call.args[1], 0.5))

    shop.tap.rules["receive"] = receive
    handler = shop.handler(lambda event: go.wait())
    await shop.subscribe(handler, concurrency=4, prefetch=10)
    ids = await shop.many(8)
    await handler.until(lambda: len(handler.calls) == 4, stage.patience)
    await stage.clock.sleep(0.2)
    fuse.set()
    await shop.until(lambda: lost and len(shop.tap.events) == 2, stage.patience + 15.0)
    began, first = len(handler.calls), shop.tap.events[0]
    settled = [call for call in shop.tap.of("settle") if call.target is first]
    go.set()
    await shop.until(lambda: all(handler.done.count(id) for id in ids), stage.soon + stage.patience)
    assert len(handler.calls) >= began
    assert settled == [call for call in shop.tap.of("settle") if call.target is first], "its epoch is over"
    assert shop.tap.broken == []
    assert first.closed


@scenario("kernel.a-late-receiver-is-closed", "kept virtual", level="promise")
async def late(stage: Stage) -> None:
    """A receiver that arrives after its opening was abandoned is closed: it does not attract messages unread."""
    shop = await stage.shop()
    first = [True]

    async def slow(call: Call) -> object:
        if first.pop() if first else False:
            await shop.clock.sleep(75.0)
        return await call.proceed()

    shop.tap.rules["receiver"] = slow
    handler = shop.handler()
    for _ in range(3):
        try:
            await shop.subscribe(handler)
            break
        except Exception:
            await shop.clock.sleep(1.0)
    await shop.clock.sleep(80.0)
    ids = await shop.many(40, key=lambda message: f"k{message['n']}")
    await handler.until(lambda: len(handler.done) >= 40, stage.soon + stage.patience)
    assert sorted(handler.ids) == sorted(ids)
    assert [one.closed for one in shop.tap.events].count(False) == 1


@scenario("kernel.a-drained-epoch-starts-nothing", "kept", level="promise")
async def drained(stage: Stage) -> None:
    """Draining an epoch waits for what runs alone: waiting retries and queued messages are dropped at once."""
    shop = await stage.shop()
    go = asyncio.Event()
    handler = shop.handler(lambda event: go.wait() if event.message["n"] == 0 else RetryLater(4.0))
    await shop.subscribe(handler, concurrency=3, prefetch=10)
    await shop.many(8)
    await handler.until(lambda: len(handler.calls) >= 4, stage.patience)
    await stage.clock.sleep(0.2)
    held = [one for receiver in shop.tap.receivers for one in receiver.out]
    epochs = {one.epoch for one in held}
    began, calls = stage.clock.now(), len(handler.calls)
    drains = [asyncio.ensure_future(epoch.drain(10.0)) for epoch in epochs]
    await stage.clock.sleep(0.1)
    go.set()
    left = await asyncio.gather(*drains)
    assert stage.clock.now() - began < 2.0
    assert sum(left) == 0
    assert len(handler.calls) == calls
    assert all(epoch.held == 0 for epoch in epochs)


@scenario("kernel.ended-epochs-are-counted-off", "kept", level="promise")
async def counted(stage: Stage) -> None:
    """When an epoch ends with work running, its place in the window is freed: nothing leaks."""
    shop = await stage.shop()
    go = asyncio.Event()
    handler = shop.handler(lambda event: go.wait() if len(handler.calls) <= 6 else None)
    subscription = await shop.subscribe(handler, concurrency=6, prefetch=20)
    await shop.many(6)
    await handler.until(lambda: len(handler.calls) == 6, stage.patience)
    epochs = {one.epoch for receiver in shop.tap.receivers for one in receiver.out}
    for epoch in epochs:
        epoch.end()
    go.set()
    await shop.until(lambda: all(epoch.held == 0 for epoch in epochs), stage.patience)
    health = await shop.client.health()
    assert [one.in_hand for one in health.subscriptions] == [0]
    assert subscription.stats() is not None
    assert shop.tap.broken == []
    settled = [one for call in shop.tap.of("settle") for one in call.args[0] if one.delivery.epoch in epochs]
    assert settled == [], "nothing of a dead epoch is settled"


@scenario("kernel.copies-deduplicate-by-themselves", "groups", level="promise")
async def copies(stage: Stage) -> None:
    """A copy for the dead letters carries another deduplication mark than the original, and the same id."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: Reject("no"))
    await shop.subscribe(handler)
    receipt = await shop.publish({"n": 1})
    await shop.until(lambda: shop.tap.of("send", purpose=Purpose.DEAD), stage.patience)
    records = [record for call in shop.tap.of("send") for record in call.args[0]]
    assert {one.id for one in records} == {receipt.id}
    assert len({one.dedup for one in records}) == len(records) == 2
    assert all(one.dedup for one in records)
    assert records[1].origin is not None


@scenario("kernel.delays-only-as-far-as-declared", "kept virtual", level="promise")
async def no_further(stage: Stage) -> None:
    """No record and no settlement is given a longer delay than its channel declares."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: RetryLater(event.message["n"]) if event.attempt == 1 else None)
    await shop.subscribe(handler)
    for seconds in (1, 40, 4000):
        await shop.publish({"n": seconds})
    await handler.until(lambda: len(handler.done) == 3, 4000.0 + 10 * stage.soon)
    for call in shop.tap.of("send"):
        can = shop.tap.connections[0].capabilities(call.channel) if call.channel is not None else stage.can
        assert all(record.delay <= can.send_delay for record in call.args[0])
    for call in shop.tap.of("settle"):
        can = shop.tap.connections[0].capabilities(call.channel) if call.channel is not None else stage.can
        assert all(one.delay <= can.retry_delay for one in call.args[0])
    by = {one.event.message["n"]: one.at for one in handler.calls if one.attempt == 1}
    assert all(
        one.at - by[one.event.message["n"]] >= one.event.message["n"] for one in handler.calls if one.attempt == 2
    )


@scenario("kernel.a-refused-record-fails-alone", "groups", level="promise")
async def alone_refused(stage: Stage) -> None:
    """A record that the broker refuses fails its own publish, at once; those beside it are stored."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler)

    async def pick(call: Call) -> object:
        records = call.args[0]
        good = [one for one in records if one.key != "bad"]
        answers = iter(await call.proceed(good) if good else [])
        bad = AdapterError(Fault.MESSAGE, "refused")
        return [bad if one.key == "bad" else next(answers) for one in records]

    shop.tap.rules["send"] = pick
    keys = [None, "bad", None, "bad", None]
    results = await asyncio.gather(
        *(shop.publish({"n": n}, key=key) for n, key in enumerate(keys)), return_exceptions=True
    )
    assert [isinstance(one, Exception) for one in results] == [False, True, False, True, False]
    await handler.until(lambda: len(handler.done) == 3, stage.patience)
    assert sorted(one["n"] for one in handler.messages) == [0, 2, 4]


@scenario("kernel.counts-of-hand-backs-bury-nothing", "kept", level="promise")
async def approximate(stage: Stage) -> None:
    """A broker's high count alone buries nothing below the crash guard: a letter is written after failures here."""
    shop = await stage.shop()

    async def inflate(call: Call) -> object:
        found = await call.proceed()
        for one in found:
            if one.count is not None and call.purpose is Purpose.EVENTS:
                one.count += 3
        return found

    from ductape.adapter import Count

    if stage.can.count is Count.APPROXIMATE:
        shop.tap.rules["receive"] = inflate
    handler = shop.handler(lambda event: ValueError("no") if len(handler.calls) == 1 else None)
    await shop.subscribe(handler, retry=Retry(attempts=3, delay=0.2))
    await shop.publish({"n": 1})
    await handler.until(lambda: handler.done, 2 * stage.soon)
    assert len(handler.calls) == 2
    assert await shop.letters() == []


@scenario("kernel.capabilities-are-read-after-declaring", level="promise")
async def read_after(stage: Stage) -> None:
    """What a channel can do is asked when it has been declared: before, an adapter may know nothing of it."""
    shop = await stage.shop()
    declared: set[tuple[str, str, str]] = set()

    async def declare(call: Call) -> None:
        await call.proceed()
        declared.add(call.args[0].identity)

    shop.tap.rules["declare"] = declare
    shop.tap.claims = lambda channel, can: (
        can
        if channel.identity in declared
        else msgspec.structs.replace(can, groups=Groups.NONE, max_headers=0, max_body=1)
    )
    handler = shop.handler()
    await shop.subscribe(handler)
    ids = await shop.many(3, headers={"trace": "kept"})
    await handler.handled(3, stage.patience)
    assert sorted(handler.ids) == sorted(ids)
