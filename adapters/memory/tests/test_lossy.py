"""The imitation of a fire-and-forget channel."""

from __future__ import annotations

import asyncio
from typing import Any

from ductape.adapter import Stored
from ductape.errors import Fault


async def test_everybody_who_listens_gets_everything(world: Any) -> None:
    connection = await world.connect(imitate="lossy")
    first, second = await world.receiver(connection), await world.receiver(connection)
    waiting = asyncio.ensure_future(second.receive(9, 60))
    await world.clock.advance(1)
    await world.send(connection, "a", "b")
    assert world.bodies(await first.receive(9, 0)) == ["a", "b"]
    assert world.bodies(await waiting) == ["a", "b"]


async def test_what_nobody_hears_is_gone(world: Any) -> None:
    connection = await world.connect(imitate="lossy")
    assert await world.send(connection, "a") == [Stored("orders@1")]
    receiver = await world.receiver(connection)
    assert await receiver.receive(9, 0) == []
    assert world.broker.messages("orders") == []


async def test_a_full_buffer_drops_and_counts_what_it_drops(world: Any) -> None:
    connection = await world.connect(imitate="lossy", buffer=2)
    receiver, other = await world.receiver(connection), await world.receiver(connection)
    await world.send(connection, "a", "b")
    await other.receive(9, 0)
    await world.send(connection, "c")
    assert (receiver.dropped(), other.dropped(), await receiver.lag()) == (1, 0, 2)
    assert world.bodies(await receiver.receive(9, 0)) == ["a", "b"]


async def test_the_window_bounds_what_is_out_there_too(world: Any) -> None:
    connection = await world.connect(imitate="lossy")
    receiver = await world.receiver(connection, window=2)
    await world.send(connection, *"abc")
    held = await receiver.receive(9, 0)
    assert await receiver.receive(9, 0) == []
    assert world.broker.pending() == 3
    assert await world.ack(receiver, held[0], held[0]) == [None, Fault.LOST]
    assert world.bodies(await receiver.receive(9, 0)) == ["c"]


async def test_what_is_handed_back_returns_to_the_own_buffer(world: Any) -> None:
    connection = await world.connect(imitate="lossy")
    receiver = await world.receiver(connection)
    await world.send(connection, *"abc")
    a, b = await receiver.receive(2, 0)
    await world.release(receiver, b, a)
    assert world.bodies(await receiver.receive(9, 0)) == ["a", "b", "c"]


async def test_closing_forgets_what_waits(world: Any) -> None:
    connection = await world.connect(imitate="lossy")
    receiver = await world.receiver(connection)
    await world.send(connection, "a", "b")
    (held,) = await receiver.receive(1, 0)
    await receiver.close()
    assert not held.epoch.alive
    assert world.broker.pending(idle=True) == 0
