"""Publish/subscribe on a real server: at most once, and said so."""

import asyncio

import pytest

from ductape.adapter import (
    AdapterError,
    Channel,
    Connection,
    Durability,
    Fault,
    Groups,
    Intake,
    Outgoing,
    Receiver,
    Verdict,
)
from ductape_conformance.proxy import TcpProxy
from tests.contract import bodies, record, settle, take

from .conftest import World, event, publish

pytestmark = pytest.mark.broker


async def listen(world: World, connection: Connection, channel: Channel | None = None, *, window: int = 16) -> Receiver:
    channel = channel or event()
    await connection.declare(channel)
    receiver = await connection.receiver(channel, Intake(group="billing", window=window))
    world.stack.push_async_callback(receiver.close)
    return receiver


async def test_every_listener_gets_every_message_with_key_and_headers(world: World) -> None:
    connection = await world.connect(mode="pubsub")
    listeners = [await listen(world, connection), await listen(world, connection)]
    await publish(connection, Outgoing(b"\xff", {"a": "ü"}, "id", "k"))
    for listener in listeners:
        [delivery] = await take(listener, 1)
        assert (delivery.body, delivery.headers, delivery.key) == (b"\xff", {"a": "ü"}, "k")
        assert await settle(listener, [delivery]) == [None]
    assert await world.raw.exists("orders") == 0


async def test_it_claims_nothing_that_it_does_not_keep(world: World) -> None:
    connection = await world.connect(mode="pubsub")
    can = connection.capabilities(event())
    assert can is not None
    assert (can.durability, can.groups, can.history, can.lease) == (Durability.NONE, Groups.NONE, False, None)
    listener = await listen(world, connection)
    await publish(connection, record(1))
    [answer] = await settle(listener, await take(listener, 1), Verdict.RETRY, 1.0)
    assert answer is not None
    assert answer.fault is Fault.LOST


async def test_a_topic_can_be_a_pubsub_channel_beside_streams(world: World) -> None:
    connection = await world.connect()
    channel = event(options={"mode": "pubsub"})
    listener = await listen(world, connection, channel)
    await publish(connection, record(1), channel=channel)
    assert bodies(await take(listener, 1)) == [1]
    with pytest.raises(AdapterError, match=r"options\.mode"):
        await connection.declare(event(options={"mode": "list"}))


async def test_foreign_messages_are_bodies(world: World) -> None:
    listener = await listen(world, await world.connect(mode="pubsub"))
    await world.raw.publish("orders", b"\x94\x00plain")
    await world.raw.publish("orders", b"\x94\xa9ductape/1broken")
    plain, broken = await take(listener, 2)
    assert (plain.body, plain.headers, plain.error) == (b"\x94\x00plain", {}, "")
    assert broken.error


async def test_what_does_not_fit_is_dropped_and_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ductape_redis._pubsub.MESSAGES", 100)
    connection = await world.connect(mode="pubsub")
    listener = await listen(world, connection, window=250)
    await publish(connection, *map(record, range(250)))
    await asyncio.sleep(0.2)
    assert bodies(await take(listener, 250, 0.5)) == list(range(100))
    assert listener.dropped() == 150  # type: ignore[attr-defined]
    assert await listener.lag() is None  # type: ignore[attr-defined]


async def test_a_broken_connection_ends_the_receiver_and_a_new_one_hears_again(
    world: World, redis_proxy: TcpProxy
) -> None:
    connection = await world.through(redis_proxy.port, mode="pubsub")
    listener = await listen(world, connection)
    redis_proxy.cut()
    with pytest.raises(AdapterError) as caught:
        await listener.receive(1, 5.0)
    assert caught.value.fault is Fault.LOST
    await listener.close()
    again = await listen(world, connection)
    await world.raw.publish("orders", b"1")
    assert bodies(await take(again, 1)) == [1]


async def test_a_stopped_listener_hands_over_what_it_has_and_hears_no_more(world: World) -> None:
    connection = await world.connect(mode="pubsub")
    listener, other = await listen(world, connection), await listen(world, connection)
    await publish(connection, record(1))
    await asyncio.sleep(0.1)
    await listener.stop()
    await publish(connection, record(2))
    assert bodies(await take(listener, 2, 0.3)) == [1]
    assert bodies(await take(other, 2)) == [1, 2]
