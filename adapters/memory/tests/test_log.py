"""The imitation of a log: partitions, members that own them, a mark that moves."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from ductape.adapter import Annotating, Measurable, Order, Purpose, Seekable
from ductape.errors import AdapterError, Fault


def records(world: Any, keys: str, number: int) -> list[Any]:
    return [world.record(f"{key}{n}", key) for n in range(number) for key in keys]


async def test_one_key_is_always_in_one_partition_and_in_order(world: Any) -> None:
    connection = await world.connect(imitate="log")
    sender = await connection.sender(world.channel())
    await world.send(connection, *records(world, "abcdef", 5), order=Order.KEY)
    receiver = await world.receiver(connection, order=Order.KEY)
    taken = await receiver.receive(99, 0)
    assert len(taken) == 30
    for key in "abcdef":
        mine = [one for one in taken if one.key == key]
        assert world.bodies(mine) == [f"{key}{n}" for n in range(5)]
        assert {one.position.partition("@")[0] for one in mine} == {f"orders[{sender.lane(mine[0])}]"}
        assert {one.lane for one in mine} == {None}
    assert sender.lane(world.record("free")) is None
    assert sender.limits.calls == 4


async def test_keyless_records_are_spread(world: Any) -> None:
    connection = await world.connect(imitate="log", partitions=3)
    answers = await world.send(connection, *"abcdef")
    assert [one.position for one in answers] == [f"orders[{n % 3}]@{n // 3}" for n in range(6)]


async def test_a_topic_of_total_order_uses_one_partition_and_says_so(world: Any) -> None:
    connection = await world.connect(imitate="log")
    await world.send(connection, *records(world, "abc", 2), order=Order.TOTAL)
    receiver = await world.receiver(connection, order=Order.TOTAL)
    taken = await receiver.receive(9, 0)
    assert world.bodies(taken) == ["a0", "b0", "c0", "a1", "b1", "c1"]
    assert {one.lane for one in taken} == {"0"}


async def test_the_number_of_partitions_is_an_option_of_the_topic(world: Any) -> None:
    connection = await world.connect(imitate="log")
    assert (await connection.sender(world.channel(options={"partitions": 9}))).limits.calls == 9
    with pytest.raises(AdapterError, match="partitions is 'many'") as error:
        await connection.declare(world.channel().__class__(name="other", options={"partitions": "many"}))
    assert error.value.fault is Fault.CONFIG


async def test_settled_records_are_never_given_again_and_open_ones_are(world: Any) -> None:
    connection = await world.connect(imitate="log", partitions=1)
    await world.send(connection, *"abcdef")
    first = await world.receiver(connection)
    taken = await first.receive(5, 0)
    await world.ack(first, taken[0], taken[2], taken[4])
    assert world.broker.depth("orders", "billing") == 3
    assert [one.body for one in world.broker.messages("orders", "billing")] == [b"b", b"d", b"f"]
    await first.close()
    assert not taken[1].epoch.alive
    assert [one.body for one in world.broker.messages("orders", "billing")] == [b"b", b"d", b"f"]
    assert world.broker.depth("orders", "billing") == 3
    second = await world.receiver(connection)
    assert world.bodies(await second.receive(9, 0)) == ["b", "d", "f"]


async def test_what_failed_is_known_to_the_next_member_if_it_was_noted(world: Any) -> None:
    connection = await world.connect(imitate="log", partitions=1)
    await world.send(connection, *"ab")
    first = await world.receiver(connection)
    a, b = await first.receive(9, 0)
    a.failed, a.due, b.failed = 2, 1234.5, 7
    await first.note([a])
    first.lose("crash")
    assert (a.failed, b.failed) == (2, 7)
    second = await world.receiver(connection)
    assert [(one.failed, one.due) for one in await second.receive(9, 0)] == [(2, 1234.5), (0, None)]
    await second.close()  # nothing new was noted, nothing is forgotten
    third = await world.receiver(connection)
    assert [(one.failed, one.due) for one in await third.receive(9, 0)] == [(2, 1234.5), (0, None)]


@pytest.mark.parametrize("verdict", ["retry", "release"])
async def test_what_is_handed_back_comes_first_and_in_its_order(world: Any, verdict: str) -> None:
    connection = await world.connect(imitate="log", partitions=1)
    await world.send(connection, *"abcd")
    receiver = await world.receiver(connection)
    a, b, _ = await receiver.receive(3, 0)
    a.failed = 1
    await getattr(world, verdict)(receiver, b, a)
    again = await receiver.receive(9, 0)
    assert world.bodies(again) == ["a", "b", "d"]
    assert (again[0].failed, again[0].count) == (1, None)
    assert await world.ack(receiver, *again) == [None] * 3


async def test_a_joining_member_waits_until_the_others_are_done_with_what_runs(world: Any) -> None:
    connection = await world.connect(imitate="log")
    await world.send(connection, *"abcdefgh")
    first = await world.receiver(connection)
    taken = await first.receive(8, 0)
    for one in taken:
        one.epoch.held += 1
    joining = asyncio.ensure_future(world.receiver(connection))
    await world.clock.advance(0)
    revoked = [one for one in taken if not one.epoch.accepting]
    assert not joining.done()
    assert len({one.epoch for one in revoked}) == 2
    await world.send(connection, *"ijkl")
    assert len(await first.receive(9, 0)) == 2  # the revoked partitions rest
    assert await world.ack(first, *revoked) == [None] * len(revoked)
    for one in revoked:
        one.epoch.settled()
    second = await joining
    assert all(not one.epoch.alive for one in revoked)
    kept = [one for one in taken if one not in revoked]
    assert await world.ack(first, *kept) == [None] * len(kept)
    assert len(await second.receive(9, 0)) == 2


async def test_a_revoked_delivery_is_lost_and_goes_to_the_new_owner(world: Any) -> None:
    connection = await world.connect(imitate="log")
    await world.send(connection, *"abcd")
    first = await world.receiver(connection)
    taken = await first.receive(4, 0)
    second = await world.receiver(connection)
    revoked = [one for one in taken if not one.epoch.alive]
    assert len(revoked) == 2
    assert await world.ack(first, *revoked) == [Fault.LOST] * 2
    assert sorted(world.bodies(await second.receive(9, 0))) == sorted(world.bodies(revoked))


async def test_an_owner_that_leaves_while_it_is_asked_holds_up_nobody(world: Any) -> None:
    connection = await world.connect(imitate="log")
    await world.send(connection, *"abcd")
    first = await world.receiver(connection)
    for one in await first.receive(4, 0):
        one.epoch.held += 1
    joining = asyncio.ensure_future(world.receiver(connection))
    await world.clock.advance(0)
    await first.close()
    second = await joining
    assert sorted(world.bodies(await second.receive(9, 0))) == list("abcd")


async def test_members_that_leave_give_their_partitions_to_the_others(world: Any) -> None:
    connection = await world.connect(imitate="log", partitions=6)
    members = [await world.receiver(connection) for _ in range(7)]
    await world.send(connection, *(str(n) for n in range(60)))
    counts = [len(await one.receive(99, 0)) for one in members]
    assert sorted(counts) == [0, 10, 10, 10, 10, 10, 10]
    for one in members[1:]:
        await one.close()
    assert len(await members[0].receive(99, 0)) == 60 - counts[0]


async def test_a_new_group_begins_where_it_wants(world: Any) -> None:
    connection = await world.connect(imitate="log")
    await world.send(connection, "a", "b")
    await world.clock.advance(100)
    middle = datetime.fromtimestamp(world.clock.time(), UTC).isoformat().replace("+00:00", "Z")
    await world.send(connection, "c")
    starts = {None: 3, "earliest": 3, "latest": 0, middle: 1}
    for number, (start, wanted) in enumerate(starts.items()):
        receiver = await world.receiver(connection, f"group{number}", start=start)
        assert len(await receiver.receive(9, 0)) == wanted
    with pytest.raises(AdapterError, match="start 'yesterday' is none of") as error:
        await world.receiver(connection, "late", start="yesterday")
    assert error.value.fault is Fault.CONFIG


async def test_a_group_can_be_moved_when_nobody_works_on_it(world: Any) -> None:
    connection = await world.connect(imitate="log")
    await world.send(connection, "a", "b")
    receiver = await world.receiver(connection)
    taken = await receiver.receive(9, 0)
    with pytest.raises(AdapterError):
        await receiver.seek("latest")
    await world.ack(receiver, *taken)
    assert (await receiver.lag(), await receiver.receive(9, 0)) == (0, [])
    await receiver.seek("earliest")
    assert await receiver.lag() == 2
    assert sorted(world.bodies(await receiver.receive(1, 0) + await receiver.receive(1, 0))) == ["a", "b"]


async def test_what_a_log_can_do_is_seen_on_its_receivers(world: Any) -> None:
    log = await world.receiver(await world.connect(imitate="log"))
    assert isinstance(log, Annotating)
    assert isinstance(log, Seekable)
    assert isinstance(log, Measurable)


async def test_settled_records_make_room_for_new_ones(world: Any) -> None:
    connection = await world.connect(imitate="log", partitions=2, max_messages=4)
    assert world.faults(await world.send(connection, *"abcde")) == [None] * 4 + [Fault.TRANSIENT]
    receiver = await world.receiver(connection)
    await world.ack(receiver, *await receiver.receive(3, 0))
    assert world.faults(await world.send(connection, *"fghi")) == [None] * 3 + [Fault.TRANSIENT]
    assert world.bodies(await receiver.receive(9, 0)).count("f") == 1


async def test_a_log_without_a_group_lets_the_oldest_go(world: Any) -> None:
    connection = await world.connect(imitate="log", partitions=1, max_messages=3)
    assert world.faults(await world.send(connection, *"abcde", group="")) == [None] * 5
    assert [one.body for one in world.broker.messages("orders")] == [b"c", b"d", b"e"]
    assert world.bodies(await (await world.receiver(connection)).receive(9, 0)) == ["c", "d", "e"]


async def test_a_long_log_is_read_to_its_end_in_little_memory(world: Any) -> None:
    connection = await world.connect(imitate="log", partitions=2, max_messages=1000)
    receiver = await world.receiver(connection, window=500)
    read = 0
    for _ in range(40):
        assert set(world.faults(await world.send(connection, *(["x"] * 500)))) == {None}
        taken = await receiver.receive(500, 0)
        read += len(taken)
        await world.ack(receiver, *taken)
    assert read == 20_000
    store = world.broker.state.stores["orders", Purpose.EVENTS, ""]
    assert store.messages <= 1000
    assert sum(len(one.entries) for one in store.partitions) < 6000


async def test_one_open_record_bounds_how_far_its_partition_is_read(world: Any) -> None:
    connection = await world.connect(imitate="log", partitions=1)
    await world.send(connection, *(str(n) for n in range(3000)))
    receiver = await world.receiver(connection, window=100)
    await receiver.receive(1, 0)
    read = 1
    while taken := await receiver.receive(99, 0):
        read += len(taken)
        await world.ack(receiver, *taken)
    assert 1000 <= read < 1200


async def test_the_retry_channel_of_a_log_delays_and_dead_letters_wait(world: Any) -> None:
    connection = await world.connect(imitate="log")
    await world.send(connection, world.record("a", delay=60.0), world.record("b"), purpose=Purpose.RETRY)
    back = await world.receiver(connection, channel=world.channel(purpose=Purpose.RETRY))
    assert world.bodies(await back.receive(9, 0)) == ["b"]
    assert world.broker.next_due() == world.clock.now() + 60
    task = asyncio.ensure_future(back.receive(9, 100))
    await world.clock.advance(60)
    assert world.bodies(await task) == ["a"]
    await world.send(connection, "x", "y", "z", purpose=Purpose.DEAD)
    assert world.broker.depth("orders", "billing", Purpose.DEAD) == 3
    reader = await world.receiver(connection, channel=world.channel(purpose=Purpose.DEAD))
    letters = {one.body: one for one in await reader.receive(9, 0)}
    await world.ack(reader, letters[b"y"])
    await reader.close()
    left = world.broker.messages("orders", "billing", Purpose.DEAD)
    assert [one.body for one in left] == [b"x", b"z"]


async def test_a_record_due_later_wakes_a_member_that_waits(world: Any) -> None:
    connection = await world.connect(imitate="log")
    retry = world.channel(purpose=Purpose.RETRY)
    back = await world.receiver(connection, channel=retry)
    task = asyncio.ensure_future(back.receive(9, 100))
    await world.clock.advance(1)
    await world.send(connection, world.record("a", delay=10.0), purpose=Purpose.RETRY)
    await world.clock.advance(10)
    assert world.bodies(await task) == ["a"]


async def test_a_log_and_a_queue_cannot_share_a_channel(world: Any) -> None:
    await world.send(await world.connect(imitate="log"), "a")
    with pytest.raises(AdapterError, match="orders is a log on this broker, not a queue") as error:
        await world.send(await world.connect(), "b")
    assert error.value.fault is Fault.CONFIG
