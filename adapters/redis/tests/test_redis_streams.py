"""Streams on a real server: what is stored, handed over, settled, delayed and claimed."""

import asyncio
import time

import pytest

from ductape.adapter import (
    Channel,
    Fault,
    Intake,
    Outgoing,
    Purpose,
    Verdict,
)
from ductape_conformance.proxy import TcpProxy
from tests.contract import bodies, record, settle, take

from .conftest import World, dead, event, publish

pytestmark = pytest.mark.broker


async def test_a_message_arrives_as_it_was_stored(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    [stored] = await publish(connection, Outgoing(b"\x00\xff", {"a": "ü"}, "id", "cust_789"))
    [delivery] = await take(receiver, 1)
    assert (delivery.body, delivery.headers, delivery.key) == (b"\x00\xff", {"a": "ü"}, "cust_789")
    assert (delivery.position, delivery.count, delivery.failed) == (stored.position, 1, 0)
    assert delivery.stored_at is not None
    assert abs(delivery.stored_at - time.time()) < 5
    assert await settle(receiver, [delivery]) == [None]


async def test_a_waiting_receive_wakes_within_milliseconds(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    waiting = asyncio.create_task(take(receiver, 1))
    await asyncio.sleep(0.3)
    began = time.monotonic()
    await publish(connection, record(1))
    assert bodies(await waiting) == [1]
    assert time.monotonic() - began < 0.2


async def test_each_group_gets_each_message_and_its_members_share_them(world: World) -> None:
    first, second = await world.connect(), await world.connect()
    members = [await world.receiver(first), await world.receiver(second)]
    audit = await world.receiver(first, "audit", window=400)
    await publish(first, *map(record, range(300)))
    shared = [*await take(members[0], 150, 1.0)]
    shared += await take(members[1], 300 - len(shared), 2.0)
    while len(shared) < 300:
        for member in members:
            await settle(member, [one for one in shared if one.epoch is member.epoch])  # type: ignore[attr-defined]
            shared += await take(member, 64, 0.5)
    assert bodies(shared) == list(range(300))
    assert bodies(await take(audit, 300)) == list(range(300))


async def test_the_window_bounds_what_is_unsettled(world: World) -> None:
    connection = await world.connect()
    await publish(connection, *map(record, range(100)))
    receiver = await world.receiver(connection, window=10)
    held = await take(receiver, 10)
    await asyncio.sleep(0.2)
    assert len(held) == 10
    assert (await world.raw.xpending("orders", "billing"))["pending"] == 10


async def test_an_acknowledgement_is_final(world: World) -> None:
    connection = await world.connect(lease=0.3)
    receiver = await world.receiver(connection)
    await publish(connection, *map(record, range(5)))
    assert await settle(receiver, await take(receiver, 5)) == [None] * 5
    assert await take(receiver, 1, 1.0) == []
    assert (await world.raw.xpending("orders", "billing"))["pending"] == 0


async def test_an_expired_lease_goes_to_another_member_with_its_count(world: World) -> None:
    first, second = await world.connect(lease=0.4), await world.connect(lease=0.4)
    silent = await world.receiver(first)
    await publish(first, record(1))
    [lost] = await take(silent, 1)
    other = await world.receiver(second)
    [claimed] = await take(other, 1)
    assert (claimed.body, claimed.count, claimed.failed) == (lost.body, 2, 0)
    [answer] = await silent.extend([lost])
    assert answer is not None
    assert answer.fault is Fault.LOST
    assert await settle(other, [claimed]) == [None]


async def test_an_extended_lease_keeps_a_message_and_is_told(world: World) -> None:
    first, second = await world.connect(lease=0.5), await world.connect(lease=0.5)
    busy, other = await world.receiver(first), await world.receiver(second)
    await publish(first, record(1))
    receivers = {busy: other, other: busy}
    holder = busy if (got := await take(busy, 1, 0.2)) else other
    got = got or await take(other, 1)
    rest = asyncio.create_task(take(receivers[holder], 1, 2.0))
    for _ in range(15):
        await asyncio.sleep(0.1)
        before = got[0].leased_until
        assert await holder.extend(got) == [None]
        assert got[0].leased_until > before  # type: ignore[operator]
    assert await settle(holder, got) == [None]
    assert await rest == []


async def test_a_delayed_retry_never_comes_early_and_carries_its_failures(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    [stored] = await publish(connection, Outgoing(b"x", {"h": "v"}, "id", "k"))
    for attempt in (1, 2, 3):
        [delivery] = await take(receiver, 1)
        assert (delivery.failed, delivery.count) == (attempt - 1, 1)
        assert (delivery.position, delivery.headers, delivery.key) == (stored.position, {"h": "v"}, "k")
        delivery.failed += 1
        began = time.monotonic()
        assert await settle(receiver, [delivery], Verdict.RETRY, 0.3) == [None]
        assert await take(receiver, 1, 0.28) == []
        while not (again := await receiver.receive(1, 1.0)):
            pass
        assert 0.3 <= time.monotonic() - began < 0.8
        await settle(receiver, again, Verdict.RELEASE)
    assert await world.raw.xlen("{orders}:billing:retry") == 1


async def test_a_delayed_retry_survives_the_member_that_asked_for_it(world: World) -> None:
    first, second = await world.connect(), await world.connect()
    receiver = await world.receiver(first)
    await publish(first, record(1))
    [delivery] = await take(receiver, 1)
    await settle(receiver, [delivery], Verdict.RETRY, 0.5)
    await receiver.close()
    await first.close()
    assert bodies(await take(await world.receiver(second), 1)) == [1]


async def test_a_released_message_is_with_another_member_at_once_and_no_attempt(world: World) -> None:
    first, second = await world.connect(), await world.connect()
    receiver = await world.receiver(first)
    await publish(first, record(1))
    [delivery] = await take(receiver, 1)
    await receiver.stop()
    other = await world.receiver(second)
    waiting = asyncio.create_task(take(other, 1))
    await asyncio.sleep(0.2)
    began = time.monotonic()
    assert await settle(receiver, [delivery], Verdict.RELEASE) == [None]
    [again] = await waiting
    assert time.monotonic() - began < 0.2
    assert (again.count, again.failed, again.position) == (1, 0, delivery.position)


async def test_close_gives_back_what_was_read_ahead_and_leaves_no_consumer(world: World) -> None:
    first, second = await world.connect(), await world.connect()
    receiver = await world.receiver(first)
    await publish(first, *map(record, range(50)))
    handed = await receiver.receive(40, 1.0)
    await asyncio.sleep(0.2)
    await settle(receiver, handed)
    await receiver.close()
    other = await world.receiver(second)
    assert len(handed) + len(await take(other, 50 - len(handed), 2.0)) == 50
    assert len(await world.raw.xinfo_consumers("orders", "billing")) <= 1


async def test_what_a_read_brings_while_its_receiver_closes_is_with_another_member_at_once(world: World) -> None:
    async with TcpProxy(world.server.host, world.server.port) as proxy:
        first, second = await world.through(proxy.port), await world.connect()
        receiver = await world.receiver(first)
        await publish(second, record(1), record(2))
        assert bodies(await take(receiver, 1)) == [1]  # there may be more, so that the next read does not wait
        proxy.slow(0.1)
        assert list(await receiver.receive(1, 0.0)) == []
        while (await world.raw.xinfo_groups("orders"))[0]["lag"]:
            await asyncio.sleep(0)
        await receiver.close()  # the answer is under way
        assert bodies(await take(await world.receiver(second), 1, 5.0)) == [2]  # the lease is 30 s


async def test_a_consumer_with_something_pending_is_not_deleted(world: World) -> None:
    first, second = await world.connect(lease=0.5), await world.connect(lease=0.5)
    receiver = await world.receiver(first)
    await publish(first, record(1))
    await take(receiver, 1)
    await receiver.close()
    await first.close()
    assert bodies(await take(await world.receiver(second), 1)) == [1]


async def test_what_a_closed_receiver_left_pending_is_not_handed_over_before_its_lease(world: World) -> None:
    connection = await world.connect(lease=1.0)
    receiver = await world.receiver(connection)
    await publish(connection, record(1))
    await take(receiver, 1)
    await receiver.close()
    again = await world.receiver(connection)
    assert await take(again, 1, 0.5) == []
    assert [one.count for one in await take(again, 1)] == [2]


async def test_dead_letters_hold_with_nobody_listening_and_go_when_settled(world: World) -> None:
    connection = await world.connect()
    await connection.declare(dead())
    original = Outgoing(b"\xff", {"ductape-dead-reason": "rejected"}, "id")
    await publish(connection, original, channel=dead())
    assert await world.raw.xlen("{orders}:billing:dead") == 1
    receiver = await connection.receiver(dead(), Intake(group="billing", window=10))
    world.stack.push_async_callback(receiver.close)
    [letter] = await take(receiver, 1)
    assert (letter.body, letter.headers) == (original.body, original.headers)
    assert await settle(receiver, [letter]) == [None]
    assert await world.raw.xlen("{orders}:billing:dead") == 0


async def test_a_copy_on_the_retry_channel_comes_back_through_the_group_alone(world: World) -> None:
    connection = await world.connect()
    assert connection.capabilities(event()).retry_joins  # type: ignore[union-attr]
    receiver, audit = await world.receiver(connection), await world.receiver(connection, "audit")
    await publish(connection, record(1))
    [delivery] = await take(receiver, 1)
    await settle(audit, await take(audit, 1))
    retry = Channel(name="orders", purpose=Purpose.RETRY, group="billing")
    began = time.monotonic()
    await publish(connection, Outgoing(b"2", {}, "id", delay=0.3, origin=delivery), channel=retry)
    await settle(receiver, [delivery])
    [copy] = await take(receiver, 1)
    assert time.monotonic() - began >= 0.3
    assert (copy.body, copy.position) == (b"2", delivery.position)
    assert await take(audit, 1, 0.3) == []


async def test_a_send_delay_is_kept_for_every_group(world: World) -> None:
    connection = await world.connect()
    groups = [await world.receiver(connection), await world.receiver(connection, "audit")]
    began = time.monotonic()
    await publish(connection, record(1, delay=0.4), record(2))
    for receiver in groups:
        assert bodies(await take(receiver, 1)) == [2]
    for receiver in groups:
        assert bodies(await take(receiver, 1)) == [1]
    assert time.monotonic() - began >= 0.4


async def test_many_groups_share_a_few_connections(world: World) -> None:
    connection = await world.connect()
    channels = [Channel(name=f"t{number}", group=f"shop.t{number}") for number in range(30)]
    receivers = []
    for channel in channels:
        await connection.declare(channel)
        receivers.append(await connection.receiver(channel, Intake(group=channel.group, window=8)))
        world.stack.push_async_callback(receivers[-1].close)
    waiting = [asyncio.create_task(take(receiver, 8, 10)) for receiver in receivers]
    await asyncio.sleep(0.3)
    for _ in range(4):
        for channel in channels:
            sender = await connection.sender(channel)
            await sender.send([record(number) for number in range(2)])
        await asyncio.sleep(0.05)
    assert [len(found) for found in await asyncio.gather(*waiting)] == [8] * 30
    assert len([one for one in await world.raw.client_list() if one["name"].startswith("shop-")]) <= 6


async def test_a_busy_group_does_not_starve_its_neighbours_or_its_own_retries(world: World) -> None:
    connection = await world.connect()
    channels = [Channel(name=f"t{number}", group=f"g{number}") for number in range(9)]
    receivers = []
    for channel in channels:
        await connection.declare(channel)
        receivers.append(await connection.receiver(channel, Intake(group=channel.group, window=16)))
        world.stack.push_async_callback(receivers[-1].close)
    busy, neighbour = receivers[0], receivers[8]
    sender = await connection.sender(channels[0])
    for _ in range(5):
        await sender.send([record(number) for number in range(1000)])
    [first] = await take(busy, 1)
    await settle(busy, [first], Verdict.RETRY, 0.05)
    seen: list[bytes] = []
    back: list[int] = []

    async def drain() -> None:
        while len(seen) < 4000:
            found = await busy.receive(16, 1.0)
            back.extend(len(seen) for one in found if one.position == first.position)
            seen.extend(one.body for one in found)
            await settle(busy, found)

    draining = asyncio.create_task(drain())
    await asyncio.sleep(0.05)
    await (await connection.sender(channels[8])).send([record(1)])
    began = time.monotonic()
    assert len(await take(neighbour, 1)) == 1
    assert time.monotonic() - began < 0.5
    await draining
    assert back


async def test_a_sibling_stream_is_read_with_room_for_one_message_only(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, window=1)
    await publish(connection, *map(record, range(3)))
    runs = 0
    done: set[bytes] = set()
    while len(done) < 3 and runs < 20:
        for delivery in await receiver.receive(1, 2.0):
            runs += 1
            if delivery.failed:
                done.add(delivery.body)
                await settle(receiver, [delivery])
            else:
                delivery.failed += 1
                await settle(receiver, [delivery], Verdict.RETRY, 0.02)
    assert len(done) == 3
