"""What health says: the truth about the broker, and nothing about a message that was refused alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.tests.fake import Fake, FakeReceiver, failing
from core.tests.kit import opened
from ductape.adapter import Fault, Measurable
from ductape.errors import PublishError


class Lagging(FakeReceiver, Measurable):
    """Takes a second to say how far behind it is."""

    async def lag(self) -> int | None:
        await self.fake.clock.sleep(1)
        return 7


async def lagging(connection: Any, channel: Any, intake: Any) -> Lagging:
    return Lagging(connection.fake, channel, intake)


async def test_health_can_be_asked_while_a_group_closes() -> None:
    async with opened(fake := Fake(), topics={"new": {}, "paid": {}}) as shop:
        fake.always["receiver"] = lagging
        first = await shop.subscribe(shop.log())
        await shop.subscribe(shop.log(), event="orders:paid")
        asking = asyncio.ensure_future(shop.client.health())
        await shop.advance(0.1)
        await shop.run(first.close())
        health = await shop.run(asking)
        assert {each.lag for each in health.subscriptions} == {7}
        health = await shop.run(shop.client.health())
        assert [each.events for each in health.subscriptions] == [["orders:paid"]]


async def test_one_refused_message_does_not_turn_health_red() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("send", [failing(Fault.MESSAGE)])
        with pytest.raises(PublishError):
            await shop.publish(1)
        assert (await shop.run(shop.client.health())).healthy


async def test_health_asks_the_broker() -> None:
    class Silent(Fake):
        answer: BaseException | None = None

    async def check(self: Any) -> None:
        if fake.answer is not None:
            raise fake.answer

    fake = Silent()
    async with opened(fake) as shop:
        await shop.publish(1)
        fake.connections[0].check = check.__get__(fake.connections[0])  # type: ignore[method-assign]
        assert (await shop.run(shop.client.health())).healthy
        fake.answer = failing(Fault.TRANSIENT)
        health = await shop.run(shop.client.health())
        assert (health.healthy, health.brokers[0].state) == (False, "failing")
        assert "on demand" in health.brokers[0].error
        fake.answer = None
        assert (await shop.run(shop.client.health())).healthy


async def test_health_tells_for_how_long_the_oldest_delivery_is_not_settled() -> None:
    async with opened(fake := Fake()) as shop:
        await shop.subscribe(shop.log(lambda event: shop.clock.sleep(5 if event.message == 1 else 50)))
        assert (await shop.run(shop.client.health())).subscriptions[0].oldest is None
        fake.feed(b"1")
        await shop.advance(2)
        fake.feed(b"2")
        await shop.advance(1)
        assert (await shop.run(shop.client.health())).subscriptions[0].oldest == pytest.approx(3, abs=0.2)
        await shop.advance(5)
        assert (await shop.run(shop.client.health())).subscriptions[0].oldest == pytest.approx(6, abs=0.2)
