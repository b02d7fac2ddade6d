"""Brokers by name and loop, declaring, closing, and what a person gets to see."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from ductape.adapter import Purpose
from ductape.errors import AdapterError, Fault
from ductape_memory import MemoryAdapter, MemoryBroker, MemoryConfig


async def test_connections_of_one_name_share_a_broker(world: Any) -> None:
    await world.send(await world.connect(), "a")
    receiver = await world.receiver(await world.connect())
    assert world.bodies(await receiver.receive(9, 0)) == ["a"]
    other = await MemoryAdapter().connect(MemoryConfig(name="another"), world.site())
    assert await (await world.receiver(other)).receive(9, 0) == []


async def test_messages_outlive_connections(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a")
    await connection.close()
    await connection.close()
    assert world.bodies(await (await world.receiver(await world.connect())).receive(9, 0)) == ["a"]


def test_every_event_loop_begins_empty(world: Any) -> None:
    async def publish() -> int:
        before = world.broker.pending(idle=True)
        await world.send(await world.connect(), "a")
        return int(before + world.broker.pending(idle=True))

    assert [asyncio.run(publish()) for _ in range(2)] == [1, 1]


async def test_the_broker_is_reached_through_the_connection(world: Any) -> None:
    connection = await world.connect()
    assert connection.unwrap(MemoryBroker) is world.broker
    with pytest.raises(TypeError, match="MemoryConnection has no int"):
        connection.unwrap(int)


async def test_what_may_not_be_created_is_only_verified(world: Any) -> None:
    maker, guest = await world.connect(), await world.connect(create=False)
    calls: list[Any] = [
        lambda: guest.declare(world.channel()),
        lambda: guest.sender(world.channel()),
        lambda: world.receiver(guest),
    ]
    for call in calls:
        with pytest.raises(AdapterError, match="there is no channel orders") as error:
            await call()
        assert error.value.fault is Fault.CONFIG
    await maker.declare(world.channel())
    for call in calls:
        await call()
    with pytest.raises(AdapterError, match="no group 'audit'") as error:
        await guest.declare(world.channel("audit"))
    assert error.value.fault is Fault.CONFIG
    with pytest.raises(AdapterError, match=r"no channel orders\.billing\.dead"):
        await guest.declare(world.channel(purpose=Purpose.DEAD))


async def test_declaring_twice_changes_nothing(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a")
    await connection.declare(world.channel(start="latest"))
    assert world.broker.depth("orders", "billing") == 1


async def test_closed_objects_say_so(world: Any) -> None:
    connection = await world.connect()
    sender, receiver = await connection.sender(world.channel()), await world.receiver(connection)
    await sender.close()
    await receiver.close()
    calls: list[Any] = [lambda: sender.send([world.record("a")]), lambda: receiver.receive(1, 1)]
    for call in calls:
        with pytest.raises(AdapterError, match="is closed") as error:
            await call()
        assert error.value.fault is Fault.LOST


async def test_long_lived_objects_tell_what_they_are(world: Any) -> None:
    connection = await world.connect()
    sender, receiver = await connection.sender(world.channel()), await world.receiver(connection)
    assert repr(sender) == "<MemorySender orders>"
    assert repr(receiver) == "<MemoryReceiver orders group=billing open>"
    assert repr(connection) == "<MemoryConnection test open receivers=1>"
    assert repr(world.broker) == "<MemoryBroker test channels=1 connections=1>"
    assert repr(world.broker.state.stores["orders", Purpose.EVENTS, ""]) == "<QueueStore orders messages=0 members=1>"


@pytest.mark.parametrize(
    "fields", [{"imitate": "kafka"}, {"lease": 0}, {"partitions": -1}, {"max_messages": 0}, {"nmae": "x"}]
)
def test_a_wrong_configuration_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, MemoryConfig)


def test_the_adapter_names_its_fields() -> None:
    assert (MemoryAdapter.channel_field, MemoryAdapter.group_field) == ("channel", "group")
    assert {"channel", "group"} <= set(MemoryConfig.__struct_fields__)
    assert MemoryAdapter.api == 1
