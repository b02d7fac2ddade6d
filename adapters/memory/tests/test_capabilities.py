"""Each capability both ways: what is claimed is done, and what is not claimed is not done."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from ductape.adapter import Capabilities, Count, Durability, Groups, Order, Purpose
from ductape.errors import AdapterError, Fault
from ductape_memory import LOG, LOSSY, QUEUE, STREAM, MemoryAdapter, MemoryConfig
from ductape_memory._imitations import kept


def without(**fields: Any) -> Capabilities:
    return msgspec.structs.replace(QUEUE, **fields)


@pytest.mark.parametrize(("imitate", "caps"), [("queue", QUEUE), ("stream", STREAM), ("log", LOG), ("lossy", LOSSY)])
async def test_an_imitation_claims_what_it_is(world: Any, imitate: str, caps: Capabilities) -> None:
    connection = await world.connect(imitate=imitate)
    assert connection.capabilities(world.channel()) == caps


async def test_the_lease_is_configured(world: Any) -> None:
    assert (await world.connect(lease=7)).capabilities(world.channel()).lease == 7


async def test_given_capabilities_replace_those_of_the_imitation(world: Any) -> None:
    caps = without(max_body=10)
    assert MemoryAdapter(caps).capabilities == caps
    assert (await world.connect(caps, imitate="log")).capabilities(world.channel()) == caps


async def test_one_purpose_can_have_capabilities_of_its_own(world: Any) -> None:
    adapter = MemoryAdapter(purposes={Purpose.RETRY: without(send_delay=60.0)})
    connection = await adapter.connect(MemoryConfig(name="test"), world.site())
    assert connection.capabilities(world.channel(purpose=Purpose.RETRY)).send_delay == 60
    assert connection.capabilities(world.channel()).send_delay == math.inf


@pytest.mark.parametrize("caps", [QUEUE, STREAM, LOG, LOSSY])
async def test_derived_channels_hold_and_delay_whatever_the_broker_does(world: Any, caps: Capabilities) -> None:
    connection = await world.connect(caps)
    dead = connection.capabilities(world.channel(purpose=Purpose.DEAD))
    back = connection.capabilities(world.channel(purpose=Purpose.RETRY))
    assert dead.history
    assert dead.durability is not Durability.NONE
    assert back.send_delay == math.inf
    assert back.durability is not Durability.NONE
    assert (await world.send(connection, world.record("a", delay=5.0), purpose=Purpose.RETRY))[0].position


def test_what_contradicts_itself_is_not_claimed() -> None:
    wild = Capabilities(count=Count.EXACT, lease=5.0, retry_delay=9.0, history=True, watermark=True)
    log = kept(wild)
    assert (log.count, log.lease, log.lease_total, log.retry_delay) == (Count.NONE, None, None, 0.0)
    lossy = kept(msgspec.structs.replace(wild, groups=Groups.NONE, send_delay=9.0, retry_joins=True))
    assert (lossy.watermark, lossy.history, lossy.send_delay, lossy.retry_joins) == (False, False, 0.0, False)
    assert lossy.durability is Durability.NONE
    assert kept(without(count=Count.NONE)).retry_delay == 0
    assert kept(without(lease=None)).lease_total is None
    assert kept(without(lease_total=None)).lease_total == 30


async def test_without_native_delay_a_retry_comes_back_at_once(world: Any) -> None:
    connection = await world.connect(without(retry_delay=0.0))
    await world.send(connection, "a")
    receiver = await world.receiver(connection)
    await world.retry(receiver, *await receiver.receive(1, 0), delay=100)
    assert [one.count for one in await receiver.receive(1, 0)] == [2]


async def test_a_retry_is_kept_as_long_as_claimed_in_the_claimed_steps(world: Any) -> None:
    connection = await world.connect(without(retry_delay=10.0, retry_step=2.0))
    await world.send(connection, "a", "b")
    receiver = await world.receiver(connection)
    a, b = await receiver.receive(2, 0)
    await world.retry(receiver, a, delay=3)
    await world.retry(receiver, b, delay=60)
    await world.clock.advance(3.9)
    assert await receiver.receive(2, 0) == []
    await world.clock.advance(0.1)
    assert world.bodies(await receiver.receive(2, 0)) == ["a"]
    await world.clock.advance(6)
    assert world.bodies(await receiver.receive(2, 0)) == ["b"]


async def test_without_a_count_nothing_is_counted(world: Any) -> None:
    connection = await world.connect(without(count=Count.NONE))
    await world.send(connection, "a")
    receiver = await world.receiver(connection)
    (mine,) = await receiver.receive(1, 0)
    assert mine.count is None
    await world.retry(receiver, mine, delay=100)
    assert [one.count for one in await receiver.receive(1, 0)] == [None]


@pytest.mark.parametrize(("count", "wanted"), [(Count.EXACT, 1), (Count.APPROXIMATE, 2)])
async def test_a_hand_back_raises_only_an_approximate_count(world: Any, count: Count, wanted: int) -> None:
    connection = await world.connect(without(count=count))
    await world.send(connection, "a")
    receiver = await world.receiver(connection)
    await world.release(receiver, *await receiver.receive(1, 0))
    assert [one.count for one in await receiver.receive(1, 0)] == [wanted]


async def test_without_order_any_member_gets_any_key(world: Any) -> None:
    connection = await world.connect(without(order=Order.NONE))
    await world.send(connection, *(world.record(f"x{n}", "x") for n in range(2)), order=Order.KEY)
    first, second = [await world.receiver(connection, order=Order.KEY) for _ in range(2)]
    assert world.bodies(await first.receive(1, 0) + await second.receive(1, 0)) == ["x0", "x1"]


async def test_a_log_without_order_spreads_keys(world: Any) -> None:
    connection = await world.connect(msgspec.structs.replace(LOG, order=Order.NONE))
    answers = await world.send(connection, *(world.record(f"x{n}", "x") for n in range(4)))
    assert len({one.position[:9] for one in answers}) == 4


async def test_order_by_key_is_the_most_where_total_is_not_claimed(world: Any) -> None:
    connection = await world.connect(without(order=Order.KEY))
    await world.send(connection, world.record("a", "x"), world.record("b", "y"))
    first, second = [await world.receiver(connection, order=Order.TOTAL) for _ in range(2)]
    assert world.bodies(await first.receive(1, 0) + await second.receive(1, 0)) == ["a", "b"]


async def test_without_a_lease_a_delivery_is_ours_as_long_as_its_epoch_lives(world: Any) -> None:
    connection = await world.connect(without(lease=None))
    await world.send(connection, "a")
    first, second = await world.receiver(connection), await world.receiver(connection)
    (mine,) = await first.receive(1, 0)
    assert mine.leased_until is None
    await world.clock.advance(1_000_000)
    assert await second.receive(1, 0) == []
    assert await first.extend([mine]) == [None]
    assert world.broker.next_due() is None
    await first.close()
    assert world.bodies(await second.receive(1, 0)) == ["a"]


async def test_a_lease_ends_at_its_total(world: Any) -> None:
    connection = await world.connect(without(lease=10.0, lease_total=15.0))
    await world.send(connection, "a")
    first, second = await world.receiver(connection), await world.receiver(connection)
    (mine,) = await first.receive(1, 0)
    begun = world.clock.now()
    await world.clock.advance(9)
    assert await first.extend([mine]) == [None]
    assert mine.leased_until == begun + 15
    await world.clock.advance(6)
    assert [answer.fault for answer in await first.extend([mine])] == [Fault.LOST]
    assert world.bodies(await second.receive(1, 0)) == ["a"]


async def test_a_lease_that_cannot_be_extended_is_not(world: Any) -> None:
    connection = await world.connect(without(lease=10.0, lease_total=10.0))
    await world.send(connection, "a")
    receiver = await world.receiver(connection)
    (mine,) = await receiver.receive(1, 0)
    until = mine.leased_until
    await world.clock.advance(5)
    await receiver.extend([mine])
    assert mine.leased_until == until


@pytest.mark.parametrize("shared", [True, False])
async def test_one_expiry_ends_the_epoch_of_all_only_where_leases_are_shared(world: Any, shared: bool) -> None:
    connection = await world.connect(without(lease=10.0, lease_shared=shared))
    await world.send(connection, "a", "b")
    receiver = await world.receiver(connection)
    (a,) = await receiver.receive(1, 0)
    await world.clock.advance(5)
    (b,) = await receiver.receive(1, 0)
    await world.clock.advance(5)
    if shared:
        with pytest.raises(AdapterError) as error:
            await receiver.receive(9, 0)
        assert error.value.fault is Fault.LOST
        assert not b.epoch.alive
        again = await world.receiver(connection)
        assert world.bodies(await again.receive(9, 0)) == ["a", "b"]
    else:
        assert world.bodies(await receiver.receive(9, 0)) == ["a"]
        assert await world.ack(receiver, a, b) == [Fault.LOST, None]


async def test_without_send_delay_a_delayed_record_is_refused(world: Any) -> None:
    connection = await world.connect(without(send_delay=0.0))
    answers = await world.send(connection, world.record("a", delay=1.0), world.record("b"))
    assert world.faults(answers) == [Fault.MESSAGE, None]


async def test_a_delay_up_to_the_longest_is_taken(world: Any) -> None:
    connection = await world.connect(without(send_delay=10.0))
    answers = await world.send(connection, world.record("a", delay=10.0), world.record("b", delay=11.0))
    assert world.faults(answers) == [None, Fault.MESSAGE]


async def test_where_the_channel_is_the_one_group_all_names_mean_it(world: Any) -> None:
    connection = await world.connect(without(groups=Groups.ONE))
    await world.send(connection, "a", "b")
    first, second = await world.receiver(connection, "billing"), await world.receiver(connection, "audit")
    assert world.bodies(await first.receive(1, 0) + await second.receive(9, 0)) == ["a", "b"]


@pytest.mark.parametrize("base", [QUEUE, LOG])
@pytest.mark.parametrize("history", [True, False])
async def test_a_new_group_begins_in_the_past_only_where_there_is_history(
    world: Any, base: Capabilities, history: bool
) -> None:
    connection = await world.connect(msgspec.structs.replace(base, history=history))
    await world.send(connection, "a", "b")
    receiver = await world.receiver(connection)
    await world.ack(receiver, *await receiver.receive(9, 0))
    assert len(world.broker.messages("orders")) == (2 if history else 0)
    late = await world.receiver(connection, "late", start="earliest")
    assert len(await late.receive(9, 0)) == (2 if history else 0)


async def test_history_gives_way_to_what_is_new(world: Any) -> None:
    connection = await world.connect(without(history=True), max_messages=3)
    receiver = await world.receiver(connection)
    for body in "abcde":
        await world.send(connection, body)
        await world.ack(receiver, *await receiver.receive(9, 0))
    assert [one.body for one in world.broker.messages("orders")] == [b"c", b"d", b"e"]
    late = await world.receiver(connection, "late")
    await world.ack(late, *await late.receive(9, 0))
    assert world.broker.depth("orders", "late") == 0


@pytest.mark.parametrize("base", [QUEUE, LOG])
@pytest.mark.parametrize("joins", [True, False])
async def test_retry_copies_join_the_groups_own_queue_only_where_claimed(
    world: Any, base: Capabilities, joins: bool
) -> None:
    connection = await world.connect(msgspec.structs.replace(base, retry_joins=joins))
    await connection.declare(world.channel("audit"))
    await connection.declare(world.channel("billing"))
    await world.send(connection, world.record("a", delay=5.0), purpose=Purpose.RETRY)
    billing, audit = await world.receiver(connection), await world.receiver(connection, "audit")
    back = await world.receiver(connection, channel=world.channel(purpose=Purpose.RETRY))
    assert await billing.receive(9, 0) == []
    await world.clock.advance(5)
    assert await audit.receive(9, 0) == []
    assert world.bodies(await billing.receive(9, 0)) == (["a"] if joins else [])
    assert world.bodies(await back.receive(9, 0)) == ([] if joins else ["a"])


@pytest.mark.parametrize("imitate", ["queue", "log", "lossy"])
async def test_without_headers_an_envelope_carries_them(world: Any, imitate: str) -> None:
    caps = {"queue": QUEUE, "log": LOG, "lossy": LOSSY}[imitate]
    connection = await world.connect(msgspec.structs.replace(caps, headers=False))
    receiver = await world.receiver(connection)
    await world.send(connection, "a")
    (stored,) = world.broker.messages("orders")
    assert stored.headers == {}
    assert stored.body != b"a"
    world.broker.put("orders", b"foreign")
    world.broker.put("orders", stored.body[:-3])
    taken = sorted([*await receiver.receive(9, 0), *await receiver.receive(9, 0)], key=lambda one: one.stored_at)
    found = {one.body: (one.headers, one.error) for one in taken}
    assert found[b"a"] == ({"ductape-id": "a"}, "")
    assert found[b"foreign"] == ({}, "")
    assert found[stored.body[:-3]] == ({}, "the envelope is broken")


@pytest.mark.parametrize(
    ("limit", "fits", "exceeds"),
    [
        ({"max_body": 3}, {"body": b"abc"}, {"body": b"abcd"}),
        ({"max_headers": 1}, {"headers": {"a": ""}}, {"headers": {"a": "", "b": ""}}),
        ({"max_header": 2}, {"headers": {"a": "é"}}, {"headers": {"a": "éé"}}),
        ({"max_message": 5}, {"body": b"abc", "headers": {"a": "b"}}, {"body": b"abc", "headers": {"a": "bc"}}),
    ],
)
async def test_a_limit_refuses_what_exceeds_it_and_nothing_else(
    world: Any, limit: Any, fits: dict[str, Any], exceeds: dict[str, Any]
) -> None:
    connection = await world.connect(without(**limit))
    good, bad = (msgspec.structs.replace(world.record(""), **{"headers": {}, **fields}) for fields in (fits, exceeds))
    assert world.faults(await world.send(connection, bad, good)) == [Fault.MESSAGE, None]


async def test_an_unconfirmed_ack_may_be_lost_with_the_connection(world: Any) -> None:
    connection = await world.connect(without(confirmed_ack=False))
    await world.send(connection, "a", "b", "c")
    receiver = await world.receiver(connection)
    a, b, c = await receiver.receive(9, 0)
    assert await world.ack(receiver, a) == [None]
    assert world.broker.depth("orders", "billing") == 3
    await world.clock.advance(0)
    assert world.broker.depth("orders", "billing") == 2
    assert await world.ack(receiver, a) == [Fault.LOST]
    assert await world.ack(receiver, b) == [None]
    assert await world.release(receiver, c) == [None]
    assert await world.ack(receiver, *await receiver.receive(1, 0)) == [None]  # c; b is confirmed by now
    world.broker.faults.cut()
    again = await world.receiver(await world.connect(without(confirmed_ack=False)))
    assert world.bodies(await again.receive(9, 0)) == ["c"]


async def test_a_confirmed_ack_survives_the_connection(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "a")
    receiver = await world.receiver(connection)
    await world.ack(receiver, *await receiver.receive(1, 0))
    world.broker.faults.cut()
    assert await (await world.receiver(await world.connect())).receive(9, 0) == []


async def test_closing_confirms_what_was_acknowledged(world: Any) -> None:
    connection = await world.connect(without(confirmed_ack=False))
    await world.send(connection, "a")
    receiver = await world.receiver(connection)
    await world.ack(receiver, *await receiver.receive(1, 0))
    await receiver.close()
    assert world.broker.depth("orders", "billing") == 0


@pytest.mark.parametrize("base", [QUEUE, LOG])
@pytest.mark.parametrize(("durability", "left"), [(Durability.STORED, 2), (Durability.BUFFERED, 1)])
async def test_a_killed_server_keeps_what_its_durability_promises(
    world: Any, base: Capabilities, durability: Durability, left: int
) -> None:
    caps = msgspec.structs.replace(base, durability=durability)
    connection = await world.connect(caps)
    await world.send(connection, "old")
    await world.clock.advance(5)
    await world.send(connection, "new")
    world.broker.faults.restart()
    receiver = await world.receiver(await world.connect(caps))
    assert sorted(world.bodies([*await receiver.receive(9, 0)])) == ["new", "old"][2 - left :]
    assert world.broker.depth("orders", "billing") == left


async def test_a_stream_keeps_history_counts_roughly_and_knows_no_order(world: Any) -> None:
    connection = await world.connect(imitate="stream", lease=10)
    await world.send(connection, "a", "b")
    receiver = await world.receiver(connection)
    a, b = await receiver.receive(9, 0)
    await world.release(receiver, a)
    await world.retry(receiver, b, delay=5)
    assert [one.count for one in await receiver.receive(9, 0)] == [2]
    late = await world.receiver(connection, "late")
    assert world.bodies(await late.receive(9, 0)) == ["a", "b"]
