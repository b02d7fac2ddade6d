"""Who gets what: groups and their members."""

from __future__ import annotations

from ductape.adapter import Groups, Purpose, Removable, Verdict
from ductape_conformance._scenario import NotApplicable, scenario
from ductape_conformance._stage import Stage


@scenario("groups.each-gets-all", needs="many")
async def each(stage: Stage) -> None:
    """Every group sees every message, and one group's acknowledgement settles nothing for another."""
    billing, audit = await stage.member("a", "billing"), await stage.member("b", "audit")
    await stage.send(*(f"m{n}" for n in range(10)))
    await billing.ack(*await billing.take(10))
    await audit.ack(*await audit.take(10))
    await billing.silence(0.5)
    await audit.silence(0.5)
    assert sorted(stage.ids("a")) == sorted(stage.ids("b")) == sorted(f"m{n}" for n in range(10))


@scenario("groups.members-share", needs="groups")
async def share(stage: Stage) -> None:
    """The members of a group share its messages: each message is delivered to one of them, once."""
    members = [await stage.member(name, alone=True, window=10) for name in "abc"]
    await stage.send(*(stage.record(f"m{n}", f"k{n}") for n in range(30)))
    end = stage.clock.now() + stage.patience
    while len(stage.log) < 30 and stage.clock.now() < end:
        for member in members:
            await member.ack(*await member.receive(3, 0.05))
    for member in members:
        await member.silence(0.3)
    assert sorted(stage.ids()) == sorted(f"m{n}" for n in range(30))


@scenario("groups.without-them-everybody-gets-all", needs="!groups")
async def broadcast(stage: Stage) -> None:
    """On a channel without groups every receiver gets its own copy."""
    members = [await stage.member(name, alone=True) for name in "ab"]
    await stage.send("m1", "m2")
    for member in members:
        await member.ack(*await member.take(2))
    assert sorted(stage.ids("a")) == sorted(stage.ids("b")) == ["m1", "m2"]


@scenario("groups.declared-is-enough", needs="kept")
async def declared(stage: Stage) -> None:
    """A group that was declared gets what is stored before any of its members opens."""
    groups = ("billing", "audit") if stage.can.groups == 2 else ("billing",)
    await stage.declare(*groups)
    await stage.send("m1", "m2")
    for group in groups:
        member = await stage.member(group, group)
        await member.ack(*await member.take(2))
        assert sorted(stage.ids(group)) == ["m1", "m2"]


@scenario("groups.a-removed-one-leaves-nothing-behind", needs="kept many")
async def removed(stage: Stage) -> None:
    """A removed group leaves nothing behind, neither messages nor dead letters; the other groups keep theirs."""
    connection, audit = stage.main, stage.channel("audit")
    if not isinstance(connection, Removable):
        raise NotApplicable("remove is not declared", declared=True)
    dead = stage.channel("audit", purpose=Purpose.DEAD)
    await stage.declare("billing", "audit")
    await connection.declare(dead)
    await stage.send("m1")
    await stage.send("d1", channel=dead)
    for _ in range(2):
        await connection.remove(audit)
    anew = await stage.member("audit", "audit", start="latest")
    await stage.send("m2")
    await anew.ack(*await anew.take(1))
    await anew.silence(0.5)
    letters = await stage.member("dead", "audit", channel=dead, start="earliest")
    await letters.silence(0.5)
    billing = await stage.member("billing", start="earliest")
    await billing.ack(*await billing.take(2))
    assert stage.ids("audit") == ["m2"]
    assert stage.ids("dead") == []
    assert sorted(stage.ids("billing")) == ["m1", "m2"]


@scenario("groups.history-is-offered", needs="history many")
async def history(stage: Stage) -> None:
    """A new group can begin with what was stored before it existed."""
    first = await stage.member("a")
    await stage.send("m1", "m2")
    await first.ack(*await first.take(2))
    late = await stage.member("late", "late", start="earliest")
    await late.ack(*await late.take(2))
    assert sorted(stage.ids("late")) == ["m1", "m2"]


@scenario("groups.latest-begins-with-now", needs="many")
async def latest(stage: Stage) -> None:
    """A new group that begins at the latest gets what is stored from then on, and nothing older."""
    first = await stage.member("a")
    await stage.send("old")
    await first.ack(*await first.take(1))
    late = await stage.member("late", "late", start="latest")
    await stage.send("new")
    await late.ack(*await late.take(1))
    await late.silence(0.5)
    assert stage.ids("late") == ["new"]


@scenario("groups.a-leaver-attracts-nothing", needs="groups")
async def leaver(stage: Stage) -> None:
    """After one member closed, everything new reaches the others at once, without waiting for any lease."""
    leaving, staying = await stage.member("leaving", alone=True), await stage.member("staying", alone=True)
    await stage.send("m0")
    end = stage.clock.now() + stage.patience
    while not stage.log and stage.clock.now() < end:
        for member in (leaving, staying):
            await member.ack(*await member.receive(1, 0.05))
    await leaving.close()
    await leaving.connection.close()
    began = stage.clock.now()
    await stage.send(*(stage.record(f"n{n}", f"k{n}") for n in range(20)))
    for _ in range(20):  # one by one, as a kernel settles: what is held while a group moves may be taken away
        await staying.ack(*await staying.take(1, within=stage.soon))
    assert stage.clock.now() - began < stage.soon
    assert sorted(stage.ids("staying"))[-20:] == sorted(f"n{n}" for n in range(20))


@scenario("groups.members-come-and-go", needs="kept")
async def come_and_go(stage: Stage) -> None:
    """While members join and leave with messages in hand, none is lost; what was acknowledged does not come again."""
    await stage.declare("billing")
    staying = await stage.member("staying", alone=True)
    acked: list[str] = []
    for turn in range(4):
        guest = await stage.member(f"guest{turn}", alone=True)
        await stage.send(*(stage.record(f"m{turn}.{n}", f"k{n}") for n in range(10)))
        for member in (guest, staying):
            for number, one in enumerate(await member.receive(4, 0.1)):
                if one.epoch.alive and not (member is guest and number == 2):
                    (answer,) = await member.settle(Verdict.ACK, one)
                    acked += [] if answer else [one.headers["ductape-id"]]
        guest.drop()
        await guest.close()
    end = stage.clock.now() + stage.soon + stage.patience
    while len(set(acked)) < 40 and stage.clock.now() < end:
        for one in await staying.receive(10, 0.2):
            (answer,) = await staying.settle(Verdict.ACK, one)
            acked += [] if answer else [one.headers["ductape-id"]]
    await staying.silence(0.5)
    assert sorted(acked) == sorted(f"m{turn}.{n}" for turn in range(4) for n in range(10)), "each acknowledged once"


@scenario("groups.forgotten-is-declared-again", needs="kept forget")
async def forgotten(stage: Stage) -> None:
    """A group that the server lost is there again after it was declared, and gets what is stored from then on."""
    if stage.can.groups is Groups.MANY:
        await stage.declare("audit")  # which stays: the channel is not empty of groups
    member = await stage.member("a", alone=True)
    await stage.send("m1")
    await member.ack(*await member.take(1))
    await member.close()
    await stage.harness.forget(stage.channel().name, "billing")
    await stage.declare("billing")
    await stage.send("m2")
    fresh = await stage.member("b", alone=True)
    got = await fresh.rest(0.5)
    await fresh.ack(*got)
    assert b"m2" in [one.body for one in got]
