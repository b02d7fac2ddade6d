"""Promise 5: order by key, through failures, members and crashes."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

from ductape import Event, Retry
from ductape_conformance._scenario import scenario
from ductape_conformance._shop import Handled
from ductape_conformance._stage import Stage
from ductape_conformance._tap import Call

TOPIC = {"groups": ("billing",), "order": "key"}


def key(message: dict[str, int]) -> str:
    """Return a message's key: ten of them."""
    return f"k{message['n'] % 10}"


@scenario("lanes.order-survives-failures", "order kept", level="promise")
async def failures(stage: Stage) -> None:
    """Events of a key are handled one at a time, as published, also across retries; keys run in parallel."""
    shop = await stage.shop(topic=TOPIC)
    running: Counter[str | None] = Counter()
    done: dict[str | None, list[int]] = defaultdict(list)
    failed: set[int] = set()
    peak = 0

    async def act(event: Event[dict[str, int]]) -> object:
        nonlocal peak
        number = event.message["n"]
        running[event.key] += 1
        assert running[event.key] == 1, "two of one key at a time"
        peak = max(peak, sum(running.values()))
        await shop.clock.sleep(0.01 if number % 3 else 0.03)
        running[event.key] -= 1
        if number % 7 == 0 and number not in failed:
            failed.add(number)
            return ValueError("once")
        done[event.key].append(number)
        return None

    handler = shop.handler(act)
    await shop.many(100, key=key)
    await shop.subscribe(handler, order="key", concurrency=16, retry=Retry(delay=0.05, factor=1.0))
    await handler.until(lambda: len(handler.done) >= 100, stage.soon + stage.patience)
    assert all(numbers == sorted(set(numbers)) for numbers in done.values()), dict(done)
    assert (sum(map(len, done.values())), len(done)) == (100, 10)
    assert len(failed) == 15
    assert peak > 1, "different keys run in parallel"


@scenario("lanes.order-over-two-members", "order kept", level="promise")
async def members(stage: Stage) -> None:
    """With two members events of a key still run one at a time, wherever, and in the order of publishing."""
    shops = [await stage.shop(topic=TOPIC), await stage.shop(topic=TOPIC)]
    running: Counter[str | None] = Counter()
    done: dict[str | None, list[int]] = defaultdict(list)

    async def act(event: Event[dict[str, int]]) -> None:
        running[event.key] += 1
        assert running[event.key] == 1, "two of one key at a time"
        await shops[0].clock.sleep(0.01 if event.message["n"] % 3 else 0.03)
        running[event.key] -= 1
        done[event.key].append(event.message["n"])

    handler = shops[0].handler(act)
    for shop in shops:
        await shop.subscribe(handler, order="key", concurrency=4, prefetch=8)
    await shops[0].many(100, key=key)
    await handler.until(lambda: len(handler.done) >= 100, stage.soon + stage.patience)
    assert {lane: numbers for lane, numbers in done.items() if numbers != sorted(set(numbers))} == {}
    assert sum(map(len, done.values())) == 100
    assert set(handler.attempts) == {1}


@scenario("lanes.order-survives-a-crash", "order kept", level="promise")
async def crash(stage: Stage) -> None:
    """A member dies with a full window: the next one handles what is left of each key in order."""
    first = await stage.shop(topic=TOPIC)
    handled = first.handler(lambda event: first.clock.sleep(0.02), "first")
    await first.subscribe(handled, order="key", concurrency=8)
    await first.many(100, key=key)
    await handled.until(lambda: len(handled.done) >= 30, stage.patience)
    await stage.kill(first)
    before = {one.event.message["n"] for one in handled.calls if one.id in handled.done}
    second = await stage.shop(topic=TOPIC)
    handler = second.handler(name="second")
    await second.subscribe(handler, order="key", concurrency=8)
    rest = set(range(100)) - before
    await handler.until(lambda: {one["n"] for one in handler.messages} >= rest, stage.soon + stage.patience)
    lanes: dict[str | None, list[int]] = defaultdict(list)
    for one in handler.calls:
        lanes[one.event.key].append(one.event.message["n"])
    assert {lane: numbers for lane, numbers in lanes.items() if numbers != sorted(set(numbers))} == {}


@scenario("lanes.a-failing-key-holds-up-no-other", "order kept", level="promise")
async def blocked(stage: Stage) -> None:
    """A key whose head fails waits for it; all others go on."""
    shop = await stage.shop(topic=TOPIC)
    handler = shop.handler(
        lambda event: ValueError("not yet") if event.key == "bad" and len(handler.calls) == 1 else None
    )
    number = 60 if stage.can.order_locks else 20  # else what waits behind a failure keeps its place in the window
    await shop.client.event.publish_many(shop.name, [{"n": n} for n in range(number)], key=lambda message: "bad")
    await shop.subscribe(handler, order="key", concurrency=4, prefetch=64, retry=Retry(delay=3.0))
    await handler.until(lambda: handler.calls, stage.patience)
    began = stage.clock.now()
    await shop.many(20, key=lambda message: f"good{message['n']}")

    def good() -> list[Handled]:
        return [one for one in handler.calls if one.event.key != "bad"]

    await handler.until(lambda: len(good()) >= 20, stage.patience)
    if not stage.can.watermark:  # a partition's keys share its mark and its window
        assert stage.clock.now() - began < 3.0
    await handler.until(lambda: len(handler.done) >= number + 20, 10 * stage.patience)
    bad = [one.event.message["n"] for one in handler.calls if one.event.key == "bad" and one.id in handler.done]
    assert bad[0] == bad[1] == 0, "its head first, twice"
    assert bad == sorted(bad)


@scenario("lanes.stopping-keeps-the-order", "order kept", level="promise")
async def stopping(stage: Stage) -> None:
    """A member that closes under load hands its keys over in order: the next one overtakes nothing."""
    first = await stage.shop(topic=TOPIC)
    log: dict[str | None, list[int]] = defaultdict(list)

    async def act(event: Event[dict[str, int]]) -> None:
        await first.clock.sleep(0.02)
        log[event.key].append(event.message["n"])

    handled = first.handler(act, "first")
    await first.subscribe(handled, order="key", concurrency=8)
    await first.many(100, key=key)
    await handled.until(lambda: len(handled.done) >= 30, stage.patience)
    second = await stage.shop(topic=TOPIC)
    handler = second.handler(act, "second")
    await second.subscribe(handler, order="key", concurrency=8)
    await first.close(5.0)
    await handler.until(lambda: sum(map(len, log.values())) >= 100, stage.soon + stage.patience)
    assert {lane: numbers for lane, numbers in log.items() if numbers != sorted(set(numbers))} == {}


@scenario("lanes.order-survives-cuts", "order kept cut", level="promise")
async def cuts(stage: Stage) -> None:
    """Connections are cut under load: nothing of a key overtakes, whether it is stored again or delivered again."""
    shop = await stage.shop(topic=TOPIC)

    async def slow(call: Call) -> object:
        await shop.clock.sleep(0.03)
        return await call.proceed()

    shop.tap.rules["send"] = slow  # so that others of a key wait behind each call
    handler = shop.handler(lambda event: shop.clock.sleep(0.01))
    await shop.subscribe(handler, order="key", concurrency=8)
    publishing: list[asyncio.Future[Any]] = []

    async def load() -> None:  # without waiting for an answer
        for turn in range(30):
            for lane in range(5):
                call = shop.publish({"n": turn}, key=f"k{lane}", timeout=25.0)
                publishing.append(asyncio.ensure_future(call))
            await stage.clock.sleep(0.02)

    async def cut() -> None:
        for wanted in (30, 60, 90):
            await handler.handled(wanted, stage.patience + stage.soon)
            await stage.harness.cut()

    await asyncio.gather(cut(), load())
    receipts = await asyncio.gather(*publishing)
    await handler.until(lambda: set(handler.done) >= {one.id for one in receipts}, stage.soon + 2 * stage.patience)
    highest: dict[str | None, int] = defaultdict(lambda: -1)
    for one in handler.calls:
        number, lane = one.event.message["n"], one.event.key
        assert number <= highest[lane] + 1, f"{number} of {lane} comes after {highest[lane]}"
        highest[lane] = max(highest[lane], number)
