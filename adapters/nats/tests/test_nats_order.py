"""Order by the pinned consumer: who takes over waits for what is pending, and hands it over as it was stored."""

import asyncio
from collections import deque
from typing import Any

import pytest

from ductape.adapter import AdapterError, Connection, Delivery, Epoch, Fault, Intake, Order, Receiver, Verdict
from ductape_conformance.proxy import TcpProxy
from ductape_nats import NatsAdapter, NatsConfig
from ductape_nats._pin import Pin
from ductape_nats._receiver import StreamReceiver
from ductape_nats._streams import Group
from ductape_nats._wire import Token
from tests.brokers.server import Server
from tests.contract import patiently, record, settle, take

from .conftest import World, event, publish, site

pytestmark = pytest.mark.broker

ORDERED = event(order=Order.KEY)


async def joined(world: World, connection: Connection, window: int = 64) -> Receiver:
    return await world.receiver(connection, window=window, order=Order.KEY)


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [int(delivery.body) for delivery in deliveries]


async def drained(receiver: Receiver, number: int, within: float = 10.0) -> list[int]:
    """Takes and settles one by one; returns the order."""
    found: list[int] = []
    for _ in range(number):
        one = await take(receiver, 1, within)
        found += numbers(one)
        await settle(receiver, one)
    return found


async def test_one_member_has_all_until_it_leaves(world: World) -> None:
    first, second = await joined(world, await world.connect()), await joined(world, await world.connect())
    await publish(await world.connect(), *map(record, range(10)), channel=ORDERED)
    got = await take(first, 10)
    other = await take(second, 1, 0.5)
    assert (len(got), len(other)) in ((10, 0), (0, 1)), "one of them, and the other nothing"
    owner, waiting = (first, second) if got else (second, first)
    out = got or other + await take(second, 9)
    await settle(owner, out[:3])
    await owner.close()
    assert await drained(waiting, 7) == list(range(3, 10))


async def test_a_member_that_takes_over_a_dead_ones_messages_has_them_in_order_and_before_new_ones(
    world: World, nats_proxy: TcpProxy
) -> None:
    dying, other = await world.through(nats_proxy.port, lease=2.0), await world.connect(lease=2.0)
    first = await joined(world, dying)
    await publish(other, *map(record, range(20)), channel=ORDERED)
    held = await take(first, 20)
    for delivery in reversed(held):  # so that they fall due in the opposite order
        await asyncio.sleep(0.01)
        assert await first.extend([delivery]) == [None]
    await nats_proxy.refuse()
    nats_proxy.cut()
    await publish(other, *map(record, range(20, 30)), channel=ORDERED)
    second = await joined(world, other)
    assert await drained(second, 30) == list(range(30))
    await nats_proxy.accept()


async def test_what_a_broken_connection_swallowed_comes_before_what_is_newer(
    world: World, nats_proxy: TcpProxy
) -> None:
    connection, other = await world.through(nats_proxy.port, lease=1.0), await world.connect(lease=1.0)
    receiver = await joined(world, connection)
    await publish(other, record(0), channel=ORDERED)
    held = await take(receiver, 1)
    await receiver.receive(10, 0.3)
    nats_proxy.half_open()
    await publish(other, record(1), record(2), channel=ORDERED)
    while (await world.consumer())["num_ack_pending"] < 3:
        await asyncio.sleep(0.01)
    nats_proxy.cut()
    nats_proxy.resume()
    await publish(other, record(3), channel=ORDERED)
    found: list[int] = []

    async def rest() -> None:
        while len(found) < 3:
            if held:
                await receiver.extend(held)
            some = list(await receiver.receive(10, 0.2))
            found.extend(numbers(some))
            await settle(receiver, some)

    await patiently(rest)
    assert found == [1, 2, 3]
    assert await settle(receiver, held) == [None]


async def test_a_member_whose_window_is_full_keeps_its_place(world: World) -> None:
    first = await joined(world, await world.connect(lease=0.5), window=2)
    second = await joined(world, await world.connect(lease=0.5))
    await publish(await world.connect(lease=0.5), *map(record, range(4)), channel=ORDERED)
    held = await take(first, 2)
    if not held:
        first, second = second, first
        held = await take(first, 2)
    for _ in range(12):  # longer than the silence that would unpin it
        assert list(await first.receive(0, 0.0)) == []
        await first.extend(held)
        assert list(await second.receive(10, 0.3)) == []
    await settle(first, held)
    await first.close()


async def test_what_still_runs_with_a_stopped_member_is_not_overtaken(world: World) -> None:
    first = await joined(world, await world.connect(lease=0.6))
    await publish(await world.connect(lease=0.6), *map(record, range(6)), channel=ORDERED)
    held = await take(first, 6)
    await first.stop()
    await settle(first, held[3:], Verdict.RELEASE)
    second = await joined(world, await world.connect(lease=0.6))
    for _ in range(14):  # its place is gone after a while; its messages are not
        assert await first.extend(held[:3]) == [None] * 3
        assert list(await second.receive(10, 0.25)) == []
    await settle(first, held[:3])
    await first.close()
    assert await drained(second, 3) == [3, 4, 5]


@pytest.mark.kills
async def test_order_is_kept_through_a_kill_of_the_server(world: World) -> None:
    connections = [await world.connect(lease=0.6) for _ in range(2)]
    members = [await joined(world, connection) for connection in connections]
    await publish(connections[0], *map(record, range(30)), channel=ORDERED)
    done: list[int] = []

    async def some(place: int) -> None:
        """What the kernel does: a member that is lost is closed, and another opened in its place."""
        try:
            found = list(await members[place].receive(3, 0.2))
            if found:
                await settle(members[place], found)
        except AdapterError as error:
            if error.fault is not Fault.TRANSIENT:
                await members[place].close()
                members[place] = await joined(world, connections[place])
            return
        done.extend(numbers(found))

    while len(done) < 9:
        await some(0)
        await some(1)
    await asyncio.sleep(0.5)  # the server writes acknowledgements a moment later
    world.server.kill()
    world.server.restart()
    while len(done) < 30:
        await some(0)
        await some(1)
    assert done == list(range(30))


@pytest.mark.kills
async def test_what_a_restarted_server_may_have_forgotten_is_given_up_where_order_is_kept(world: World) -> None:
    connection = await world.connect(lease=0.6)
    receiver = await joined(world, connection)
    await publish(connection, *map(record, range(5)), channel=ORDERED)
    held = await take(receiver, 5)
    world.server.kill()
    world.server.restart()
    answers: list[Fault] = []
    while Fault.LOST not in answers:
        try:
            await settle(receiver, held)
        except AdapterError as error:
            answers.append(error.fault)
    assert not held[0].epoch.alive
    await receiver.close()
    assert await drained(await joined(world, connection), 5) == list(range(5))


async def test_what_the_server_was_not_told_is_still_to_be_given_to_the_pinned_member(
    world: World, nats_proxy: TcpProxy
) -> None:
    receiver = await joined(world, await world.through(nats_proxy.port))
    await publish(await world.connect(), record(0), record(1), channel=ORDERED)
    held = await take(receiver, 2)
    assert isinstance(receiver, StreamReceiver)
    assert receiver._pin is not None
    receiver._buffer.extend(held)  # as if nobody had asked for them yet
    receiver._pin.lost()
    nats_proxy.stall()
    receiver._bound = 0.2
    with pytest.raises(AdapterError) as caught:
        await receiver.receive(2, 0.1)
    assert caught.value.fault is Fault.TRANSIENT
    assert list(receiver._buffer) == held
    receiver._bound = 5.0
    nats_proxy.resume()
    await receiver.receive(2, 0.1)
    assert not receiver._held.intersection(held)


class Told:
    """A link on which the server tells one thing of the consumer."""

    def __init__(self, **found: Any) -> None:
        self.found = found

    async def api(self, call: str) -> dict[str, Any]:
        return self.found


def pin_of(**found: Any) -> Pin:
    group = Group(stream="orders", name="billing", lease=5.0, pinned=True)
    return Pin(Told(**found), group, site().clock)  # type: ignore[arg-type]  # all that it calls


def delivered(*places: int) -> list[Delivery]:
    """Deliveries of a consumer, the first time each."""
    return [Delivery(b"%d" % place, {}, Epoch("x"), Token(b"", place, place)) for place in places]


def pending(number: int, last: int) -> dict[str, Any]:
    return {"num_ack_pending": number, "delivered": {"consumer_seq": last}}


async def test_what_arrived_after_the_server_looked_is_not_taken_for_what_is_missing() -> None:
    held = delivered(2, 3)
    assert not await pin_of(**pending(2, 2)).ready(set(held), deque(held))
    assert await pin_of(**pending(2, 3)).ready(set(held), deque(held))


async def test_what_the_server_may_have_counted_off_already_is_not_counted_off_again() -> None:
    held = delivered(2, 3)
    pin = pin_of(**pending(2, 3))
    pin.told.add(held[0])
    assert not await pin.ready(set(held), deque(held[1:]))
    assert pin.missing == 1


async def test_a_server_that_does_not_tell_what_is_pending_is_not_taken_for_none() -> None:
    pin = pin_of(error={"code": 503, "err_code": 10008, "description": "JetStream system temporarily unavailable"})
    held = delivered(1)
    with pytest.raises(AdapterError) as caught:
        await pin.ready(set(held), deque(held))
    assert caught.value.fault is Fault.TRANSIENT


async def test_a_member_without_order_of_a_pinned_group_reads_on(world: World) -> None:
    connection = await world.connect()
    await publish(connection, record(1), channel=ORDERED)
    receiver = await connection.receiver(event(), Intake(group="billing", window=10))
    assert numbers(await take(receiver, 1)) == [1]
    await receiver.close()


async def test_an_older_server_claims_no_order_and_works_without(nats_old_server: Server) -> None:
    connection = await NatsAdapter().connect(NatsConfig(servers=nats_old_server.url), site())
    try:
        await connection.declare(ORDERED)
        assert connection.capabilities(ORDERED).order is Order.NONE  # type: ignore[union-attr]
        receiver = await connection.receiver(ORDERED, Intake(group="billing", window=10))
        await publish(connection, record(1), channel=ORDERED)
        assert numbers(await take(receiver, 1)) == [1]
        await receiver.close()
    finally:
        await connection.close()
