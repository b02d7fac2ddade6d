"""Stopping and closing: idempotent, bounded, and nothing is lost or left behind."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from ductape.adapter import AdapterError, Fault
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage


@scenario("stop.ends-a-waiting-receive")
async def ends(stage: Stage) -> None:
    """Asked to stop, a waiting call ends soon, and calls after it return at once and nothing."""
    member = await stage.member()
    waiting = asyncio.ensure_future(member.receive(10, 9.0))
    await stage.clock.sleep(0.2)
    began = stage.clock.now()
    await member.receiver.stop()
    assert list(await waiting) == []
    assert stage.clock.now() - began < 5.0
    await stage.send("m1")
    assert list(await member.receive(10, 0.0)) == []


@scenario("stop.settling-still-works", needs="kept")
async def settles(stage: Stage) -> None:
    """After `stop` what is out can still be settled, and is settled for good."""
    member = await stage.member()
    await stage.send("m1", "m2")
    out = await member.take(2)
    await member.receiver.stop()
    await member.receiver.stop()
    await member.ack(*out)
    await member.close()
    fresh = await stage.member("b", alone=True)
    await fresh.silence(stage.soon)


@scenario("stop.nothing-is-swallowed", needs="kept")
async def swallowed(stage: Stage) -> None:
    """What arrives while a member stops is either still handed over, or delivered to another; never neither."""
    member = await stage.member("a", alone=True, window=200)
    waiting = asyncio.ensure_future(member.receive(10, 5.0))
    sending = asyncio.ensure_future(stage.send(*(f"m{n}" for n in range(50))))
    await asyncio.sleep(0)
    await member.receiver.stop()
    got = list(await waiting)
    await sending
    while some := await member.receive(100, 0.0):
        got += some
    await member.ack(*got)
    await member.close()
    fresh = await stage.member("b", alone=True)
    rest = await fresh.take(50 - len(got), within=stage.soon)
    await fresh.ack(*rest)
    assert sorted(stage.ids()) == sorted(f"m{n}" for n in range(50))


@scenario("close.hands-back-what-is-inside", needs="kept")
async def inside(stage: Stage) -> None:
    """What an adapter holds inside, prefetched or not, is delivered to others within the bound after it closed."""
    member = await stage.member("a", alone=True, window=50)
    await stage.send(*(f"m{n}" for n in range(50)))
    got = await member.take(1)
    await member.ack(*got)
    await member.close()
    fresh = await stage.member("b", alone=True)
    await fresh.ack(*await fresh.take(49, within=stage.soon))
    assert sorted(stage.ids()) == sorted(f"m{n}" for n in range(50))


@scenario("close.twice-is-harmless", needs="groups")
async def twice(stage: Stage) -> None:
    """Closing a sender, a receiver or a connection twice, or a receiver after its connection, is harmless."""
    connection = await stage.connect()
    member = await stage.member(connection=connection)
    sender = await stage.sender(connection=connection)
    for target in (sender, member.receiver, connection):
        await target.close()
        await target.close()
    other = await stage.connect()
    receiver = (await stage.member("b", connection=other)).receiver
    await other.close()
    await receiver.stop()
    await receiver.close()


@scenario("close.while-receiving")
async def while_receiving(stage: Stage) -> None:
    """Closing a receiver whose `receive` is under way ends that call within the bound of closing."""
    member = await stage.member("a", alone=True)
    waiting = asyncio.ensure_future(member.receive(10, 9.0))
    await stage.clock.sleep(0.1)
    began = stage.clock.now()
    await member.receiver.close()
    (ended,) = await asyncio.gather(waiting, return_exceptions=True)
    assert (isinstance(ended, AdapterError) and ended.fault is Fault.LOST) or list(ended) == []  # type: ignore[arg-type]
    assert stage.clock.now() - began < 5.0


@scenario("close.ends-the-epochs", needs="groups")
async def epochs(stage: Stage) -> None:
    """Closing ends the epoch of everything that was not settled."""
    member = await stage.member()
    await stage.send("m1")
    (one,) = await member.take(1)
    epoch = one.epoch
    before = epoch.alive
    await member.close()
    assert (before, epoch.alive, epoch.accepting) == (True, False, False)


@scenario("close.use-afterwards-is-lost", needs="groups")
async def afterwards(stage: Stage) -> None:
    """What was opened from a closed connection, and the connection itself, raise LOST from then on."""
    connection = await stage.connect()
    member = await stage.member(connection=connection)
    sender = await stage.sender(connection=connection)
    await connection.close()
    calls = {
        "send": lambda: sender.send([stage.record("m1")]),
        "receive": lambda: member.receiver.receive(1, 0.0),
        "declare": lambda: connection.declare(stage.channel()),
        "sender": lambda: connection.sender(stage.channel()),
        "check": lambda: connection.check(),
    }
    told: dict[str, Fault | None] = dict.fromkeys(calls)
    for name, call in calls.items():
        try:
            answer: object = await call()  # type: ignore[no-untyped-call]  # calls of several kinds
        except AdapterError as error:
            told[name] = error.fault
        else:  # send may answer for each record
            first = answer[0] if isinstance(answer, list) and answer else None
            told[name] = first.fault if isinstance(first, AdapterError) else None
    assert told == dict.fromkeys(calls, Fault.LOST)


@scenario("close.leaves-nothing-running", needs="groups")
async def nothing(stage: Stage) -> None:
    """Opening and closing ten times leaves no task and no socket behind, and loses nothing."""
    sockets = Path("/proc/self/fd")

    def counted() -> tuple[int, int]:
        return len(asyncio.all_tasks()), len(os.listdir(sockets)) if sockets.is_dir() else 0

    async def turn(number: int) -> None:
        connection = await stage.connect()
        member = await stage.member(connection=connection)
        sender = await stage.sender(connection=connection)
        await sender.send([stage.record(f"m{number}")])
        await member.ack(*await member.take(1))
        await member.close()
        await sender.close()
        await connection.close()
        await stage.clock.sleep(0.05)

    await turn(0)
    before = counted()
    for number in range(1, 10):
        await turn(number)
    await stage.until(lambda: counted() <= before, within=5.0)
    assert sorted(stage.ids()) == sorted(f"m{number}" for number in range(10))


@scenario("close.at-the-same-time", needs="kept")
async def concurrently(stage: Stage) -> None:
    """Opening and closing many members at once loses nothing and hangs nowhere."""
    await stage.declare("billing")
    await stage.send(*(f"m{n}" for n in range(20)))

    async def visit(name: str) -> None:
        member = await stage.member(name, alone=True)
        await member.receive(3, 0.05)
        member.drop()
        await member.close()

    await asyncio.gather(*(visit(f"v{n}") for n in range(6)))
    fresh = await stage.member("last", alone=True)
    got = await fresh.take(20, within=stage.soon + stage.patience)
    await fresh.ack(*got)
    assert len({one.body for one in got}) == 20
    await fresh.silence(0.5)
