"""A group's private channels: its way back, and its dead letters."""

from __future__ import annotations

from ductape.adapter import Purpose
from ductape_conformance._scenario import scenario
from ductape_conformance._stage import Stage


@scenario("derived.dead-letters-wait", needs="groups")
async def waits(stage: Stage) -> None:
    """A DEAD channel keeps what is stored with nobody listening, from the first on."""
    channel = stage.channel(purpose=Purpose.DEAD)
    await stage.main.declare(channel)
    await stage.send("d1", "d2", channel=channel)
    reader = await stage.member(channel=channel, alone=True, start="earliest")
    await reader.ack(*await reader.take(2))
    assert sorted(stage.ids()) == ["d1", "d2"]


@scenario("derived.channels-are-private", needs="groups")
async def private(stage: Stage) -> None:
    """What is stored on one group's RETRY or DEAD channel reaches no other group, and not the other channel."""
    groups = ("billing", "audit") if stage.can.groups == 2 else ("billing",)
    places = [(purpose, group) for purpose in (Purpose.RETRY, Purpose.DEAD) for group in groups]
    for group in groups:
        await stage.declare(group)
    for purpose, group in places:
        await stage.send(f"{purpose.value}.{group}", channel=stage.channel(group, purpose=purpose))
    for purpose, group in places:
        channel = stage.channel(group, purpose=purpose)
        can = stage.main.capabilities(channel)
        if purpose is Purpose.RETRY and can is not None and can.retry_joins:
            channel = stage.channel(group)
        reader = await stage.member(f"{purpose.value}.{group}", group, channel=channel, start="earliest")
        (got,) = await reader.take(1, within=stage.soon)
        await reader.ack(got)
        assert got.body.decode() == f"{purpose.value}.{group}"
        await reader.silence(0.5)


@scenario("derived.retry-delays", needs="groups")
async def delays(stage: Stage) -> None:
    """A RETRY channel delays what is stored there by as much as it declares, and keeps it when its sender is gone."""
    await stage.declare("billing")
    channel = stage.channel(purpose=Purpose.RETRY)
    connection = await stage.connect()
    sender = await stage.sender(channel, connection)
    can = connection.capabilities(channel) or stage.can
    delay = min(1.5, can.send_delay)
    began = stage.clock.now()
    await sender.send([stage.record("m1", delay=delay)])
    await sender.close()
    await connection.close()
    reader = await stage.member(channel=stage.channel() if can.retry_joins else channel, alone=True)
    await reader.ack(*await reader.take(1, within=delay + stage.soon))
    assert stage.log[0].at - began >= delay
