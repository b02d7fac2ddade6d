"""What closes while it opens, is cancelled, or comes too late: nothing is left running, and nothing hangs."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from core.tests.fake import Fake, FakeConnection, FakeReceiver, FakeSender, OneChannel, failing, never
from core.tests.kit import EVENT, VirtualClock, opened, quiet
from ductape import Ductape, Registry, Reject, Retry
from ductape._bounds import Bounds
from ductape.adapter import Channel, Fault, Intake, Purpose, Verdict
from ductape.errors import AdapterError, OpenError, StateError
from ductape_memory import MemoryAdapter

OLD = "orders:old"
TWO: dict[str, dict[str, Any]] = {"new": {}, "old": {}}


async def test_a_cancelled_opening_leaves_nothing_running() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("receiver of retry", never)
        log = shop.log()
        opening = asyncio.ensure_future(shop.event.subscribe(EVENT, callback=log))
        await shop.advance(1)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await quiet()
        assert fake.receiver.closed
        fake.feed(b"1")
        await shop.advance(20)
        assert log.calls == []


async def test_of_an_opening_that_failed_in_part_only_the_second_try_receives() -> None:
    async with opened(fake := Fake()) as shop:
        fake.script("receiver of retry", failing(Fault.TRANSIENT))
        await shop.subscribe(log := shop.log())
        await shop.advance(30)
        events = [each for each in fake.receivers if each.channel.purpose is Purpose.EVENTS]
        assert [each.closed for each in events] == [True, False]
        fake.feed(b"1", b"2")
        await shop.until(lambda: len(fake.settlements) == 2)
        assert log.messages == [1, 2]


async def test_a_close_while_a_subscription_opens_ends_it_and_closes_what_arrives_later() -> None:
    async def late(connection: FakeConnection, channel: Channel, intake: Intake) -> FakeReceiver:
        await shop.clock.sleep(3)
        return FakeReceiver(connection.fake, channel, intake)

    async with opened(fake := Fake()) as shop:
        fake.always |= {"receiver": late, "receiver of retry": late}
        opening = asyncio.ensure_future(shop.event.subscribe(EVENT, callback=shop.log()))
        await shop.advance(1)
        await shop.close()
        await shop.advance(60)
        with pytest.raises((StateError, OpenError)):
            await opening
        assert [each.closed for each in fake.receivers] == [True, True]
        assert len(fake.connections) == 1


async def test_a_close_while_an_opening_waits_for_its_next_try_ends_it() -> None:
    async with opened(fake := Fake(), topics=TWO) as shop:
        await shop.subscribe(shop.log(lambda event: shop.clock.sleep(15)))
        fake.feed(b"1")
        await shop.advance(0.1)
        fake.script("receiver", *[failing(Fault.TRANSIENT)] * 6)
        opening = asyncio.ensure_future(shop.event.subscribe(OLD, callback=shop.log()))
        await shop.advance(1)
        tried = fake.names("receiver")
        assert not opening.done()
        closing = asyncio.ensure_future(shop.client.close())
        await shop.advance(60)
        await closing
        with pytest.raises(StateError, match="closed"):
            await opening
        assert fake.names("receiver") == tried


async def test_nothing_connects_again_after_close() -> None:
    async with opened(fake := Fake()) as shop:
        fake.always["connect"] = failing(Fault.TRANSIENT)
        opening = asyncio.ensure_future(shop.event.subscribe(EVENT, callback=shop.log()))
        await shop.advance(1)
        await shop.close()
        tried = len(fake.names("connect"))
        await shop.advance(100)
        assert len(fake.names("connect")) == tried
        with pytest.raises(OpenError, match="closed"):
            await opening


async def test_a_client_that_closes_beside_a_closing_subscription_waits_for_its_handlers() -> None:
    async with opened(fake := Fake()) as shop:
        subscription = await shop.subscribe(shop.log(lambda event: shop.clock.sleep(5)))
        fake.feed(b"1")
        await shop.advance(0.1)
        closing = asyncio.ensure_future(subscription.close())
        await shop.advance(1)
        began = shop.clock.now()
        await shop.close()
        assert 3 < shop.clock.now() - began < 6
        assert fake.settlements == [("1", Verdict.ACK, 0.0)]
        assert fake.names()[-1] == "close connection"
        await shop.run(closing)


async def test_a_subscription_that_comes_while_its_group_closes_opens_the_group_anew() -> None:
    async with opened(fake := OneChannel(), topics=TWO) as shop:
        first = await shop.subscribe(shop.log(lambda event: shop.clock.sleep(5)), group="all")
        fake.feed(b"1")
        await shop.advance(0.1)
        closing = asyncio.ensure_future(first.close())
        await shop.advance(1)
        second = await shop.subscribe(log := shop.log(), OLD, group="all")
        await shop.run(closing)
        fake.feed(b"2", headers={"ductape-event": OLD})
        await shop.until(lambda: log.calls)
        assert not second.ended.done()
        assert len(shop.client.engine.groups) == 1


async def test_close_ends_serve() -> None:
    async with opened() as shop:
        serving = asyncio.ensure_future(shop.client.serve())
        await shop.advance(1)
        await shop.close()
        await quiet()
        assert serving.done()
        await serving


async def test_no_timer_is_left_after_close() -> None:
    async with opened(fake := Fake()) as shop:
        fake.always["send"] = never
        publishing = asyncio.ensure_future(shop.event.publish(EVENT, 1))
        await quiet()
        await shop.close(0.5)
        with pytest.raises(Exception, match="closed"):
            await publishing
        await shop.advance(100)
        assert [timer for _, _, timer in shop.clock._timers if timer.callback is not None] == []


async def test_a_cancelled_publish_takes_the_connection_that_it_began_from_nobody() -> None:
    async with opened(fake := Fake()) as shop:
        gate = asyncio.get_running_loop().create_future()

        async def slow(_: Any) -> FakeConnection:
            await gate
            return FakeConnection(fake)

        fake.script("connect", slow)
        first = asyncio.ensure_future(shop.event.publish(EVENT, 1))
        second = asyncio.ensure_future(shop.event.publish(EVENT, 2))
        await quiet()
        first.cancel()
        gate.set_result(None)
        await shop.run(second)
        assert [record.body for record in fake.stored] == [b"2"]


def test_a_client_whose_loop_is_gone_can_be_opened_and_closed_again() -> None:
    client = Ductape(product="shop", env="dev")
    adapter = MemoryAdapter()

    async def begin() -> None:
        await client.broker.create(tag="orders", envs=[{"slug": "dev", "type": "MEMORY"}])
        await client.broker.topic.create(tag=EVENT)
        await client.event.publish(EVENT, 1)

    async def again() -> None:
        await client.event.publish(EVENT, 2)
        await client.close()
        assert client.engine is None
        await client.open()
        await client.event.publish(EVENT, 3)

    async def close() -> None:
        await client.close()

    with client.override(adapter=lambda name: adapter, clock=_system):
        asyncio.run(begin())
        asyncio.run(again())
        asyncio.run(close())
    assert client.engine is None


def _system() -> Any:
    from ductape._clock import SystemClock

    return SystemClock()


async def test_nothing_of_failed_sends_and_of_a_subscription_stays_in_memory() -> None:
    kept: list[weakref.ref[Any]] = []

    async def refuses(sender: FakeSender, records: Any) -> Any:
        error = AdapterError(Fault.TRANSIENT, "on demand")
        kept.append(weakref.ref(error))
        raise error

    async def use(clock: VirtualClock) -> None:
        async with opened(fake := Fake(), clock=clock) as shop:
            for n in range(3):
                fake.script("send", refuses)
                await shop.publish(n)
            subscription = await shop.subscribe(shop.log(lambda event: ValueError("x")), retry=Retry(delay=20))
            fake.feed(b"1", b"2")
            await shop.advance(1)
            engine = shop.client.engine
            [group], [outbox] = engine.groups.values(), engine.outboxes.values()
            kept.extend(map(weakref.ref, (subscription, engine, group, outbox, *group.sources)))

    await use(VirtualClock())
    await quiet()
    gc.collect()
    assert [ref() for ref in kept if ref() is not None] == []


async def test_a_group_s_private_channels_know_the_address_that_the_topic_gives_its_channel() -> None:
    fake = Fake()
    ductape = Ductape(product="shop", env="dev", registry=Registry.of({"FAKE": fake}))
    await ductape.broker.create(tag="orders", envs=[{"slug": "dev", "type": "FAKE"}])
    await ductape.broker.topic.create(tag=EVENT, queue_url={"dev": "https://q/orders"})

    async def refuse(order: object) -> None:
        raise Reject("no")

    async with ductape:
        await ductape.event.subscribe(EVENT, callback=refuse)
        fake.feed(b"1")
        while not fake.stored:
            await asyncio.sleep(0.001)
    assert {each.channel.purpose: each.channel.address for each in fake.senders} == {Purpose.DEAD: "https://q/orders"}
    assert {each.channel.address for each in fake.receivers} == {"https://q/orders"}


async def test_what_was_given_up_may_come_yet_before_a_loop_ends_and_is_closed() -> None:
    bounds = Bounds(clock := VirtualClock())
    closed: list[object] = []

    class Late:
        async def close(self) -> None:
            await clock.sleep(0.1)
            closed.append(self)

    async def late() -> Late:
        await clock.sleep(10.5)
        return Late()

    with pytest.raises(AdapterError, match="no answer within 10 s"):
        await clock.run(bounds.call(late(), 10, bounds.close))
    await clock.run(bounds.ended())
    assert len(closed) == 1
    bounds.background(clock.sleep(100))
    began = clock.now()
    await clock.run(bounds.ended(1))
    assert clock.now() - began == 1
