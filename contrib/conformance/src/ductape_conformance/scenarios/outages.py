"""Promises 1 and 9 under faults: nothing confirmed is lost, and no call waits for ever."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from ductape.errors import OpenError, PublishError
from ductape_conformance._scenario import scenario
from ductape_conformance._shop import Shop
from ductape_conformance._stage import Stage


async def load(stage: Stage, shop: Shop, confirmed: list[str], failed: list[BaseException]) -> None:
    """Publish 300 messages from 10 callers, over a second or so."""

    async def caller(number: int) -> None:
        for turn in range(30):
            try:
                confirmed.append((await shop.publish({"n": number * 30 + turn}, timeout=25.0)).id)
            except PublishError as error:
                failed.append(error)
            await stage.clock.sleep(0.02)

    await asyncio.gather(*(caller(number) for number in range(10)))


@scenario("outages.a-killed-server-loses-nothing-confirmed", "kept stored kill", level="promise")
async def killed(stage: Stage) -> None:
    """The server is killed and comes back under load: all that was confirmed is handled."""
    shop = await stage.shop()
    handler = shop.handler(lambda event: shop.clock.sleep(0.03))
    await shop.subscribe(handler)
    confirmed: list[str] = []
    failed: list[BaseException] = []

    async def kill() -> None:
        await handler.until(lambda: len(handler.done) >= 60, stage.patience)
        await stage.harness.kill()
        await stage.clock.sleep(0.3)
        await stage.harness.restart()

    await asyncio.gather(kill(), load(stage, shop, confirmed, failed))
    assert (len(confirmed), failed) == (300, []), "the outage is shorter than the deadline"
    await handler.until(lambda: set(handler.done) >= set(confirmed), stage.soon + 2 * stage.patience)


@scenario("outages.cuts-lose-nothing", "kept cut", level="promise")
async def cuts(stage: Stage) -> None:
    """Connections are cut again and again under load: everything confirmed is handled, and little of it twice."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler)
    confirmed: list[str] = []
    failed: list[BaseException] = []

    async def cut() -> None:
        for wanted in (50, 100, 150):
            await handler.handled(wanted, stage.patience + stage.soon)
            await stage.harness.cut()

    await asyncio.gather(cut(), load(stage, shop, confirmed, failed))
    assert failed == []
    await handler.until(lambda: set(handler.done) >= set(confirmed), stage.soon + 2 * stage.patience)
    twice = sum(number - 1 for number in Counter(handler.ids).values())
    assert twice <= 200, f"{twice} of 300 were handled twice"


@scenario("outages.a-publish-ends-within-its-deadline", "stall", level="promise")
async def deadline(stage: Stage) -> None:
    """While the server answers nothing, a publish fails within its deadline and says whether it may be stored."""
    shop = await stage.shop()
    await shop.publish({"n": 0})
    await stage.harness.stall()
    began = stage.clock.now()
    with pytest.raises(PublishError) as error:
        await shop.publish({"n": 1}, timeout=3.0)
    assert stage.clock.now() - began < 6.0
    assert error.value.fields.get("stored", getattr(error.value, "stored", "")) in ("no", "maybe")
    await stage.harness.resume()


@scenario("outages.an-absent-broker-is-told-in-time", "kill virtual", level="promise")
async def absent(stage: Stage) -> None:
    """Opening a subscription while the broker is away fails with a clear error within its bound."""
    await stage.harness.kill()
    shop = await stage.shop()
    began = stage.clock.now()
    with pytest.raises(OpenError) as error:
        await shop.subscribe(shop.handler())
    assert error.value.code == "CONNECT_FAILED"
    assert stage.clock.now() - began <= 60.0
    await stage.harness.restart()


@scenario("outages.a-broker-that-comes-back-is-found", "groups kill", level="promise")
async def comes_back(stage: Stage) -> None:
    """A subscription that opens while the broker is away for a moment opens when it is back, and works."""
    await stage.harness.kill()
    shop = await stage.shop()
    handler = shop.handler()
    opening = asyncio.ensure_future(shop.subscribe(handler))
    await stage.clock.sleep(1.0)
    await stage.harness.restart()
    await opening
    await shop.publish({"n": 1})
    await handler.until(lambda: handler.done, stage.patience)


@scenario("outages.a-silence-ends-well", "kept stall", level="promise")
async def silence(stage: Stage) -> None:
    """After a silence of some seconds everything goes on: what was confirmed is handled, and new publishes work."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler)
    ids = await shop.many(20)
    await handler.until(lambda: handler.done, stage.patience)
    await stage.harness.stall()
    waiting = asyncio.ensure_future(shop.publish({"n": 99}))
    await stage.clock.sleep(2.0)
    await stage.harness.resume()
    ids.append((await waiting).id)
    await handler.until(lambda: set(handler.done) >= set(ids), stage.soon + 2 * stage.patience)


@scenario("outages.a-group-that-the-server-lost", "kept forget virtual", level="promise")
async def forgotten(stage: Stage) -> None:
    """A group that the server loses is declared again within two minutes, and gets what is published from then on."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler)
    await shop.publish({"n": 0})
    await handler.until(lambda: handler.done, stage.patience)
    await stage.harness.forget(shop.channel, "billing")
    await stage.clock.sleep(130.0)
    ids = await shop.many(5)
    await handler.until(lambda: set(handler.done) >= set(ids), stage.soon + stage.patience)
