"""Channels and groups, as the kit does not see them: what is kept, what is in order, what other programs write."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime
from typing import Any

import pytest

from ductape.adapter import AdapterError, Fault, Order, Outgoing, Purpose, Settlement, Stored, Verdict
from ductape_sqlite._bell import Bell

KEY, TOTAL = Order.KEY, Order.TOTAL


# ---------------------------------------------------------------- what is kept


async def test_history_is_kept_by_count_and_what_a_group_has_not_settled_is_never_dropped(world: Any) -> None:
    connection = await world.connect(max_length=10)
    await connection.declare(world.channel("slow"))
    quick = await world.receiver(connection, "quick", window=3000)
    for _ in range(3):
        await world.send(connection, *(f"m{n}" for n in range(700)), group="slow")
        await world.ack(quick, *await quick.receive(1000, 1.0))
    assert world.sql("SELECT count(*) FROM ductape_message") == [(2100,)]
    slow = await world.receiver(connection, "slow", window=3000)
    got = await slow.receive(2100, 1.0)
    assert len(got) == 2100
    await world.ack(slow, *got[:-5])
    await world.send(connection, *(f"n{n}" for n in range(5)), group="slow")
    await world.ack(slow, *got[-5:])
    await world.ack(quick, *await quick.receive(100, 1.0))
    for _ in range(3):
        await world.send(connection, *(f"o{n}" for n in range(500)), group="slow")
        for receiver in (quick, slow):
            while some := await receiver.receive(1000, 0.0):
                await world.ack(receiver, *some)
    [[left]] = world.sql("SELECT count(*) FROM ductape_message")
    assert left < 1100, "what both settled is dropped, some hundreds at a time"


async def test_history_is_kept_by_age_and_by_size(world: Any) -> None:
    for config in ({"max_age": 100.0, "max_length": None}, {"max_bytes": 2000, "max_length": None}):
        world.path = world.path.with_name(f"{next(iter(config))}.db")
        connection = await world.connect(**config)
        receiver = await world.receiver(connection, window=1000)
        await world.send(connection, *(f"{n:050}" for n in range(600)))
        await world.ack(receiver, *await receiver.receive(600, 1.0))
        world.clock.ahead += 200.0
        await world.send(connection, *(f"new{n}" for n in range(500)))
        world.clock.ahead = 0.0
        assert all(body.startswith("new") for body in world.stored())
        [[size]] = world.sql("SELECT bytes FROM ductape_channel")
        [[found]] = world.sql("SELECT sum(length(body) + length(headers)) FROM ductape_message")
        assert size == found, "the account of bytes is right"


async def test_a_message_that_is_held_keeps_those_behind_it(world: Any) -> None:
    connection = await world.connect(max_length=0)
    receiver = await world.receiver(connection, window=2000)
    await world.send(connection, *(f"m{n}" for n in range(1000)))
    first, *rest = await receiver.receive(1000, 1.0)
    await world.ack(receiver, *rest)
    assert len(world.stored()) == 1000
    await world.ack(receiver, first)
    await world.send(connection, *(f"n{n}" for n in range(500)))
    assert len(world.stored()) == 500


async def test_private_channels_keep_no_history(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, window=2000, purpose=Purpose.DEAD)
    await world.send(connection, *(f"d{n}" for n in range(600)), purpose=Purpose.DEAD)
    await world.ack(receiver, *await receiver.receive(1000, 1.0))
    assert world.stored() == []


@pytest.mark.parametrize(("start", "begins"), [("earliest", 0), (None, 0), ("latest", 6), ("instant", 3)])
async def test_a_new_group_begins_where_it_asks(world: Any, start: str | None, begins: int) -> None:
    connection = await world.connect()
    await world.send(connection, "m0", "m1", "m2")
    world.clock.ahead = 100.0
    await world.send(connection, "m3", "m4", "m5")
    if start == "instant":
        start = datetime.fromtimestamp(world.clock.time() - 50.0, UTC).isoformat()
    receiver = await world.receiver(connection, "late", start=start)
    await world.send(connection, "m6")
    assert world.bodies(await receiver.receive(100, 1.0)) == [f"m{n}" for n in range(begins, 7)]


async def test_a_start_that_is_none_is_a_config_fault(world: Any) -> None:
    connection = await world.connect()
    with pytest.raises(AdapterError, match="yesterday") as error:
        await world.receiver(connection, start="yesterday")
    assert error.value.fault is Fault.CONFIG


# ---------------------------------------------------------------- order


async def test_of_a_key_that_is_out_nobody_gets_more(world: Any) -> None:
    connection = await world.connect()
    first = await world.receiver(connection, order=KEY)
    second = await world.receiver(await world.connect(), order=KEY)
    await world.send(connection, *(world.record(f"a{n}", "a") for n in range(6)), world.record("b0", "b"), order=KEY)
    run = await first.receive(4, 0.0)
    assert world.bodies(run) == ["a0", "a1", "b0"], "a share for each key"
    assert list(await second.receive(10, 0.1)) == list(await first.receive(10, 0.1)) == []
    await world.ack(first, run[0])
    assert list(await second.receive(10, 0.1)) == []
    await world.ack(first, run[1])
    assert world.bodies(await second.receive(10, 1.0)) == ["a2", "a3", "a4", "a5"]


async def test_what_was_handed_back_comes_before_what_is_behind_it(world: Any) -> None:
    connection = await world.connect()
    first = await world.receiver(connection, order=KEY)
    await world.send(connection, *(world.record(f"a{n}", "a") for n in range(4)), order=KEY)
    run = await first.receive(3, 0.0)
    await world.settle(first, Verdict.RELEASE, run[1], run[2])
    assert list(await first.receive(10, 0.1)) == [], "a0 is out"
    await world.settle(first, Verdict.RETRY, run[0], delay=0.4)
    began = asyncio.get_running_loop().time()
    again = await first.receive(10, 3.0)
    assert asyncio.get_running_loop().time() - began > 0.35, "a delay holds up its key"
    assert world.bodies(again) == ["a0", "a1", "a2", "a3"]
    assert [one.count for one in again] == [2, 1, 1, 1]


async def test_what_has_no_key_is_given_once_beside_what_has_one(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, order=KEY)
    await world.send(connection, "m0", world.record("a0", "a"), order=KEY)
    await world.settle(receiver, Verdict.RELEASE, *await receiver.receive(10, 1.0))
    await world.send(connection, "m1", world.record("b0", "b"), order=KEY)
    assert sorted(world.bodies(await receiver.receive(10, 1.0))) == ["a0", "b0", "m0", "m1"]


async def test_a_delayed_record_takes_its_place_when_it_is_due(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, order=KEY)
    await world.send(connection, world.record("late", "a", delay=0.3), world.record("now", "a"), order=KEY)
    [now] = await receiver.receive(10, 1.0)
    assert now.body == b"now"
    await world.ack(receiver, now)
    assert world.bodies(await receiver.receive(10, 3.0)) == ["late"]


async def test_a_group_in_total_order_has_one_run_at_a_time(world: Any) -> None:
    connection = await world.connect()
    first = await world.receiver(connection, order=TOTAL)
    second = await world.receiver(await world.connect(), order=TOTAL)
    await world.send(connection, *(world.record(f"m{n}", f"k{n}") for n in range(6)), order=TOTAL)
    run = await first.receive(2, 0.0)
    waiting = asyncio.ensure_future(second.receive(10, 5.0))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await world.ack(first, *run)
    assert world.bodies(await waiting) == ["m2", "m3", "m4", "m5"]


async def test_a_group_that_begins_to_keep_an_order_keeps_it_for_what_is_held_too(world: Any) -> None:
    connection = await world.connect()
    plain = await world.receiver(connection)
    await world.send(connection, *(world.record(f"a{n}", "a") for n in range(3)))
    [held] = await plain.receive(1, 0.0)
    ordered = await world.receiver(await world.connect(), order=KEY)
    assert list(await ordered.receive(10, 0.1)) == []
    await world.ack(plain, held)
    assert world.bodies(await ordered.receive(10, 1.0)) == ["a1", "a2"]


async def test_a_blocked_key_hides_no_other_however_many_wait_behind_it(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, order=KEY, window=50)
    await world.send(connection, world.record("a0", "a"), order=KEY)
    assert len(await receiver.receive(1, 1.0)) == 1
    for _ in range(5):
        await world.send(connection, *(world.record("a", "a") for _ in range(1000)), order=KEY)
    await world.send(connection, world.record("b", "b"), world.record("free"), order=KEY)
    assert sorted(world.bodies(await receiver.receive(10, 5.0))) == ["b", "free"]
    assert await receiver.lag() == 5000


async def test_behind_a_record_that_failed_nothing_of_its_key_is_stored(world: Any) -> None:
    connection = await world.connect()
    bad = Outgoing(b"x", {"h": "\ud800"}, "bad", "a")
    answers = await world.send(connection, world.record("a0", "a"), bad, world.record("a1", "a"), "free", order=KEY)
    assert [getattr(one, "fault", None) for one in answers] == [None, Fault.MESSAGE, Fault.TRANSIENT, None]
    assert world.stored() == ["a0", "free"]


# ---------------------------------------------------------------- other programs


async def test_another_program_publishes_with_one_statement(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    waiting = asyncio.ensure_future(receiver.receive(10, 5.0))
    world.sql("INSERT INTO ductape_publish (channel, body) VALUES ('orders', '{\"n\": 1}')")
    [one] = await waiting
    assert (one.body, dict(one.headers), one.key, one.error) == (b'{"n": 1}', {}, None, "")
    assert abs((one.stored_at or 0.0) - world.clock.time()) < 5.0
    world.sql("INSERT INTO ductape_publish VALUES ('orders', x'00ff', '{\"a\": \"b\"}', 'k')")
    [two] = await receiver.receive(10, 5.0)
    assert (two.body, dict(two.headers), two.key, two.position) == (b"\x00\xff", {"a": "b"}, "k", "orders@2")


async def test_an_application_publishes_in_its_own_transaction(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    world.sql("CREATE TABLE invoice (id INTEGER PRIMARY KEY)")
    for ending in ("ROLLBACK", "COMMIT"):
        db = sqlite3.connect(world.path, isolation_level=None)
        db.execute("BEGIN")
        db.execute("INSERT INTO invoice DEFAULT VALUES")
        db.execute("INSERT INTO ductape_publish (channel, body) VALUES ('orders', ?)", (ending,))
        db.execute(ending)
        db.close()
    assert world.bodies(await receiver.receive(10, 5.0)) == ["COMMIT"]
    assert world.sql("SELECT count(*) FROM invoice") == [(1,)]


async def test_publishing_to_a_channel_that_is_not_there_is_an_error(world: Any) -> None:
    await world.connect()
    with pytest.raises(sqlite3.IntegrityError, match="no such channel"):
        world.sql("INSERT INTO ductape_publish (channel, body) VALUES ('nowhere', 'x')")


@pytest.mark.parametrize("headers", ["not json", '["a"]', '{"a": 1}', b"\xff\xfe"])
async def test_headers_that_cannot_be_read_are_handed_over_with_the_reason(world: Any, headers: object) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    world.sql("INSERT INTO ductape_publish VALUES ('orders', 'body', ?, NULL)", headers)
    [one] = await receiver.receive(10, 5.0)
    assert (one.body, dict(one.headers)) == (b"body", {})
    assert "no text" in one.error
    await world.ack(receiver, one)


async def test_a_message_that_somebody_deleted_holds_nobody_up(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    await world.send(connection, "m1", "m2", "m3")
    got = await receiver.receive(10, 1.0)
    await world.settle(receiver, Verdict.RELEASE, *got)
    world.sql("DELETE FROM ductape_message WHERE body = ?", b"m2")
    assert world.bodies(await receiver.receive(10, 1.0)) == ["m1", "m3"]
    assert world.sql("SELECT count(*) FROM ductape_held") == [(2,)]


async def test_a_group_that_was_removed_takes_what_it_held_with_it_and_begins_anew(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    await world.send(connection, "m1", "m2")
    assert len(await receiver.receive(10, 1.0)) == 2
    world.sql("DELETE FROM ductape_group WHERE name = 'billing'")
    assert world.sql("SELECT count(*) FROM ductape_held") == [(0,)]
    again = await world.receiver(connection)
    got = await again.receive(10, 1.0)
    assert (world.bodies(got), [one.count for one in got]) == (["m1", "m2"], [1, 1])
    world.sql("DELETE FROM ductape_channel WHERE name = 'orders'")
    tables = ("message", "held", "group", "later")
    assert [world.sql(f"SELECT count(*) FROM ductape_{name}") for name in tables] == [[(0,)]] * 4


async def test_the_wire_is_a_row(world: Any) -> None:
    connection = await world.connect()
    record = Outgoing(b"\x00body", {"ž": "\n", "ductape-id": "1"}, "1", "k\0y")
    assert await world.send(connection, record) == [Stored("orders@1")]
    [(key, headers, body, kind)] = world.sql("SELECT key, headers, body, typeof(body) FROM ductape_message")
    assert (key, headers, body, kind) == ("k\0y", '{"ž":"\\n","ductape-id":"1"}', b"\x00body", "blob")
    receiver = await world.receiver(connection)
    [one] = await receiver.receive(10, 1.0)
    assert (one.key, dict(one.headers), one.body) == ("k\0y", dict(record.headers), b"\x00body")


async def test_a_copy_on_retry_tells_when_and_where_its_original_was_stored(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    await world.send(connection, "m1")
    [one] = await receiver.receive(1, 1.0)
    world.clock.ahead = 60.0
    await world.send(connection, world.record("copy", origin=one), purpose=Purpose.RETRY)
    back = await world.receiver(connection, purpose=Purpose.RETRY)
    [copy] = await back.receive(1, 1.0)
    assert copy.position == "orders@1"
    assert copy.stored_at == pytest.approx(one.stored_at, abs=0.001)


# ---------------------------------------------------------------- speed


@pytest.mark.parametrize("order", [Order.NONE, KEY, TOTAL])
async def test_no_call_looks_at_everything_that_stands(world: Any, order: Order) -> None:
    connection = await world.connect(max_length=0, max_bytes=0, max_age=0.0)
    said: list[str] = []
    await world.send(connection, "m", world.record("later", delay=0.01), order=order)
    await connection.file.read(lambda db: db.set_trace_callback(said.append))
    receiver = await world.receiver(connection, order=order)
    for turn in range(3):
        await world.send(connection, *(world.record(f"m{n}", f"k{n % 7}") for n in range(600)), order=order)
        got = await receiver.receive(60, 1.0)
        assert not any(await receiver.extend(got))
        await world.settle(receiver, Verdict.RETRY, got[0], delay=0.01 * turn)
        await world.settle(receiver, Verdict.RELEASE, *got[1:2])
        await world.ack(receiver, *got[2:])
    await connection.file.read(lambda db: db.set_trace_callback(None))
    statements = {text for text in said if text.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "\n"))}
    assert len(statements) > 20

    def plans(db: sqlite3.Connection) -> set[tuple[str, str]]:
        found = set()
        for text in statements:
            for *_, plan in db.execute(f"EXPLAIN QUERY PLAN {text}"):
                found.add((plan.decode(), text[:90]))
        return found

    large = ("ductape_message", "ductape_held", "ductape_later")
    wrong = [
        (plan, text)
        for plan, text in await connection.file.read(plans)
        if plan.startswith("SCAN") and any(plan.split()[1] == name for name in (*large, "h", "m", "o", "r"))
    ]
    assert wrong == []


# ---------------------------------------------------------------- windows and leases


async def test_a_call_does_not_fill_the_memory(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    large = "x" * 6_000_000
    await world.send(connection, *(large for _ in range(5)))
    assert len(await receiver.receive(100, 1.0)) == 3
    assert len(await receiver.receive(100, 1.0)) == 2


@pytest.mark.parametrize("order", [Order.NONE, KEY])
async def test_a_call_that_is_cut_short_forgets_nothing(world: Any, order: Order) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, order=order)
    await world.send(connection, *(world.record("x" * 6_000_000, f"k{n}") for n in range(5)), order=order)
    got = [*await receiver.receive(100, 1.0)]
    await world.settle(receiver, Verdict.RELEASE, *got)
    again: list[Any] = []
    while len(again) < 5:
        some = await receiver.receive(100, 1.0)
        assert some
        again += some
    assert {one.key for one in again} == {f"k{n}" for n in range(5)}


async def test_a_lease_that_ran_out_frees_its_place_and_is_lost_for_its_member(world: Any) -> None:
    connection = await world.connect(lease=0.3)
    receiver = await world.receiver(connection, window=1)
    await world.send(connection, "m1")
    [old] = await receiver.receive(1, 1.0)
    [new] = await receiver.receive(1, 3.0)
    assert (old.count, new.count) == (1, 2)
    [answer] = await receiver.settle([Settlement(old, Verdict.ACK)])
    assert answer is not None
    assert answer.fault is Fault.LOST
    await world.ack(receiver, new)


async def test_after_a_stall_every_delivery_gets_its_own_answer_when_one_row_is_with_us_twice(world: Any) -> None:
    connection = await world.connect(lease=10.0)
    receiver = await world.receiver(connection, window=10)
    await world.send(connection, "m1")
    [old] = await receiver.receive(1, 1.0)
    world.clock.ahead += 11.0
    [new] = await receiver.receive(1, 1.0)
    lost, fine = await receiver.extend([old, new])
    assert (lost.fault, fine) == (Fault.LOST, None)
    fine, lost = await receiver.settle([Settlement(new, Verdict.ACK), Settlement(old, Verdict.ACK)])
    assert (fine, lost.fault) == (None, Fault.LOST)


async def test_a_lease_that_ran_out_and_that_nobody_took_is_still_settled_and_extended(world: Any) -> None:
    connection = await world.connect(lease=10.0)
    receiver = await world.receiver(connection, window=3)
    await world.send(connection, "m1", "m2", "m3")
    first, second, third = await receiver.receive(3, 1.0)
    world.clock.ahead += 11.0
    [again] = await receiver.receive(1, 1.0)
    assert (again.body, again.count) == (b"m1", 2)
    assert list(await receiver.extend([second])) == [None]
    assert second.leased_until > world.clock.now()
    await world.ack(receiver, again, second, third)
    answers = await receiver.settle([Settlement(one, Verdict.ACK) for one in (first, second, third)])
    assert [answer.fault for answer in answers] == [Fault.LOST] * 3, "once"
    assert world.sql("SELECT count(*) FROM ductape_held") == [(0,)]


async def test_lag_counts_what_was_never_given(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    await world.send(connection, "m1", "m2", "m3", world.record("later", delay=60.0))
    assert await receiver.lag() == 3
    [one] = await receiver.receive(1, 1.0)
    assert await receiver.lag() == 2
    await world.settle(receiver, Verdict.RELEASE, one)
    world.clock.ahead = 61.0
    assert await receiver.lag() == 4


async def test_a_bell_that_is_closed_while_it_opens_leaves_no_socket_open() -> None:
    bell = Bell()
    opening = asyncio.ensure_future(bell.open())
    await asyncio.sleep(0)  # it has begun
    bell.close()
    await opening
    await bell.open()
    assert bell.port == 0, "and it does not open again"
