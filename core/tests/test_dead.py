"""When a listing of dead letters ends: not before what there is could arrive, and never for a broker's silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from core.tests.fake import Fake, FakeReceiver, failing
from core.tests.kit import EVENT, Shop, opened
from ductape.adapter import Delivery, Fault, Measurable, Purpose
from ductape.errors import ConfigError, OpenError


class Counted(FakeReceiver, Measurable):
    """Knows how many letters there still are."""

    async def lag(self) -> int | None:
        return len(self.fake.inbox[Purpose.DEAD])


async def counted(connection: Any, channel: Any, intake: Any) -> Counted:
    return Counted(connection.fake, channel, intake)


async def slow(receiver: FakeReceiver, limit: int, wait: float) -> Sequence[Delivery]:
    """A poll whose answer takes longer than a second."""
    await receiver.fake.clock.sleep(3)
    return await receiver.take(limit, wait)


async def listed(shop: Shop, **options: Any) -> tuple[list[bytes], float]:
    """The letters, and how long the listing took."""
    began = shop.clock.now()

    async def read() -> tuple[list[bytes], float]:
        bodies = [letter.body async for letter in shop.event.dead(EVENT, **options)]
        return bodies, shop.clock.now() - began

    return await shop.run(read())


async def test_a_listing_waits_for_a_slow_poll_while_the_provider_says_that_there_is_more() -> None:
    async with opened(fake := Fake()) as shop:
        fake.always |= {"receiver of dead": counted, "receive of dead": slow}
        fake.feed(b"1", b"2", purpose=Purpose.DEAD)
        assert (await listed(shop))[0] == [b"1", b"2"]


async def test_a_listing_ends_after_a_second_where_the_provider_says_that_nothing_is_left() -> None:
    async with opened(fake := Fake()) as shop:
        fake.always |= {"receiver of dead": counted}
        fake.feed(b"1", purpose=Purpose.DEAD)
        bodies, took = await listed(shop, limit=10)
        assert bodies == [b"1"]
        assert 1 <= took < 2


async def test_a_listing_waits_for_as_long_as_asked_where_the_provider_does_not_tell() -> None:
    async with opened(fake := Fake()) as shop:
        fake.always |= {"receive of dead": slow}
        fake.feed(b"1", purpose=Purpose.DEAD)
        bodies, took = await listed(shop)
        assert bodies == [b"1"]
        assert took >= 3 + 5
    async with opened(fake := Fake()) as shop:
        fake.always |= {"receive of dead": slow}
        fake.feed(b"1", purpose=Purpose.DEAD)
        assert (await listed(shop, idle=2.0))[0] == []


async def test_a_short_idle_bound_is_kept() -> None:
    async with opened(fake := Fake()) as shop:
        fake.always |= {"receiver of dead": counted}
        bodies, took = await listed(shop, idle=0.25)
        assert bodies == []
        assert took < 1


async def test_a_listing_whose_broker_went_away_is_no_end() -> None:
    async with opened(fake := Fake()) as shop:
        fake.feed(b"1", purpose=Purpose.DEAD)
        fake.script("receive of dead", FakeReceiver.take)
        fake.always |= {"receive of dead": failing(Fault.TRANSIENT)}
        with pytest.raises(OpenError, match="dead letters of 'orders:new' in group"):
            await listed(shop)


async def test_an_idle_bound_that_is_none_is_refused() -> None:
    async with opened(Fake()) as shop:
        for wrong in (0, -1.0, float("nan")):
            with pytest.raises(ConfigError, match="is seconds, above 0"):
                shop.event.dead(EVENT, idle=wrong)
