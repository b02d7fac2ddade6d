"""The default: a queue for each group, with leases."""

from __future__ import annotations

import asyncio
from typing import Any

from ductape.adapter import Order, Purpose, Stored
from ductape.errors import Fault


async def test_a_record_reaches_every_declared_group_with_its_bytes_headers_and_key(world: Any) -> None:
    connection = await world.connect()
    await connection.declare(world.channel("audit"))
    (answer,) = await world.send(connection, world.record("a", "k"))
    assert answer == Stored("orders@1")
    for group in ("billing", "audit"):
        receiver = await world.receiver(connection, group)
        (delivery,) = await receiver.receive(10, 0)
        assert (delivery.body, delivery.headers, delivery.key) == (b"a", {"ductape-id": "a"}, "k")
        assert (delivery.position, delivery.count, delivery.lane) == ("orders@1", 1, None)
        assert delivery.stored_at == world.clock.time()
        assert delivery.leased_until == world.clock.now() + 30
        assert await world.ack(receiver, delivery) == [None]
    assert world.broker.messages("orders") == []


async def test_a_record_above_the_channels_own_bound_is_refused_and_does_not_wait_for_room(world: Any) -> None:
    connection = await world.connect(max_bytes=1000)
    await connection.declare(world.channel())
    small, large = await world.send(connection, "a", "b" * 2000)
    assert isinstance(small, Stored)
    assert large.fault is Fault.MESSAGE
    assert "holds 1000 in all" in large.text


async def test_members_of_one_group_share_its_messages(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a", "b", "c", "d")
    first, second = await world.receiver(connection), await world.receiver(connection)
    assert world.bodies(await first.receive(2, 0)) == ["a", "b"]
    assert world.bodies(await second.receive(9, 0)) == ["c", "d"]
    assert await first.receive(1, 0) == []


async def test_a_waiting_receive_returns_as_soon_as_there_is_a_message(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    task = asyncio.ensure_future(receiver.receive(10, 5))
    await world.clock.advance(1)
    assert not task.done()
    await world.send(connection, "a")
    assert world.bodies(await task) == ["a"]


async def test_a_waiting_receive_returns_empty_after_its_wait(world: Any) -> None:
    receiver = await world.receiver(await world.connect())
    task = asyncio.ensure_future(receiver.receive(10, 5))
    await world.clock.advance(4.9)
    assert not task.done()
    await world.clock.advance(0.2)
    assert await task == []


async def test_the_window_bounds_what_is_out(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, *"abcde")
    receiver = await world.receiver(connection, window=3)
    held = await receiver.receive(100, 0)
    assert world.bodies(held) == ["a", "b", "c"]
    task = asyncio.ensure_future(receiver.receive(100, 9))
    await world.clock.advance(1)
    await world.ack(receiver, held[0])
    assert world.bodies(await task) == ["d"]


async def test_a_limit_of_nothing_takes_nothing(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a")
    receiver = await world.receiver(connection)
    assert await receiver.receive(0, 5) == []
    assert await receiver.lag() == 1


async def test_an_expired_lease_gives_the_message_to_somebody_else(world: Any) -> None:
    connection = await world.connect(lease=10)
    await world.send(connection, "a")
    first, second = await world.receiver(connection), await world.receiver(connection)
    (mine,) = await first.receive(1, 0)
    task = asyncio.ensure_future(second.receive(1, 60))
    await world.clock.advance(9.9)
    assert not task.done()
    await world.clock.advance(0.2)
    (theirs,) = await task
    assert (theirs.body, theirs.count) == (b"a", 2)
    assert mine.epoch.alive
    assert await world.ack(first, mine) == [Fault.LOST]
    assert [answer.fault for answer in await first.extend([mine])] == [Fault.LOST]
    assert await world.ack(second, theirs) == [None]


async def test_extending_keeps_the_lease(world: Any) -> None:
    connection = await world.connect(lease=10)
    await world.send(connection, "a")
    receiver, other = await world.receiver(connection), await world.receiver(connection)
    (mine,) = await receiver.receive(1, 0)
    for _ in range(5):
        await world.clock.advance(8)
        assert await receiver.extend([mine]) == [None]
        assert mine.leased_until == world.clock.now() + 10
        assert await other.receive(1, 0) == []
    assert await world.ack(receiver, mine) == [None]


async def test_settling_twice_is_lost_the_second_time(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a")
    receiver = await world.receiver(connection)
    (mine,) = await receiver.receive(1, 0)
    assert await world.ack(receiver, mine, mine) == [None, Fault.LOST]


async def test_a_retry_comes_back_after_its_delay_and_counts(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a", "b")
    receiver = await world.receiver(connection)
    first, second = await receiver.receive(2, 0)
    await world.retry(receiver, first, delay=3600)
    await world.ack(receiver, second)
    assert world.broker.next_due() == world.clock.now() + 3600
    task = asyncio.ensure_future(receiver.receive(2, 4000))
    await world.clock.advance(3599)
    assert not task.done()
    await world.clock.advance(2)
    (again,) = await task
    assert (again.body, again.count) == (b"a", 2)


async def test_a_retry_wakes_a_member_that_waits_already(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a")
    receiver, other = await world.receiver(connection), await world.receiver(connection)
    (mine,) = await receiver.receive(1, 0)
    task = asyncio.ensure_future(other.receive(1, 100))
    await world.clock.advance(1)
    await world.retry(receiver, mine, delay=5)
    await world.clock.advance(5)
    assert world.bodies(await task) == ["a"]


async def test_a_hand_back_comes_back_at_once_before_all_others_and_does_not_count(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, *"abc")
    receiver = await world.receiver(connection)
    held = await receiver.receive(2, 0)
    await world.release(receiver, *reversed(held))
    again = await receiver.receive(9, 0)
    assert [(one.body, one.count) for one in again] == [(b"a", 1), (b"b", 1), (b"c", 1)]


async def test_a_delayed_record_is_not_seen_before_it_is_due(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, world.record("late", delay=50.0), world.record("now"))
    receiver = await world.receiver(connection)
    (now,) = await receiver.receive(9, 0)
    assert now.body == b"now"
    await world.ack(receiver, now)
    task = asyncio.ensure_future(receiver.receive(9, 100))
    await world.clock.advance(49)
    assert not task.done()
    await world.clock.advance(1)
    assert world.bodies(await task) == ["late"]


async def test_a_full_channel_refuses_until_its_groups_settle(world: Any) -> None:
    connection = await world.connect(max_messages=2)
    answers = await world.send(connection, "a", "b", "c")
    assert world.faults(answers) == [None, None, Fault.TRANSIENT]
    receiver = await world.receiver(connection)
    await world.ack(receiver, *await receiver.receive(1, 0))
    assert world.faults(await world.send(connection, "c", "d")) == [None, Fault.TRANSIENT]


async def test_bytes_are_bounded_too(world: Any) -> None:
    connection = await world.connect(max_bytes=10_000)
    answers = await world.send(connection, *(["x" * 1500] * 4))
    assert world.faults(answers) == [None, None, None, Fault.TRANSIENT]


async def test_the_first_group_of_a_channel_gets_what_was_sent_before_it_and_later_groups_do_not(world: Any) -> None:
    connection = await world.connect(max_messages=3)
    await world.send(connection, *"abcd", group="")
    assert [one.body for one in world.broker.messages("orders")] == [b"b", b"c", b"d"]
    assert world.bodies(await (await world.receiver(connection, "billing")).receive(9, 0)) == ["b", "c", "d"]
    assert await (await world.receiver(connection, "audit")).receive(9, 0) == []


async def test_stopping_ends_a_waiting_receive_and_settling_still_works(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a")
    receiver = await world.receiver(connection)
    (mine,) = await receiver.receive(1, 0)
    task = asyncio.ensure_future(receiver.receive(1, 60))
    await world.clock.advance(1)
    await receiver.stop()
    await receiver.stop()
    assert await task == []
    await world.send(connection, "b")
    assert await receiver.receive(1, 60) == []
    assert await world.ack(receiver, mine) == [None]


async def test_closing_gives_back_what_is_out_and_ends_the_epoch(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a", "b")
    receiver, other = await world.receiver(connection), await world.receiver(connection)
    held = await receiver.receive(9, 0)
    await world.ack(receiver, held[0])
    await receiver.close()
    await receiver.close()
    assert not held[1].epoch.alive
    assert world.bodies(await other.receive(9, 0)) == ["b"]


async def test_dead_letters_wait_for_whoever_reads_them_whatever_the_group_is_called(world: Any) -> None:
    connection = await world.connect()
    dead = world.channel(purpose=Purpose.DEAD)
    (answer,) = await world.send(connection, "a", purpose=Purpose.DEAD)
    assert answer.position == "orders.billing.dead@1"
    assert world.broker.depth("orders", "billing", Purpose.DEAD) == 1
    assert world.broker.pending(idle=True) == 0
    receiver = await world.receiver(connection, "reader", channel=dead)
    (letter,) = await receiver.receive(1, 0)
    assert await world.ack(receiver, letter) == [None]
    assert world.broker.depth("orders", "billing", Purpose.DEAD) == 0
    assert await (await world.receiver(connection, "other", channel=dead)).receive(1, 0) == []


async def test_the_retry_channel_belongs_to_one_group_and_delays(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, world.record("a", delay=60.0), purpose=Purpose.RETRY)
    events, back = (
        await world.receiver(connection),
        await world.receiver(connection, channel=world.channel(purpose=Purpose.RETRY)),
    )
    other = await world.receiver(connection, "audit", channel=world.channel("audit", purpose=Purpose.RETRY))
    assert world.broker.next_due() == world.clock.now() + 60
    await world.clock.advance(60)
    assert await events.receive(1, 0) == []
    assert await other.receive(1, 0) == []
    assert world.bodies(await back.receive(1, 0)) == ["a"]


async def test_the_facts_count_what_waits_is_delayed_and_is_out(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, world.record("late", delay=5.0), "a", "b")
    assert (world.broker.pending(), world.broker.pending(idle=True)) == (0, 3)
    assert (world.broker.next_due(), world.broker.next_due(idle=True)) == (None, world.clock.now() + 5)
    receiver = await world.receiver(connection)
    (mine,) = await receiver.receive(1, 0)
    assert (world.broker.depth("orders", "billing"), world.broker.pending(), await receiver.lag()) == (3, 3, 2)
    assert [one.body for one in world.broker.messages("orders", "billing")] == [b"late", b"a", b"b"]
    await world.ack(receiver, mine)
    assert world.broker.depth("orders", "billing") == 2
    assert world.broker.depth("orders", "nobody") == 0
    assert world.broker.depth("invoices", "billing") == 0
    assert world.broker.messages("invoices") == []


async def test_a_foreign_producer_can_store_a_message(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    assert world.broker.put("orders", b"\xff", {"x": "y"}, key="k") == "orders@1"
    (delivery,) = await receiver.receive(1, 0)
    assert (delivery.body, delivery.headers, delivery.key, delivery.error) == (b"\xff", {"x": "y"}, "k", "")


async def test_one_key_is_in_one_members_hands_at_a_time(world: Any) -> None:
    connection = await world.connect()
    records = [world.record(f"{key}{n}", key) for n in range(3) for key in "xy"]
    await world.send(connection, *records, order=Order.KEY)
    first = await world.receiver(connection, order=Order.KEY)
    second = await world.receiver(connection, order=Order.KEY)
    (x0,) = await first.receive(1, 0)
    assert x0.body == b"x0"
    assert world.bodies(await second.receive(9, 0)) == ["y0", "y1", "y2"]
    assert await second.receive(9, 0) == []
    await world.ack(first, x0)
    assert world.bodies(await second.receive(9, 0)) == ["x1", "x2"]


async def test_a_retried_head_holds_its_key_and_no_other(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, *(world.record(one, one[0]) for one in ("x0", "x1", "y0", "y1")))
    receiver = await world.receiver(connection, order=Order.KEY)
    (x0,) = await receiver.receive(1, 0)
    await world.retry(receiver, x0, delay=10)
    assert world.bodies(await receiver.receive(9, 0)) == ["y0", "y1"]
    await world.clock.advance(10)
    assert world.bodies(await receiver.receive(9, 0)) == ["x0", "x1"]


async def test_ordered_hand_backs_and_expiries_return_to_their_place(world: Any) -> None:
    connection = await world.connect(lease=10)
    await world.send(connection, *(world.record(f"x{n}", "x") for n in range(5)))
    first, second = [await world.receiver(connection, order=Order.KEY) for _ in range(2)]
    held = await first.receive(3, 0)
    await world.release(first, held[2], held[0])
    assert await second.receive(9, 0) == []  # x1 is still out: the key stays where it is
    again = await first.receive(1, 0)
    assert world.bodies(again) == ["x0"]
    await world.clock.advance(10)
    assert world.bodies(await second.receive(9, 0)) == ["x0", "x1", "x2", "x3", "x4"]


async def test_a_takeover_after_a_crash_begins_with_what_was_out_as_stored(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, *(world.record(f"{key}{n}", key) for n in range(4) for key in "xyz"))
    first = await world.receiver(connection, order=Order.KEY, window=6)
    assert len(await first.receive(6, 0)) == 6
    first.lose("crash")
    second = await world.receiver(connection, order=Order.KEY)
    seen = world.bodies(await second.receive(99, 0))
    for key in "xyz":
        assert [one for one in seen if one[0] == key] == [f"{key}{n}" for n in range(4)]


async def test_keyless_messages_are_free_where_keys_are_ordered(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, *"abc")
    first, second = [await world.receiver(connection, order=Order.KEY) for _ in range(2)]
    assert world.bodies(await first.receive(1, 0)) == ["a"]
    assert world.bodies(await second.receive(9, 0)) == ["b", "c"]


async def test_total_order_keeps_everything_with_one_member(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, world.record("a", "x"), world.record("b", "y"), world.record("c"), order=Order.TOTAL)
    first, second = [await world.receiver(connection, order=Order.TOTAL) for _ in range(2)]
    (head,) = await first.receive(1, 0)
    assert await second.receive(9, 0) == []
    await world.ack(first, head)
    assert world.bodies(await second.receive(9, 0)) == ["b", "c"]


async def test_a_group_changes_to_an_order_with_what_it_has(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, *(world.record(f"x{n}", "x") for n in range(4)), world.record("late", "x", delay=9.0))
    plain = await world.receiver(connection)
    x0, x1 = await plain.receive(2, 0)
    await world.retry(plain, x1, delay=5)
    ordered = await world.receiver(connection, order=Order.KEY)
    assert await ordered.receive(9, 0) == []  # x1 is not due, nothing of its key overtakes it
    await world.release(plain, x0)
    await plain.close()
    assert world.bodies(await ordered.receive(9, 0)) == ["x0"]
    await world.clock.advance(9)
    assert world.bodies(await ordered.receive(9, 0)) == ["x1", "x2", "x3", "late"]
    await ordered.close()
    assert len(await (await world.receiver(connection)).receive(9, 0)) == 5


async def test_nothing_of_a_key_is_stored_behind_what_was_refused_of_it(world: Any) -> None:
    connection = await world.connect()
    await connection.declare(world.channel())
    world.broker.faults.poison(lambda one: one.id == "x1")
    records = [world.record(one, one[0]) for one in ("x0", "x1", "y0", "x2")] + [world.record("free")]
    answers = await world.send(connection, *records, order=Order.KEY)
    assert world.faults(answers) == [None, Fault.MESSAGE, None, Fault.TRANSIENT, None]
    assert [one.body for one in world.broker.messages("orders")] == [b"x0", b"y0", b"free"]


async def test_one_key_with_a_long_backlog_does_not_fill_the_window(world: Any) -> None:
    connection = await world.connect()
    await world.send(
        connection, *(world.record(f"x{n}", "x") for n in range(50)), *(world.record(k, k) for k in "abcd")
    )
    receiver = await world.receiver(connection, order=Order.KEY, window=8)
    assert {"a", "b", "c", "d"} < set(world.bodies(await receiver.receive(8, 0)))
