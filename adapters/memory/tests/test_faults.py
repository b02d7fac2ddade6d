"""Faults on demand: each does what it says, and ends by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ductape.adapter import Purpose, Settlement, Verdict
from ductape.errors import AdapterError, Fault


async def fault_of(awaitable: Any) -> Fault | None:
    try:
        await awaitable
    except AdapterError as error:
        return error.fault
    return None


async def test_a_cut_kills_connections_and_gives_what_was_out_to_others(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a", "b")
    sender, receiver = await connection.sender(world.channel()), await world.receiver(connection)
    (held,) = await receiver.receive(1, 0)
    await receiver.receive(1, 0)
    waiting = asyncio.ensure_future(receiver.receive(1, 60))
    await world.clock.advance(1)
    world.broker.faults.cut()
    assert not held.epoch.alive
    calls = [waiting, receiver.settle([Settlement(held, Verdict.ACK)]), receiver.extend([held]), receiver.lag()]
    calls += [sender.send([world.record("c")]), connection.check(), connection.declare(world.channel())]
    calls += [connection.sender(world.channel()), world.receiver(connection)]
    assert [await fault_of(call) for call in calls] == [Fault.LOST] * len(calls)
    for closing in (receiver.stop, receiver.close, sender.close, connection.close):
        await closing()
    again = await world.receiver(await world.connect())
    assert world.bodies(await again.receive(9, 0)) == ["a", "b"]


async def test_a_passing_cut_leaves_leases_alone(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a")
    receiver = await world.receiver(connection)
    (held,) = await receiver.receive(1, 0)
    waiting = asyncio.ensure_future(receiver.receive(1, 60))
    await world.clock.advance(1)
    world.broker.faults.cut(Fault.TRANSIENT, times=2)
    assert await fault_of(waiting) is Fault.TRANSIENT
    assert await fault_of(receiver.settle([Settlement(held, Verdict.ACK)])) is Fault.TRANSIENT
    assert await fault_of(connection.check()) is Fault.TRANSIENT
    assert held.epoch.alive
    assert await world.ack(receiver, held) == [None]


async def test_lost_deliveries_go_to_others_while_the_connection_lives(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a")
    receiver, audit = await world.receiver(connection), await world.receiver(connection, "audit")
    (held,) = await receiver.receive(1, 0)
    assert world.broker.faults.lose(group="billing") == 1
    assert not held.epoch.alive
    assert await fault_of(receiver.receive(1, 0)) is Fault.LOST
    assert await fault_of(audit.receive(1, 0)) is None
    again = await world.receiver(connection)
    (theirs,) = await again.receive(1, 0)
    assert theirs.count == 2
    assert world.broker.faults.lose("invoices") == 0


async def test_connecting_is_refused_as_often_as_demanded(world: Any) -> None:
    world.broker.faults.refuse(2)
    world.broker.faults.refuse(1, Fault.CONFIG)
    found = [await fault_of(world.connect()) for _ in range(4)]
    assert found == [Fault.TRANSIENT, Fault.TRANSIENT, Fault.CONFIG, None]
    assert world.broker.faults.calls["connect"] == 4


async def test_the_nth_call_fails_and_those_after_it(world: Any) -> None:
    connection = await world.connect()
    world.broker.faults.fail("check", Fault.TRANSIENT, nth=2, times=2)
    found = [await fault_of(connection.check()) for _ in range(4)]
    assert found == [None, Fault.TRANSIENT, Fault.TRANSIENT, None]


@pytest.mark.parametrize("stored", [True, False])
async def test_an_ambiguous_send_may_have_stored_or_not(world: Any, stored: bool) -> None:
    connection = await world.connect()
    await connection.declare(world.channel())
    world.broker.faults.fail("send", Fault.AMBIGUOUS, stored=stored)
    assert world.faults(await world.send(connection, "a", "b")) == [Fault.AMBIGUOUS] * 2
    assert world.broker.depth("orders", "billing") == (2 if stored else 0)
    assert world.faults(await world.send(connection, "c")) == [None]


@pytest.mark.parametrize(
    "method", ["sender", "receiver", "declare", "send", "receive", "settle", "extend", "lag", "check"]
)
@pytest.mark.parametrize("fault", [Fault.TRANSIENT, Fault.LOST, Fault.CONFIG])
async def test_any_call_can_be_made_to_raise(world: Any, method: str, fault: Fault) -> None:
    connection = await world.connect()
    await world.send(connection, "a")
    sender, receiver = await connection.sender(world.channel()), await world.receiver(connection)
    (held,) = await receiver.receive(1, 0)
    world.broker.faults.fail(method, fault)
    calls = {
        "sender": lambda: connection.sender(world.channel()),
        "receiver": lambda: world.receiver(connection),
        "declare": lambda: connection.declare(world.channel()),
        "send": lambda: sender.send([world.record("b")]),
        "receive": lambda: receiver.receive(1, 0),
        "settle": lambda: receiver.settle([Settlement(held, Verdict.ACK)]),
        "extend": lambda: receiver.extend([held]),
        "lag": receiver.lag,
        "check": connection.check,
    }
    assert [await fault_of(calls[method]()) for _ in range(2)] == [fault, None]


@pytest.mark.parametrize("method", ["note", "seek"])
async def test_calls_of_a_log_can_be_made_to_raise(world: Any, method: str) -> None:
    receiver = await world.receiver(await world.connect(imitate="log"))
    world.broker.faults.fail(method, Fault.TRANSIENT)
    argument: Any = {"note": [], "seek": "earliest"}[method]
    found = [await fault_of(getattr(receiver, method)(argument)) for _ in range(2)]
    assert found == [Fault.TRANSIENT, None]


@pytest.mark.parametrize("method", ["stop", "close"])
async def test_ending_calls_can_fail_after_they_did_their_work(world: Any, method: str) -> None:
    connection = await world.connect()
    await world.send(connection, "a")
    receiver = await world.receiver(connection)
    world.broker.faults.fail(method, Fault.TRANSIENT)
    assert await fault_of(getattr(receiver, method)()) is Fault.TRANSIENT
    await receiver.close()
    assert world.bodies(await (await world.receiver(connection)).receive(1, 0)) == ["a"]


async def test_a_misspelled_method_is_refused(world: Any) -> None:
    with pytest.raises(ValueError, match="'sned' is none of"):
        world.broker.faults.fail("sned", Fault.LOST)
    with pytest.raises(ValueError, match="'sned' is none of"):
        world.broker.faults.stall("sned")


async def test_a_settlement_may_have_happened_though_its_answer_failed(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a")
    receiver = await world.receiver(connection)
    (held,) = await receiver.receive(1, 0)
    world.broker.faults.fail("settle", Fault.AMBIGUOUS, stored=True)
    assert await world.ack(receiver, held) == [Fault.AMBIGUOUS]
    assert await world.ack(receiver, held) == [Fault.LOST]
    assert world.broker.depth("orders", "billing") == 0


@pytest.mark.parametrize("stored", [True, False])
async def test_a_stalled_call_goes_on_when_it_may(world: Any, stored: bool) -> None:
    connection = await world.connect()
    await connection.declare(world.channel())
    world.broker.faults.stall("send", stored=stored)
    task = asyncio.ensure_future(world.send(connection, "a"))
    await world.clock.advance(50)
    assert not task.done()
    assert world.broker.depth("orders", "billing") == (1 if stored else 0)
    world.broker.faults.resume("send")
    assert world.faults(await task) == [None]
    assert world.faults(await world.send(connection, "b")) == [None]


async def test_a_stall_ends_by_itself(world: Any) -> None:
    connection = await world.connect()
    world.broker.faults.stall("check", seconds=30)
    task = asyncio.ensure_future(connection.check())
    await world.clock.advance(29)
    assert not task.done()
    await world.clock.advance(1)
    assert await fault_of(task) is None


async def test_a_cut_ends_stalled_calls_with_the_connection(world: Any) -> None:
    connection = await world.connect()
    world.broker.faults.stall("check")
    task = asyncio.ensure_future(connection.check())
    await world.clock.advance(1)
    world.broker.faults.cut()
    assert await fault_of(task) is Fault.LOST


@pytest.mark.parametrize("stored", [True, False])
async def test_single_records_can_be_refused(world: Any, stored: bool) -> None:
    connection = await world.connect()
    await connection.declare(world.channel())
    world.broker.faults.poison(lambda one: one.id in "bd", Fault.AMBIGUOUS, stored=stored)
    assert world.faults(await world.send(connection, *"abcd")) == [None, Fault.AMBIGUOUS, None, None]
    assert world.broker.depth("orders", "billing") == (4 if stored else 3)


async def test_a_restarted_server_keeps_messages_and_forgets_leases(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a", "b")
    receiver = await world.receiver(connection)
    a, b = await receiver.receive(9, 0)
    await world.ack(receiver, b)
    world.broker.faults.restart(away=10)
    assert await fault_of(world.connect()) is Fault.TRANSIENT
    await world.clock.advance(10)
    again = await world.receiver(await world.connect())
    assert not a.epoch.alive
    assert world.bodies(await again.receive(9, 0)) == ["a"]
    assert repr(world.broker.faults) == "<Faults failures=0 poisons=0 stalled=[]>"


async def test_a_server_can_come_back_empty(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a")
    world.broker.faults.restart(keep=False)
    connection = await world.connect(create=False)
    assert await fault_of(connection.declare(world.channel())) is Fault.CONFIG
    assert world.broker.depth("orders", "billing") == 0


@pytest.mark.parametrize("imitate", ["queue", "log", "lossy"])
async def test_a_forgotten_group_is_created_by_the_next_declare(world: Any, imitate: str) -> None:
    connection = await world.connect(imitate=imitate)
    await world.send(connection, "a")
    receiver = await world.receiver(connection)
    held = await receiver.receive(9, 0)
    world.broker.faults.forget("orders", "billing")
    if imitate == "lossy":
        return
    assert not held[0].epoch.alive
    assert await fault_of(receiver.receive(1, 0)) is Fault.LOST
    assert world.broker.pending(idle=True) == 0
    if imitate == "queue":
        assert world.broker.state.stores["orders", Purpose.EVENTS, ""].messages == 0
    await connection.declare(world.channel(start="latest"))
    await world.send(connection, "b")
    assert world.bodies(await (await world.receiver(connection)).receive(9, 0)) == ["b"]


async def test_forgetting_what_is_not_there_disturbs_nothing(world: Any) -> None:
    await world.send(await world.connect(), "a")
    world.broker.faults.forget("orders", "nobody")
    world.broker.faults.forget("invoices", "billing", Purpose.DEAD)
    assert world.broker.depth("orders", "billing") == 1


async def test_clearing_ends_every_fault(world: Any) -> None:
    connection = await world.connect()
    sender = await connection.sender(world.channel())
    demands = world.broker.faults
    demands.fail("check", Fault.LOST, times=99)
    demands.poison(lambda one: True, times=99)
    demands.stall("send")
    task = asyncio.ensure_future(sender.send([]))
    await world.clock.advance(1)
    demands.clear()
    assert await task == []
    await connection.check()
    assert not world.broker.rules.armed
