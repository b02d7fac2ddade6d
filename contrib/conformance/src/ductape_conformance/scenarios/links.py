"""Networks that are slow or half open, and servers that refuse us."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ductape import Registry
from ductape.adapter import AdapterError, Fault, Settlement, Stored, Verdict
from ductape.errors import DuctapeError
from ductape_conformance._scenario import scenario
from ductape_conformance._shop import Shop
from ductape_conformance._stage import Stage

from .faults import SAID
from .outages import load


def secrets(config: Any) -> list[str]:
    """Return what a config should not let anybody read."""
    words = ("pass", "secret", "token", "key")
    return [str(value) for name, value in dict(config).items() if value and any(word in name for word in words)]


@scenario("faults.refused-credentials-are-a-config-fault", needs="wrong_credentials")
async def refused(stage: Stage) -> None:
    """Credentials that the server refuses fail with CONFIG when connecting, at once, and no text shows them."""
    settings = await stage.harness.wrong_credentials()
    config = await Shop.read_config(Registry.of({"KIT": stage.adapter}), settings)
    began = stage.clock.now()

    async def enter() -> None:
        await (await stage.adapter.connect(config, stage.site())).check()

    with pytest.raises(AdapterError) as error:
        await enter()
    assert error.value.fault is Fault.CONFIG
    assert stage.clock.now() - began < 10.0
    assert not [one for one in secrets(settings) if one in f"{error.value}{error.value!r}"]


@scenario("outages.refused-credentials-are-told", "wrong_credentials", level="promise")
async def told(stage: Stage) -> None:
    """With credentials that the server refuses, publishing and subscribing fail with a typed error, well in time."""
    settings = stage.settings = dict(await stage.harness.wrong_credentials())
    shop = await stage.shop()
    for call in (lambda: shop.publish({"n": 1}, timeout=20.0), lambda: shop.subscribe(shop.handler())):
        began = stage.clock.now()
        with pytest.raises(DuctapeError) as error:
            await call()
        assert stage.clock.now() - began < 15.0, "it does not help to try again"
        assert error.value.code != "UNKNOWN"
        assert not [one for one in secrets(settings) if one in f"{error.value}{error.value!r}"]


@scenario("faults.a-slow-link-is-only-slow", needs="kept slow")
async def slow(stage: Stage) -> None:
    """On a slow link everything works, and nothing comes twice."""
    member = await stage.member("a", alone=True)
    await stage.harness.slow(0.05)
    await stage.send(*(f"m{n}" for n in range(5)))
    await member.ack(*await member.take(5, within=2 * stage.patience))
    await stage.harness.resume()
    await member.silence(0.5)
    assert sorted(stage.ids()) == [f"m{n}" for n in range(5)]


@scenario("outages.a-slow-link-loses-nothing", "kept slow", level="promise")
async def slow_load(stage: Stage) -> None:
    """On a slow link under load everything confirmed is handled, and nothing twice: slowness is no failure."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler)
    confirmed: list[str] = []
    failed: list[BaseException] = []
    await stage.harness.slow(0.04)
    await load(stage, shop, confirmed, failed)
    await handler.until(lambda: set(handler.done) >= set(confirmed), stage.soon + 2 * stage.patience)
    await stage.harness.resume()
    assert (len(confirmed), failed) == (300, [])
    assert sorted(handler.ids) == sorted(confirmed)


@scenario("faults.half-open-calls-end", needs="kept half_open")
async def ends(stage: Stage) -> None:
    """While answers are lost, every call ends within its bound, and none says that it went well."""
    member = await stage.member("a", alone=True)
    sender = await stage.sender(connection=member.connection)
    await sender.send([stage.record("m1")])
    (one,) = await member.take(1)
    await stage.harness.half_open()

    async def ended(call: Any, bound: float) -> object:
        began = stage.clock.now()
        try:
            answers = await call
        except AdapterError as error:
            answers = [error]
        assert stage.clock.now() - began <= bound + 1.0
        return answers[0] if answers else None

    results = await asyncio.gather(
        ended(sender.send([stage.record("m2")]), sender.limits.seconds),
        ended(member.receiver.settle([Settlement(one, Verdict.ACK)]), 10.0),
        ended(member.receiver.receive(1, 0.5), 10.5),
    )
    faults = [one.fault if isinstance(one, AdapterError) else None for one in results]
    assert not isinstance(results[0], Stored), "nobody said so"
    assert faults[0] in SAID
    assert faults[1] in SAID or stage.can.confirmed_ack is False
    assert faults[2] in (*SAID, None)
    await stage.harness.resume()


@scenario("outages.a-half-open-link-loses-nothing", "kept half_open", level="promise")
async def half_open(stage: Stage) -> None:
    """While answers are lost a publish waits or is sent again, and is confirmed once they come; nothing is lost."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler)
    ids = await shop.many(20)
    await handler.until(lambda: handler.done, stage.patience)
    await stage.harness.half_open()
    waiting = [asyncio.ensure_future(shop.publish({"n": n}, timeout=30.0)) for n in range(5)]
    await stage.clock.sleep(2.0)
    assert not any(one.done() and not one.exception() for one in waiting), "confirmed without an answer"
    await stage.harness.resume()
    ids += [one.id for one in await asyncio.gather(*waiting)]
    await handler.until(lambda: set(handler.done) >= set(ids), stage.soon + 3 * stage.patience)
