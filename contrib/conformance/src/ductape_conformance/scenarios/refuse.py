"""Promise 12, and capabilities that are not declared: refused early, by name, and nothing else is disturbed."""

from __future__ import annotations

from typing import Any

import pytest

from ductape.errors import CapabilityError, ConfigError, DuctapeError, MessageTooLarge, PayloadError
from ductape_conformance._scenario import NotApplicable, scenario
from ductape_conformance._shop import Shop
from ductape_conformance._stage import Stage


async def refused(shop: Shop, capability: str, **options: Any) -> None:
    """Subscribing must be refused, naming the capability; the same client goes on working."""
    with pytest.raises(CapabilityError) as error:
        await shop.client.event.subscribe(shop.name, callback=shop.handler(), **options)
    assert error.value.code == "CAPABILITY_MISSING"
    assert error.value.fields["capability"] == capability
    assert shop.tap.receivers == [], "refused before anything opened"
    handler = shop.handler()
    await shop.subscribe(handler, "working")
    await shop.publish({"n": 1})
    await handler.until(lambda: handler.done, shop.patience)


@scenario("refuse.order-by-key", "!order", level="promise")
async def by_key(stage: Stage) -> None:
    """Where order by key is not declared, a subscription that asks for it is refused when it opens."""
    shop = await stage.shop(topic={"groups": ("working",), "order": "key"})
    with pytest.raises(CapabilityError) as error:
        await shop.subscribe(shop.handler(), order="key")
    assert error.value.fields["capability"] == "order"
    assert shop.tap.receivers == []


@scenario("refuse.order-in-total", "!total", level="promise")
async def total(stage: Stage) -> None:
    """Where a total order is not declared, a subscription that asks for it is refused when it opens."""
    shop = await stage.shop(topic={"groups": ("working",), "order": "total"})
    with pytest.raises(CapabilityError) as error:
        await shop.subscribe(shop.handler(), order="total")
    assert error.value.fields["capability"] == "order"
    assert shop.tap.receivers == []


@scenario("refuse.groups", "!groups", level="promise")
async def groups(stage: Stage) -> None:
    """Where groups are not declared, naming one is refused when the subscription opens."""
    await refused(await stage.shop(topic={"groups": ("working",)}), "groups", group="billing")


@scenario("refuse.second-group", "one", level="promise")
async def second(stage: Stage) -> None:
    """Where a channel is one group, a second one is refused when it opens."""
    shop = await stage.shop()
    await shop.subscribe(shop.handler())
    with pytest.raises(CapabilityError) as error:
        await shop.subscribe(shop.handler(), "audit")
    assert error.value.fields["capability"] == "groups"


@scenario("refuse.history", "!history", level="promise")
async def history(stage: Stage) -> None:
    """Where history is not declared, a subscription that begins at the earliest is refused when it opens."""
    shop = await stage.shop(topic={"groups": ("working",)})
    group = {"group": "working"} if shop.grouped else {}
    await refused(shop, "history", start="earliest", **group)


@scenario("refuse.send-delay", "!send-delay", level="promise")
async def delay(stage: Stage) -> None:
    """Where delays are not declared, a delayed publish is refused at once, and nothing is sent."""
    shop = await stage.shop()
    await shop.publish({"n": 0})
    before = len(shop.tap.of("send"))
    with pytest.raises(DuctapeError) as error:
        await shop.publish({"n": 1}, delay=5.0)
    assert "delay" in str(error.value)
    assert len(shop.tap.of("send")) == before


@scenario("refuse.timeout-above-the-lease", "kept limited-lease", level="promise")
async def lease(stage: Stage) -> None:
    """A timeout above what a lease can be extended to is refused when the subscription opens."""
    total = stage.can.lease_total or stage.can.lease
    if total is None:
        raise NotApplicable("no lease is declared", declared=True)
    await refused(await stage.shop(topic={"groups": ("working",)}), "lease_total", timeout=total * 2 + 1)


@scenario("refuse.too-large", "max-message", level="promise")
async def large(stage: Stage) -> None:
    """A message above the declared size is refused when it is published, by name; others are stored."""
    shop = await stage.shop()
    handler = shop.handler()
    await shop.subscribe(handler)
    most = min(size for size in (stage.can.max_body, stage.can.max_message) if size is not None)
    if most > 64 << 20:
        raise NotApplicable(f"bodies of {most} bytes are not made in a test")
    await shop.publish({"n": 1})
    with pytest.raises(MessageTooLarge):
        await shop.publish({"n": "x" * most})
    await shop.publish({"n": 2})
    await handler.until(lambda: len(handler.done) == 2, stage.patience)


@scenario("refuse.headers-beyond-the-limits", "header-limits", level="promise")
async def headers(stage: Stage) -> None:
    """More headers than declared, or a longer one, are refused when publishing; nothing of it is sent, others are."""
    shop = await stage.shop()
    await shop.publish({"n": 1})
    before = len(shop.tap.of("send"))
    number, size = stage.can.max_headers, stage.can.max_header
    if number is not None and number <= 10_000:
        with pytest.raises(PayloadError, match=f"carries {number}"):
            await shop.publish({"n": 2}, headers={f"h{n}": "v" for n in range(number + 1)})
    if size is not None and size <= 64 << 20:
        with pytest.raises(PayloadError, match=f"'long' has more than the {size} bytes"):
            await shop.publish({"n": 2}, headers={"long": "v" * (size + 1)})
    assert len(shop.tap.of("send")) == before
    await shop.publish({"n": 3})


@scenario("refuse.what-cannot-be-written", level="promise")
async def unwritable(stage: Stage) -> None:
    """A payload that no codec writes and an option that is unknown are refused before anything is sent."""
    shop = await stage.shop()
    with pytest.raises(PayloadError):
        await shop.publish(object())
    with pytest.raises(ConfigError, match="dealy"):
        await shop.publish({"n": 1}, dealy=5.0)
    with pytest.raises(ConfigError, match="concurency"):
        await shop.subscribe(shop.handler(), concurency=5)
    assert shop.tap.of("send", "receiver") == []


@scenario("refuse.names-of-derived-channels", level="promise")
async def derived(stage: Stage) -> None:
    """A group whose name ends like a channel that is derived from a group is refused before anything opens."""
    shop = await stage.shop()
    for name in ("billing.dead", "billing-retry"):
        with pytest.raises(ConfigError, match=name):
            await shop.client.event.subscribe(shop.name, callback=shop.handler(), group=name)
    assert shop.tap.receivers == []


@scenario("refuse.unknown-config-keys", level="promise")
async def config(stage: Stage) -> None:
    """An unknown key in the config of a broker is refused by name, before anything connects."""
    from ductape import Registry

    registry = Registry.of({"KIT": stage.adapter})
    with pytest.raises(ConfigError) as error:
        await Shop.read_config(registry, {**stage.settings, "no_such_key": 1})
    assert error.value.code == "CONFIG_INVALID"
    assert "no_such_key" in str(error.value) or "noSuchKey" in str(error.value)
