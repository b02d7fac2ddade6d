"""What settling means, seen from the broker's side."""

from __future__ import annotations

import asyncio

from ductape.adapter import AdapterError, Fault, Settlement, Verdict
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Member, Stage


async def afresh(stage: Stage, old: Member, name: str = "b") -> Member:
    """Close a member, and open another on a connection of its own."""
    await old.close()
    return await stage.member(name, alone=True)


@scenario("settle.acked-never-returns", needs="kept")
async def acked(stage: Stage) -> None:
    """An acknowledged message never comes back: not after the longest time of redelivery, not to a fresh consumer."""
    member = await stage.member()
    await stage.send("m1", "m2", "m3")
    await member.ack(*await member.take(3))
    fresh = await afresh(stage, member)
    await stage.send("sentinel")
    await fresh.ack(*await fresh.take(1))
    await fresh.silence(stage.soon)
    assert sorted(stage.ids()) == ["m1", "m2", "m3", "sentinel"]


@scenario("settle.unsettled-returns-after-close", needs="kept")
async def unsettled(stage: Stage) -> None:
    """What was delivered and not settled when its receiver closed is delivered again, all of it."""
    member = await stage.member()
    await stage.send(*(f"m{n}" for n in range(10)))
    got = await member.take(10)
    await member.ack(got[0])
    member.drop()
    fresh = await afresh(stage, member)
    again = await fresh.take(9, within=stage.soon)
    await fresh.ack(*again)
    assert sorted(one.body for one in again) == sorted(one.body for one in got[1:])
    await fresh.silence(0.5)


@scenario("settle.unsettled-returns-after-a-crash", needs="kept crash")
async def crashed(stage: Stage) -> None:
    """What a crashed process had received and not settled is delivered to another within the bound."""
    member = await stage.member("a", alone=True)
    await stage.send("m1", "m2", "m3")
    got = await member.take(3)
    await member.ack(got[1])
    await member.crash()
    fresh = await stage.member("b", alone=True)
    again = await fresh.take(2, within=stage.soon)
    await fresh.ack(*again)
    assert sorted(one.body for one in again) == sorted(one.body for one in (got[0], got[2]))
    await fresh.silence(0.5)


@scenario("settle.release-returns-at-once", needs="kept")
async def released(stage: Stage) -> None:
    """What is handed back is delivered again without waiting for a lease; what was not handed back is not."""
    member = await stage.member()
    await stage.send("m1", "m2")
    got = await member.take(2)
    began = stage.clock.now()
    await member.release(got[0])
    (again,) = await member.take(1, within=stage.soon)
    assert again.body == got[0].body
    if stage.can.lease is not None:
        assert stage.clock.now() - began < stage.can.lease * 0.8, "not by the lease running out"
    await member.ack(again, got[1])
    await member.silence(0.5)


@scenario("settle.release-reaches-another-member", needs="kept lease")
async def handed(stage: Stage) -> None:
    """What one member hands back reaches another that waits."""
    first = await stage.member("a")
    await stage.send("m1")
    (one,) = await first.take(1)
    second = await stage.member("b", alone=True)
    waiting = asyncio.ensure_future(second.take(1, within=stage.soon))
    await stage.clock.sleep(0.1)
    began = stage.clock.now()
    await first.release(one)
    await second.ack(*await waiting)
    assert stage.clock.now() - began < min(stage.soon, (stage.can.lease or stage.soon) * 0.8)
    assert stage.ids() == ["m1", "m1"]


@scenario("settle.release-is-no-attempt", needs="kept exact")
async def uncounted(stage: Stage) -> None:
    """Where counts are exact, handing back does not raise them."""
    member = await stage.member()
    await stage.send("m1")
    for _ in range(3):
        (one,) = await member.take(1, within=stage.soon)
        assert one.count == 1
        await member.release(one)
    await member.ack(*await member.take(1, within=stage.soon))


@scenario("settle.many-hand-backs-lose-nothing", needs="kept")
async def often(stage: Stage) -> None:
    """Messages that are handed back again and again are neither lost nor put away by the broker."""
    member = await stage.member()
    await stage.send(*(f"m{n}" for n in range(5)))
    for _ in range(25):  # beyond the limits that servers have on their own, such as 20
        await member.release(*await member.take(5, within=stage.soon + stage.patience))
    await member.ack(*await member.take(5, within=stage.soon + stage.patience))
    await member.silence(0.5)
    assert sorted(stage.ids()) == sorted(f"m{n}" for n in range(5) for _ in range(26))


@scenario("settle.retry-keeps-its-delay", needs="kept retry-delay")
async def retried(stage: Stage) -> None:
    """A retry comes back after its delay: never earlier, soon after, once, and to the group that failed."""
    member = await stage.member()
    other = await stage.member("other", "audit") if stage.can.groups == 2 else None
    await stage.send("m1")
    (one,) = await member.take(1)
    delay = max(1.5, stage.can.retry_step)
    began = stage.clock.now()
    await member.retry(one, delay=delay)
    (again,) = await member.take(1, within=delay + stage.soon)
    assert delay <= stage.log[-1].at - began <= delay + stage.soon
    assert (again.body, dict(again.headers), again.key) == (one.body, dict(one.headers), one.key)
    await member.ack(again)
    await member.silence(0.5)
    if other is not None:
        await other.ack(*await other.take(1))
        await other.silence(delay)


@scenario("settle.retry-survives-its-process", needs="kept retry-delay")
async def survives(stage: Stage) -> None:
    """A retry's delay is kept by the broker: it holds when the member that asked for it is gone."""
    member = await stage.member()
    await stage.send("m1")
    (one,) = await member.take(1)
    delay = max(1.5, stage.can.retry_step)
    began = stage.clock.now()
    await member.retry(one, delay=delay)
    fresh = await afresh(stage, member)
    await fresh.ack(*await fresh.take(1, within=delay + stage.soon))
    assert stage.log[-1].at - began >= delay


@scenario("settle.counts-grow", needs="kept count retry-delay")
async def counts(stage: Stage) -> None:
    """The count begins at 1 and grows with each failure."""
    member = await stage.member()
    await stage.send("m1")
    delay = stage.can.retry_step
    seen: list[int] = []
    for _ in range(3):
        (one,) = await member.take(1, within=delay + stage.soon)
        total = (one.count or 0) + one.failed
        seen.append(total)
        one.failed += 1  # as the kernel does, for adapters that carry what the broker's count loses
        await member.retry(one, delay=delay)
    await member.ack(*await member.take(1, within=delay + stage.soon))
    assert seen[0] == 1
    assert seen == sorted(set(seen)), f"counts were {seen}"


@scenario("settle.twice-is-harmless", needs="kept")
async def twice(stage: Stage) -> None:
    """Settling a delivery again is answered, changes nothing, and settles no other message."""
    member = await stage.member()
    await stage.send("m1", "m2")
    first, second = await member.take(2)
    await member.ack(first)
    for verdict in (Verdict.ACK, Verdict.RELEASE):
        (answer,) = await member.receiver.settle([Settlement(first, verdict)])
        assert answer is None or answer.fault is Fault.LOST
    await member.silence(0.5)
    member.drop()
    fresh = await afresh(stage, member)
    (again,) = await fresh.take(1, within=stage.soon)
    assert again.body == second.body, "only what was not settled returns"
    await fresh.ack(again)
    await fresh.silence(0.5)


@scenario("settle.one-answer-each", needs="kept")
async def mixed(stage: Stage) -> None:
    """One call settles many deliveries with mixed verdicts; each gets its answer and its own fate."""
    member = await stage.member()
    await stage.send(*(f"m{n}" for n in range(30)))
    got = await member.take(30)
    assert list(await member.receiver.settle([])) == []
    verdicts = [Verdict.ACK if number % 3 else Verdict.RELEASE for number in range(30)]
    answers = await member.receiver.settle([Settlement(*pair) for pair in zip(got, verdicts, strict=True)])
    assert list(answers) == [None] * 30
    for one in got:
        one.epoch.settled()
    member.drop()
    again = await member.take(10, within=stage.soon)
    await member.ack(*again)
    assert sorted(one.body for one in again) == sorted(one.body for one in got[::3])
    await member.silence(0.5)


@scenario("settle.beside-a-waiting-receive", needs="kept")
async def beside(stage: Stage) -> None:
    """Settling does not wait for a receive that is under way."""
    member = await stage.member()
    await stage.send("m1")
    (one,) = await member.take(1)
    began = stage.clock.now()
    waiting = asyncio.ensure_future(member.receive(10, 3.0))
    await asyncio.sleep(0)
    await member.ack(one)
    assert stage.clock.now() - began < 2.0
    assert list(await waiting) == []


@scenario("settle.after-close-is-refused", needs="kept")
async def closed(stage: Stage) -> None:
    """A settlement that comes after the receiver closed fails, and settles nothing."""
    member = await stage.member()
    await stage.send("m1")
    (one,) = await member.take(1)
    member.drop()
    fresh = await afresh(stage, member)
    try:
        (answer,) = await member.receiver.settle([Settlement(one, Verdict.ACK)])
    except AdapterError as error:
        answer = error
    assert answer is not None, "it cannot have been settled"
    assert answer.fault in (Fault.LOST, Fault.TRANSIENT)
    await fresh.ack(*await fresh.take(1, within=stage.soon))


@scenario("settle.old-deliveries-settle-nothing-new", needs="kept")
async def stale(stage: Stage) -> None:
    """A delivery from before a reopening never settles another message, whatever numbers the broker gives again."""
    member = await stage.member("a", alone=True)
    await stage.send("m1", "m2", "m3")
    old = await member.take(3)
    await member.ack(*old)
    fresh = await afresh(stage, member)
    await stage.send("n1", "n2", "n3")
    new = await fresh.take(3, within=stage.soon)
    for one in old:
        try:
            await fresh.receiver.settle([Settlement(one, Verdict.ACK)])
        except AdapterError:
            break  # a receiver may refuse what it never gave
    fresh.drop()
    last = await afresh(stage, fresh, "c")
    again = await last.take(3, within=stage.soon)
    await last.ack(*again)
    assert sorted(one.body for one in again) == sorted(one.body for one in new) == [b"n1", b"n2", b"n3"]


@scenario("settle.confirmed-survives-a-cut", needs="kept confirmed cut")
async def confirmed(stage: Stage) -> None:
    """Where acknowledgements are confirmed, a cut right after `settle` returned brings nothing back."""
    member = await stage.member("a", alone=True)
    await stage.send(*(f"m{n}" for n in range(20)))
    await member.ack(*await member.take(20))
    await stage.harness.cut()
    fresh = await stage.newcomer()
    await fresh.silence(stage.soon)
    assert len(stage.log) == 20
