"""Many at a time: batches for handlers, records for calls, calls for small windows."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from ductape import Event, Retry
from ductape.adapter import Limits, Purpose
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage
from ductape_conformance._tap import Call


@scenario("batch.fills-or-lingers", level="promise")
async def lingers(stage: Stage) -> None:
    """A batch that is full is handled at once; one that is not waits for `batch_wait`, and no longer."""
    shop = await stage.shop()
    batches: list[list[Event[Any]]] = []
    times: list[float] = []

    async def handle(events: list[Event[Any]]) -> None:
        batches.append(events)
        times.append(shop.clock.now())

    await shop.subscribe(handle, concurrency=1, batch=10, batch_wait=3.0)
    began = shop.clock.now()
    ids = await shop.many(25)
    await shop.until(lambda: len(batches) >= 2)
    full = shop.clock.now()
    await shop.until(lambda: sum(map(len, batches)) >= 25, 3.0 + stage.patience)
    assert [len(one) for one in batches] == [10, 10, 5]
    assert full - began < 3.0, "a full batch waits for nothing"
    assert times[2] - began >= 2.9, "what is not full waits for more"
    assert sorted(event.id for one in batches for event in one) == sorted(ids), "each once"
    began = shop.clock.now()
    await shop.many(9)
    await shop.many(1)
    await shop.until(lambda: len(batches) == 4)
    assert times[3] - began < 2.5, "the tenth lets it go"


@scenario("batch.fails-as-one", "kept", level="promise")
async def fails(stage: Stage) -> None:
    """A batch whose handler fails is tried again, all of it, each message with its own attempts; nothing is lost."""
    shop = await stage.shop()
    seen: list[tuple[str, int]] = []

    async def handle(events: list[Event[Any]]) -> None:
        seen.extend((event.id, event.attempt) for event in events)
        if any(event.attempt == 1 for event in events):
            raise ValueError("not yet")

    await shop.subscribe(handle, concurrency=1, batch=5, batch_wait=0.2, retry=Retry(delay=0.3))
    ids = await shop.many(10)
    await shop.until(lambda: {id for id, attempt in seen if attempt == 2} == set(ids), 4 * stage.soon)
    await stage.clock.sleep(0.5)
    assert {attempt for _, attempt in seen} <= {1, 2, 3}
    assert await shop.letters() == []


@scenario("bounds.small-windows-make-few-calls", "kept", level="promise")
async def few(stage: Stage) -> None:
    """With a small window and quick handlers the broker is asked a few times for many messages, not once for each."""
    shop = await stage.shop()
    # Handlers end one by one, not all at a time.
    handler = shop.handler(lambda event: shop.clock.sleep(0.002 + 0.0007 * (event.message["n"] % 7)))
    await shop.many(400)
    await shop.subscribe(handler, concurrency=8, prefetch=16)
    await handler.until(lambda: len(handler.done) >= 400, 2 * stage.patience)
    # A quarter of the window is four: four hundred messages are a hundred calls, when every one of them is that small.
    received = [call for call in shop.tap.of("receive", purpose=Purpose.EVENTS) if call.answer]
    settled = shop.tap.of("settle", purpose=Purpose.EVENTS)
    assert len(received) <= 150, f"{len(received)} calls brought 400 messages"
    assert len(settled) <= 200, f"{len(settled)} calls settled 400 messages"
    assert shop.tap.broken == []


@scenario("kernel.keyless-records-fill-calls", level="promise")
async def fills(stage: Stage) -> None:
    """Records without a key fill one call after the other, however many calls a sender takes at a time."""
    shop = await stage.shop()

    async def small(call: Call) -> object:
        made = await call.proceed()
        made.limits = msgspec.structs.replace(made.limits, records=min(made.limits.records, 50))
        return made

    async def slow(call: Call) -> object:
        await shop.clock.sleep(0.05)
        return await call.proceed()

    shop.tap.rules |= {"sender": small, "send": slow}
    await shop.publish({"n": -1})
    before = len(shop.tap.of("send"))
    await asyncio.gather(*(shop.publish({"n": n}) for n in range(200)))
    sizes = [len(call.args[0]) for call in shop.tap.of("send")[before:]]
    assert sum(sizes) == 200
    # One call may leave with the first record alone, while the others still come.
    assert len(sizes) <= 8, f"200 records took {len(sizes)} calls of {sizes}, and 50 fit into one"


@scenario("bounds.what-is-dropped-is-counted", "!groups", level="promise")
async def dropped(stage: Stage) -> None:
    """Where nothing is kept, what a full buffer drops is counted in health: handled and dropped are all there was."""
    shop = await stage.shop()
    go = asyncio.Event()
    handler = shop.handler(lambda event: go.wait())
    await shop.subscribe(handler, concurrency=1, prefetch=4)
    for _ in range(40):
        await shop.many(500)
    go.set()
    last = -1
    while last != len(handler.done):
        last = len(handler.done)
        await stage.clock.sleep(1.0)
    (health,) = (await shop.client.health()).subscriptions
    assert len(handler.done) + health.dropped == 20_000, f"{len(handler.done)} handled, {health.dropped} dropped"


@scenario("kernel.calls-keep-to-the-limits", level="promise")
async def within_limits(stage: Stage) -> None:
    """No call carries more records or bytes than the sender's limits, and no more calls run at a time."""
    shop = await stage.shop()
    limits = Limits(records=7, bytes=2500, calls=2)
    running = peak = 0

    async def small(call: Call) -> object:
        made = await call.proceed()
        made.limits = limits
        return made

    async def slow(call: Call) -> object:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await shop.clock.sleep(0.01)
        try:
            return await call.proceed()
        finally:
            running -= 1

    shop.tap.rules |= {"sender": small, "send": slow}
    handler = shop.handler()
    await shop.subscribe(handler)
    await shop.publish("first")
    texts = ["x" * (10 if n % 10 else 900) for n in range(60)]
    # Callers of their own: what `publish_many` hands over together is cut into calls in the same way.
    await asyncio.gather(*(shop.publish(text, key=f"k{n % 6}") for n, text in enumerate(texts)))
    calls = [call.args[0] for call in shop.tap.of("send", purpose=Purpose.EVENTS)]
    assert max(map(len, calls)) <= limits.records
    assert max(sum(one.size for one in call) for call in calls if len(call) > 1) <= limits.bytes
    assert peak <= limits.calls
    await handler.handled(61, stage.patience)
