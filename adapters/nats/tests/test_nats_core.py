"""Core subjects on a real server: at most once, with headers, without groups."""

import asyncio

import pytest

from ductape.adapter import AdapterError, Channel, Durability, Fault, Groups, Intake, Receiver, Stored, Verdict
from ductape_conformance.proxy import TcpProxy
from ductape_nats._core import SubjectReceiver
from tests.contract import bodies, record, settle, take

from .conftest import World, publish

pytestmark = pytest.mark.broker

CHANNEL = Channel(name="orders")


async def listener(world: World, window: int = 64) -> Receiver:
    connection = await world.connect(mode="core")
    await connection.declare(CHANNEL)
    receiver = await connection.receiver(CHANNEL, Intake(group="", window=window))
    world.stack.push_async_callback(receiver.close)
    return receiver


async def test_every_listener_gets_its_own_and_nothing_is_kept(world: World) -> None:
    connection = await world.connect(mode="core")
    can = connection.capabilities(CHANNEL)
    assert (can.durability, can.groups) == (Durability.NONE, Groups.NONE)  # type: ignore[union-attr]
    await publish(connection, record(0), channel=CHANNEL)
    first, second = await listener(world), await listener(world)
    await publish(connection, record(1, key="k"), channel=CHANNEL)
    for receiver in (first, second):
        [delivery] = await take(receiver, 2, 0.5)
        assert (delivery.body, delivery.key, delivery.headers) == (b"1", "k", {"ductape-id": "id1"})
        assert await settle(receiver, [delivery]) == [None]
    assert await world.raw.jetstream().streams_info() == []


async def test_what_comes_back_cannot(world: World) -> None:
    receiver = await listener(world)
    await publish(await world.connect(mode="core"), record(1), channel=CHANNEL)
    [answer] = await settle(receiver, await take(receiver, 1), Verdict.RELEASE)
    assert answer is not None
    assert answer.fault is Fault.LOST


async def test_a_buffer_that_is_full_drops_and_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ductape_nats._core.MESSAGES", 10)
    receiver = await listener(world, window=100)
    assert isinstance(receiver, SubjectReceiver)
    await publish(await world.connect(mode="core"), *map(record, range(15)), channel=CHANNEL)
    while receiver.dropped() < 5:
        await asyncio.sleep(0.01)
    assert bodies(await take(receiver, 15, 0.3)) == list(range(10))
    assert await receiver.lag() is None


async def test_a_broken_connection_loses_the_listener(world: World, nats_proxy: TcpProxy) -> None:
    connection = await world.through(nats_proxy.port, mode="core")
    receiver = await connection.receiver(CHANNEL, Intake(group="", window=10))
    nats_proxy.cut()
    with pytest.raises(AdapterError) as caught:
        await receiver.receive(1, 5.0)
    assert caught.value.fault is Fault.LOST
    await receiver.close()


async def test_a_topic_may_be_core_on_a_broker_that_is_not(world: World) -> None:
    connection = await world.connect()
    core = Channel(name="orders", options={"mode": "core"})
    receiver = await connection.receiver(core, Intake(group="", window=10))
    [stored] = await publish(connection, record(1), channel=core)
    assert isinstance(stored, Stored)
    assert bodies(await take(receiver, 1)) == [1]
    await receiver.close()
    with pytest.raises(AdapterError, match=r"options\.mode") as caught:
        await connection.declare(Channel(name="orders", options={"mode": "push"}))
    assert caught.value.fault is Fault.CONFIG
