"""Channels on a real server: declared, lost, trimmed, foreign; and what the connection says about them."""

import asyncio
import logging

import pytest
import redis.asyncio

from ductape.adapter import (
    AdapterError,
    Channel,
    Delivery,
    Durability,
    Fault,
    Intake,
    Outgoing,
    Receiver,
    Removable,
    Stored,
    Verdict,
)
from tests.contract import bodies, record, settle, take

from .conftest import World, dead, event, publish

pytestmark = pytest.mark.broker


async def take_forever(receiver: Receiver, seen: list[Delivery]) -> None:
    while True:
        seen += await receiver.receive(10, 0.5)


async def test_a_lost_stream_is_noticed_and_declared_again(world: World) -> None:
    connection = await world.connect()
    receiver, idle = await world.receiver(connection), event("audit")
    await connection.declare(idle)
    sender = await connection.sender(event())
    await world.raw.flushall()
    [answer] = await sender.send([record(1)])
    assert isinstance(answer, AdapterError)
    assert answer.fault is Fault.LOST
    for channel in (event(), idle):
        await connection.declare(channel)
    assert isinstance((await sender.send([record(2)]))[0], Stored)
    seen: list[Delivery] = []
    with pytest.raises(AdapterError) as caught:
        await take_forever(receiver, seen)
    assert caught.value.fault is Fault.LOST
    await receiver.close()
    assert bodies(seen or await take(await world.receiver(connection), 1)) == [2]
    assert bodies(await take(await world.receiver(connection, "audit"), 1)) == [2]


async def test_a_group_that_was_lost_begins_again_from_the_start_even_if_it_began_at_the_end(world: World) -> None:
    connection = await world.connect()
    await connection.declare(event(start="latest"))
    await world.raw.delete("orders")
    await world.raw.xadd("orders", {"body": "1"})
    assert bodies(await take(await world.receiver(connection, start="latest"), 1)) == [1]


@pytest.mark.parametrize(("start", "expected"), [(None, [1, 2, 3]), ("earliest", [1, 2, 3]), ("latest", [3])])
async def test_a_new_group_begins_where_it_wants(world: World, start: str | None, expected: list[int]) -> None:
    connection = await world.connect()
    await publish(connection, record(1), record(2))
    receiver = await world.receiver(connection, "audit", start=start)
    await publish(connection, record(3))
    assert bodies(await take(receiver, 3, 0.6)) == expected


async def test_a_new_group_can_begin_at_an_instant(world: World) -> None:
    connection = await world.connect()
    await world.raw.xadd("orders", {"body": "1"}, id="1699999999999-9")
    await world.raw.xadd("orders", {"body": "2"}, id="1700000000000-0")
    receiver = await world.receiver(connection, "audit", start="2023-11-14T22:13:20Z")
    assert bodies(await take(receiver, 2, 0.6)) == [2]


async def test_trimming_keeps_what_any_group_has_not_settled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ductape_redis._keeper.TRIM_EVERY", 0.1)
    connection = await world.connect(max_length=100)
    receiver = await world.receiver(connection, window=2000)
    await connection.declare(event("audit"))
    await publish(connection, *map(record, range(1000)))
    held, *rest = await take(receiver, 1000)
    await settle(receiver, rest)
    await asyncio.sleep(1.5)
    assert await world.raw.xlen("orders") == 1000
    audit = await world.receiver(connection, "audit", window=2000)
    mine = await take(audit, 1000)
    assert bodies(mine) == list(range(1000))
    await settle(audit, mine)
    await asyncio.sleep(1.5)
    assert await world.raw.xlen("orders") == 1000
    await settle(receiver, [held])
    await asyncio.sleep(1.5)
    assert 100 <= await world.raw.xlen("orders") <= 250


async def test_trimming_is_refused_while_a_declared_group_is_missing(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ductape_redis._keeper.TRIM_EVERY", 0.1)
    connection = await world.connect(max_length=0)
    receiver = await world.receiver(connection, window=1000)
    await connection.declare(event("audit"))
    await world.raw.xgroup_destroy("orders", "audit")
    await publish(connection, *map(record, range(500)))
    await settle(receiver, await take(receiver, 500))
    await asyncio.sleep(1.5)
    assert await world.raw.xlen("orders") == 500
    assert "declared group is missing" in caplog.text


async def test_entries_of_other_producers_are_consumed(world: World) -> None:
    connection = await world.connect(body_field="data")
    receiver = await world.receiver(connection)
    await world.raw.xadd("orders", {"amount": "12"})
    await world.raw.xadd("orders", {"data": b"\xff", "kind": "x"})
    await world.raw.xadd("orders", {"body": b"1", "bad": b"\xff"})
    plain, named, unreadable = await take(receiver, 3)
    assert plain.body == b'{"amount":"12"}'
    assert (named.body, named.headers) == (b"\xff", {"kind": "x"})
    assert (unreadable.body, bool(unreadable.error)) == (b"1", True)
    unreadable.failed += 1
    assert await settle(receiver, [plain, unreadable], Verdict.RETRY) == [None, None]
    again = await take(receiver, 2)
    assert sorted(one.body for one in again) == [b"1", b'{"amount":"12"}']
    assert await settle(receiver, [named, *again]) == [None] * 3


async def test_a_record_that_cannot_be_written_concerns_itself_only(world: World) -> None:
    connection = await world.connect()
    await connection.declare(event())
    sender = await connection.sender(event())
    answers = await sender.send([record(1), Outgoing(b"2", {"h": "\ud800secret"}, "id"), record(3)])
    assert [isinstance(answer, Stored) for answer in answers] == [True, False, True]
    assert isinstance(answers[1], AdapterError)
    assert answers[1].fault is Fault.MESSAGE
    assert "secret" not in str(answers[1])


async def test_a_key_of_another_type_is_a_matter_of_config(world: World) -> None:
    connection = await world.connect()
    await world.raw.set("orders", "a string")
    with pytest.raises(AdapterError) as caught:
        await connection.declare(event())
    assert caught.value.fault is Fault.CONFIG
    sender = await connection.sender(Channel(name="orders"))
    [answer] = await sender.send([record(1)])
    assert isinstance(answer, AdapterError)
    assert answer.fault is Fault.CONFIG


async def test_a_channel_without_groups_exists_after_declare(world: World) -> None:
    connection = await world.connect()
    [stored] = await publish(connection, record(1), channel=Channel(name="orders"))
    assert stored.position.startswith("orders@")
    assert await world.raw.xinfo_groups("orders") == []


async def test_nothing_is_created_where_it_may_not_be(world: World) -> None:
    connection = await world.connect(create=False)
    with pytest.raises(AdapterError, match="missing") as caught:
        await connection.declare(event())
    assert caught.value.fault is Fault.CONFIG
    await world.raw.xadd("orders", {"body": "1"})
    with pytest.raises(AdapterError, match="no group"):
        await connection.declare(event())
    await world.raw.xgroup_create("orders", "billing", "0")
    await connection.declare(event())
    with pytest.raises(AdapterError, match="retry"):
        await connection.receiver(event(), Intake(group="billing", window=1))


async def test_lag_counts_what_the_group_was_not_given(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    await publish(connection, *map(record, range(7)))
    assert await receiver.lag() == 7  # type: ignore[attr-defined]
    await settle(receiver, await take(receiver, 7))
    assert await receiver.lag() == 0  # type: ignore[attr-defined]


async def test_durability_is_read_from_the_server(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        connection = await world.connect()
    assert connection.capabilities(event()).durability is Durability.STORED  # type: ignore[union-attr]
    assert not caplog.records
    await world.raw.config_set("appendfsync", "everysec")
    try:
        connection = await world.connect()
    finally:
        await world.raw.config_set("appendfsync", "always")
    assert connection.capabilities(event()).durability is Durability.BUFFERED  # type: ignore[union-attr]
    assert len([one for one in caplog.records if "appendfsync" in one.message]) == 1


async def test_the_native_client_is_reachable(world: World) -> None:
    connection = await world.connect()
    client = connection.unwrap(redis.asyncio.Redis)
    assert await client.ping()
    with pytest.raises(TypeError):
        connection.unwrap(int)
    await connection.check()


async def test_a_removed_group_leaves_no_key_and_no_group(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, "tail")
    await publish(connection, record(1), channel=event("billing"))
    await publish(connection, record(2), channel=dead("tail"))
    await receiver.close()
    assert isinstance(connection, Removable)
    await connection.remove(event("tail"))
    await connection.remove(event("tail"))
    assert [group["name"] for group in await world.raw.xinfo_groups("orders")] == [b"billing"]
    assert [key async for key in world.raw.scan_iter("*tail*")] == []
