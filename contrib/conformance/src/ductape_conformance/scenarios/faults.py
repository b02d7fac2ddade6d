"""What an adapter says when its server or connection fails."""

from __future__ import annotations

import pytest

from ductape.adapter import AdapterError, Fault, Settlement, Verdict
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage

SAID = (Fault.TRANSIENT, Fault.LOST, Fault.AMBIGUOUS)


@scenario("faults.an-absent-server-is-transient", needs="kill")
async def absent(stage: Stage) -> None:
    """While the server is away, connecting fails with TRANSIENT, within its bound."""
    await stage.harness.kill()
    began = stage.clock.now()
    with pytest.raises(AdapterError) as refused:
        await stage.connect()
    assert refused.value.fault is Fault.TRANSIENT
    assert stage.clock.now() - began < 10.0
    await stage.harness.restart()
    await stage.patiently(stage.connect)


@scenario("faults.a-cut-is-noticed", needs="groups cut")
async def cut(stage: Stage) -> None:
    """After a cut, calls fail with TRANSIENT or LOST or work again, within their bounds; none of them hangs."""
    member = await stage.member("a", alone=True)
    sender = await stage.sender(connection=member.connection)
    await stage.harness.cut()
    for call in (
        lambda: member.receiver.receive(1, 0.2),
        lambda: sender.send([stage.record("m1")]),
        member.connection.check,
    ):
        began = stage.clock.now()
        try:
            answers = await call()
        except AdapterError as error:
            answers = [error]
        assert all(not isinstance(one, AdapterError) or one.fault in SAID for one in answers or [])
        assert stage.clock.now() - began < 10.0


@scenario("faults.a-cut-loses-nothing", needs="kept cut")
async def keeps(stage: Stage) -> None:
    """What was out when the connection was cut can be settled or is delivered again: each is acknowledged once."""
    member = await stage.member("a", alone=True)
    await stage.send(*(f"m{n}" for n in range(10)))
    out = await member.take(10)
    await stage.harness.cut()
    acked: list[str] = []
    for one in out:
        if not one.epoch.alive:
            continue
        try:
            (answer,) = await member.receiver.settle([Settlement(one, Verdict.ACK)])
        except AdapterError:
            continue
        acked += [one.headers["ductape-id"]] if answer is None else []
    member.drop()
    fresh = await stage.newcomer()
    got = await fresh.take(10 - len(acked), within=stage.soon)
    await fresh.ack(*got)
    await fresh.silence(stage.soon)
    assert sorted([*acked, *(one.headers["ductape-id"] for one in got)]) == sorted(f"m{n}" for n in range(10))


@scenario("faults.stored-survives-a-kill", needs="stored kept kill")
async def killed(stage: Stage) -> None:
    """What was confirmed before the server was killed is there after it came back, and what was acknowledged is not."""
    member = await stage.member("a", alone=True)
    await stage.send(*(f"m{n}" for n in range(30)))
    done = await member.take(10)
    await member.ack(*done)
    await stage.clock.sleep(1.0 if stage.can.confirmed_ack is False else 0.0)
    await stage.harness.kill()
    await stage.harness.restart()
    fresh = await stage.newcomer()
    got = await fresh.take(20, within=stage.soon + stage.patience)
    await fresh.ack(*got)
    await fresh.silence(0.5)
    assert {one.body for one in got} | {one.body for one in done} == {b"m%d" % n for n in range(30)}


@scenario("faults.a-new-connection-works", needs="groups cut")
async def anew(stage: Stage) -> None:
    """After a cut, a new connection sends and receives."""
    await stage.harness.cut()
    member = await stage.newcomer()
    sender = await stage.sender(connection=member.connection)
    await sender.send([stage.record("m1")])
    await member.ack(*await member.take(1))
