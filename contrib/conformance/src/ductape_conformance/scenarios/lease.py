"""Leases: how long a delivery is ours, and how that is prolonged."""

from __future__ import annotations

from ductape.adapter import Fault, Settlement, Verdict
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage


@scenario("lease.lapses", needs="kept lease")
async def lapses(stage: Stage) -> None:
    """What nobody settles or extends goes to another member after the lease, and not before."""
    first = await stage.member("a")
    await stage.send("m1")
    (one,) = await first.take(1)
    second = await stage.member("b", alone=True)
    assert one.leased_until is not None
    left = one.leased_until - stage.clock.now()
    assert left <= (stage.can.lease or 0.0)
    await second.silence(max(0.0, left * 0.8))
    await second.ack(*await second.take(1, within=stage.soon))
    assert stage.ids() == ["m1", "m1"]
    assert stage.log[1].at >= one.leased_until - 0.1


@scenario("lease.extended-stays-ours", needs="kept extend")
async def extended(stage: Stage) -> None:
    """Extending keeps a delivery beyond its lease, moves `leased_until`, and it can still be settled."""
    lease = stage.can.lease or 0.0
    first = await stage.member("a")
    await stage.send("m1")
    (one,) = await first.take(1)
    second = await stage.member("b", alone=True)
    for _ in range(5):
        before = one.leased_until or 0.0
        await second.silence(lease * 0.5)
        assert list(await first.receiver.extend([one])) == [None]
        assert one.leased_until is not None
        assert one.leased_until > before
    await first.ack(one)
    await second.silence(stage.soon)
    assert stage.ids() == ["m1"]


@scenario("lease.each-has-its-own", needs="kept extend !lease-shared")
async def own(stage: Stage) -> None:
    """One delivery that lapses takes no other with it."""
    lease = stage.can.lease or 0.0
    member = await stage.member("a")
    await stage.send("kept", "left")
    got = {one.body: one for one in await member.take(2)}
    for _ in range(4):
        await stage.clock.sleep(lease * 0.4)
        assert list(await member.receiver.extend([got[b"kept"]])) == [None]
    other = await stage.member("b", alone=True)
    again = await other.take(1, within=stage.soon)
    assert again[0].body == b"left"
    assert got[b"kept"].epoch.alive
    await member.ack(got[b"kept"])
    await other.ack(*again)
    await other.silence(stage.soon)


@scenario("lease.lost-is-told", needs="kept extend")
async def told(stage: Stage) -> None:
    """Extending what another member has by now is answered LOST, and takes nothing from that member."""
    first = await stage.member("a")
    await stage.send("m1")
    (mine,) = await first.take(1)
    second = await stage.member("b", alone=True)
    (theirs,) = await second.take(1, within=stage.soon)
    (answer,) = await first.receiver.extend([mine])
    assert answer is not None
    assert answer.fault is Fault.LOST
    await second.ack(theirs)
    await first.silence(0.5)
    assert stage.ids() == ["m1", "m1"]


@scenario("lease.late-verdicts-move-nothing", needs="kept extend")
async def late(stage: Stage) -> None:
    """A hand-back or retry of what another member has by now moves nothing: that member alone decides."""
    first = await stage.member("a")
    await stage.send("m1")
    (mine,) = await first.take(1)
    second = await stage.member("b", alone=True)
    (theirs,) = await second.take(1, within=stage.soon)
    (answer,) = await first.receiver.settle([Settlement(mine, Verdict.RELEASE)])
    assert answer is None or answer.fault is Fault.LOST
    await first.silence(0.5)
    await second.silence(0.5)
    await second.ack(theirs)
    await second.silence(stage.soon)
    assert stage.ids() == ["m1", "m1"]
