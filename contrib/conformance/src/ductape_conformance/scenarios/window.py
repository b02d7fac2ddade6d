"""How much is handed over, and when."""

from __future__ import annotations

import asyncio

from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage


@scenario("window.is-a-hard-bound")
async def bound(stage: Stage) -> None:
    """No more deliveries are out than the window allows, whatever `receive` is asked for."""
    member = await stage.member(window=5)
    await stage.send(*(f"m{n}" for n in range(12)))
    out = await member.take(5)
    assert list(await member.receive(100, 0.3)) == []
    await member.ack(*out[:2])
    more = await member.take(2)
    assert list(await member.receive(100, 0.3)) == []
    await member.ack(*out[2:], *more)
    last = await member.take(5)
    await member.ack(*last)
    assert len(set(stage.ids())) == len(stage.ids()) == 12


@scenario("window.leaves-the-rest-to-others", needs="kept lease")
async def rest(stage: Stage) -> None:
    """What does not fit into one member's window is not kept from the others."""
    first = await stage.member("a", window=3)
    await stage.send(*(f"m{n}" for n in range(9)))
    mine = await first.take(3)
    second = await stage.member("b", alone=True)
    theirs = await second.take(6)
    await first.ack(*mine)
    await second.ack(*theirs)
    assert len(set(stage.ids())) == len(stage.ids()) == 9


@scenario("receive.keeps-to-its-limit")
async def limit(stage: Stage) -> None:
    """One call never returns more than it was asked for; asked for none it takes nothing."""
    member = await stage.member()
    await stage.send("m1", "m2", "m3")
    assert list(await member.receive(0, 0.0)) == []
    for _ in range(3):
        (one,) = await member.take(1)
        assert list(await member.receive(0, 0.0)) == []
        await member.ack(one)
    assert sorted(stage.ids()) == ["m1", "m2", "m3"]


@scenario("receive.returns-within-its-wait")
async def within(stage: Stage) -> None:
    """On an empty channel a call returns nothing after its wait and a round trip."""
    member = await stage.member()
    for wait in (0.0, 0.4):
        began = stage.clock.now()
        assert list(await member.receive(10, wait)) == []
        assert stage.clock.now() - began < wait + 2.0


@scenario("receive.wakes-for-what-is-new")
async def wakes(stage: Stage) -> None:
    """A waiting call returns as soon as there is one, not when its wait is over."""
    member = await stage.member()
    waiting = asyncio.ensure_future(member.receive(10, 8.0))
    await stage.clock.sleep(0.2)
    began = stage.clock.now()
    await stage.send("m1")
    (one,) = await waiting
    assert stage.clock.now() - began < 4.0
    await member.ack(one)


@scenario("receive.short-polls-lose-nothing", needs="groups")
async def polls(stage: Stage) -> None:
    """Messages that arrive between or during short calls are delivered by the next, each once."""
    member = await stage.member()
    done = asyncio.Event()

    async def publish() -> None:
        for number in range(30):
            await stage.send(f"m{number}")
            await stage.clock.sleep(0.01)
        done.set()

    publishing = asyncio.ensure_future(publish())
    end = stage.clock.now() + stage.patience
    while len(stage.log) < 30 and stage.clock.now() < end:
        await member.ack(*await member.receive(2, 0.005))
    await publishing
    await member.silence(0.5)
    assert sorted(stage.ids()) == sorted(f"m{number}" for number in range(30))
