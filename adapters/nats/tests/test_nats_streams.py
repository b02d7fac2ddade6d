"""Streams and consumers on a real server: declared, verified, lost, foreign; and what the connection says of them."""

import asyncio
import json
import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.api import DeliverPolicy

from ductape.adapter import (
    AdapterError,
    Channel,
    Connection,
    Durability,
    Fault,
    Intake,
    Order,
    Outgoing,
    Purpose,
    Removable,
    Stored,
    Verdict,
)
from ductape_nats._receiver import StreamReceiver
from tests.contract import bodies, record, settle, take

from .conftest import World, dead, event, publish

pytestmark = pytest.mark.broker


async def refused(connection: Connection, channel: Channel) -> str:
    """The text of a refusal by configuration."""
    with pytest.raises(AdapterError) as caught:
        await connection.declare(channel)
    assert caught.value.fault is Fault.CONFIG
    return caught.value.text


async def test_a_stream_and_a_consumer_are_made_that_lose_nothing(world: World) -> None:
    await (await world.connect(lease=7.0)).declare(event("shop.bill"))
    stream = (await world.raw.jetstream().stream_info("orders")).config
    assert (stream.subjects, stream.retention, stream.storage) == (["orders"], "limits", "file")
    assert (stream.max_age, stream.max_bytes, stream.duplicate_window) == (0, -1, 120)
    config = (await world.consumer("shop_bill"))["config"]
    assert (config["ack_policy"], config["max_deliver"], config["max_ack_pending"]) == ("explicit", -1, -1)
    assert (config["ack_wait"], config["filter_subject"]) == (7_000_000_000, "orders")


async def test_limits_of_the_config_are_those_of_the_stream_and_not_of_a_groups_own(world: World) -> None:
    connection = await world.connect(max_age=60.0, max_bytes=1_000_000, storage="memory")
    await connection.declare(event())
    await connection.declare(dead())
    stream = (await world.raw.jetstream().stream_info("orders")).config
    assert (stream.max_age, stream.max_bytes, stream.storage, stream.duplicate_window) == (60, 1_000_000, "memory", 60)
    own = (await world.raw.jetstream().stream_info("orders_billing_dead")).config
    assert (own.max_age, own.max_bytes, own.retention) == (0, -1, "workqueue")


async def test_a_stream_that_takes_the_subject_is_used_as_it_is(world: World) -> None:
    await world.raw.jetstream().add_stream(name="EVENTS", subjects=["orders", "orders.>"], max_msg_size=2000)
    connection = await world.connect(create=False)
    text = await refused(connection, event())
    assert "EVENTS" in text
    assert "billing" in text
    connection = await world.connect()
    [stored] = await publish(connection, record(1))
    assert stored.position == "EVENTS@1"
    assert connection.capabilities(event()).max_message == 2000  # type: ignore[union-attr]
    receiver = await world.receiver(connection)
    assert bodies(await take(receiver, 1)) == [1]
    await publish(connection, record(2), channel=dead())
    assert (await world.raw.jetstream().stream_info("orders_billing_dead")).state.messages == 1


async def test_what_is_missing_and_may_not_be_made_is_named(world: World) -> None:
    connection = await world.connect(create=False)
    assert "no stream takes subject 'orders'" in await refused(connection, event())
    await (await world.connect()).declare(event())
    await connection.declare(event())
    assert "no consumer 'audit'" in await refused(connection, event("audit"))


async def test_names_that_would_be_shared_are_refused(world: World) -> None:
    connection = await world.connect()
    await connection.declare(event("a.b"))
    await connection.declare(event("a.b"))
    assert "another group" in await refused(connection, event("a_b"))
    await connection.declare(Channel(name="x.y"))
    assert "does not take subject 'x_y'" in await refused(connection, Channel(name="x_y"))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"ack_policy": "none"}, "acknowledgements"),
        ({"max_deliver": 3}, "after 3 deliveries"),
        ({"ack_wait": 1_000_000_000}, "less than config.lease"),
        ({"deliver_subject": "pushed"}, "pushed"),
        ({"filter_subject": "orders.b"}, "other subjects"),
    ],
)
async def test_a_consumer_that_breaks_promises_is_refused_with_what_to_change(
    world: World, changes: dict[str, Any], what: str
) -> None:
    await world.raw.jetstream().add_stream(name="orders", subjects=["orders", "orders.b"])
    config = {"durable_name": "billing", "ack_policy": "explicit", "filter_subject": "orders", **changes}
    body = json.dumps({"stream_name": "orders", "config": config}).encode()
    made = json.loads((await world.raw.request("$JS.API.CONSUMER.DURABLE.CREATE.orders.billing", body)).data)
    assert "error" not in made
    assert what in await refused(await world.connect(lease=5.0), event())


async def test_a_stream_that_confirms_nothing_is_refused(world: World) -> None:
    await world.raw.jetstream().add_stream(name="orders", subjects=["orders"], no_ack=True)
    assert "no_ack" in await refused(await world.connect(), event())


async def test_a_second_group_on_a_work_queue_is_refused(world: World) -> None:
    await world.raw.jetstream().add_stream(name="orders", subjects=["orders"], retention="workqueue")
    connection = await world.connect()
    await connection.declare(event())
    assert "10100" in await refused(connection, event("audit"))


async def test_memory_is_told_and_warned_of(world: World, caplog: pytest.LogCaptureFixture) -> None:
    connection = await world.connect(storage="memory")
    with caplog.at_level(logging.WARNING):
        await connection.declare(event())
        await connection.declare(event())
    assert connection.capabilities(event()).durability is Durability.BUFFERED  # type: ignore[union-attr]
    assert len([each for each in caplog.records if "memory" in each.getMessage()]) == 1


async def test_a_new_lease_is_given_to_our_own_consumers(world: World) -> None:
    for lease in (5.0, 9.0):
        await (await world.connect(lease=lease)).declare(event())
        assert (await world.consumer())["config"]["ack_wait"] == lease * 1e9


async def test_a_group_can_begin_at_an_instant(world: World) -> None:
    connection = await world.connect()
    await publish(connection, record(1))
    await asyncio.sleep(0.05)
    instant = datetime.now(UTC).isoformat()
    await publish(connection, record(2))
    late = await world.receiver(connection, "late", start=instant)
    assert bodies(await take(late, 2, 1.0)) == [2]
    with pytest.raises(AdapterError, match="start"):
        await connection.declare(event("wrong", start="yesterday"))


async def test_a_resend_is_stored_once(world: World) -> None:
    connection = await world.connect()
    first = await publish(connection, record(1, dedup="a"), record(2, dedup="b"))
    again = await publish(connection, record(1, dedup="a"), record(2, dedup="b~1"))
    assert [each.duplicate for each in (*first, *again)] == [False, False, True, False]
    assert again[0].position == first[0].position
    assert bodies(await take(await world.receiver(connection), 5, 0.5)) == [1, 2, 2]


async def test_a_lost_stream_is_noticed_and_declared_again(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    sender = await connection.sender(event())
    await world.raw.jetstream().delete_stream("orders")
    [answer] = await sender.send([record(1)])
    assert isinstance(answer, AdapterError)
    assert answer.fault is Fault.LOST
    with pytest.raises(AdapterError) as caught:
        await take(receiver, 1)
    assert caught.value.fault is Fault.LOST
    await connection.declare(event())
    assert isinstance((await sender.send([record(2)]))[0], Stored)
    assert bodies(await take(await world.receiver(connection), 1)) == [2]


async def test_a_consumer_that_was_deleted_goes_on_where_it_was(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, start="latest")
    await publish(connection, *map(record, range(5)))
    await settle(receiver, await take(receiver, 5))
    await connection.declare(event())
    await receiver.close()
    await world.raw.jetstream().delete_consumer("orders", "billing")
    await publish(connection, record(5))
    again = await world.receiver(connection, start="latest")
    assert bodies(await take(again, 2, 1.0)) == [5]


async def test_settling_with_a_consumer_that_is_gone_is_lost(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    await publish(connection, record(1))
    held = await take(receiver, 1)
    await world.raw.jetstream().delete_consumer("orders", "billing")
    with pytest.raises(AdapterError) as caught:
        await settle(receiver, held)
    assert caught.value.fault is Fault.LOST


async def test_a_full_stream_is_transient_and_goes_on_when_there_is_room(world: World) -> None:
    await world.raw.jetstream().add_stream(
        name="orders", subjects=["orders"], max_msgs=1, discard="new", retention="workqueue"
    )
    connection = await world.connect()
    receiver = await world.receiver(connection)
    sender = await connection.sender(event())
    first, second = await sender.send([record(1), record(2)])
    assert isinstance(first, Stored)
    assert isinstance(second, AdapterError)
    assert second.fault is Fault.TRANSIENT
    await settle(receiver, await take(receiver, 1))
    assert isinstance((await sender.send([record(2)]))[0], Stored)


async def test_a_message_that_is_too_large_with_its_headers_closes_nothing(world: World) -> None:
    connection = await world.connect()
    await connection.declare(event())
    sender = await connection.sender(event())
    most = connection.unwrap(Client).max_payload
    records = [Outgoing(b"x" * (most - 40), {"h": "y" * 100}, "big"), record(1)]
    big, small = await sender.send(records)
    assert isinstance(big, AdapterError)
    assert big.fault is Fault.MESSAGE
    assert isinstance(small, Stored)
    await connection.check()


async def test_foreign_messages_are_read_and_ours_are_plain(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    stream = world.raw.jetstream()
    await stream.publish("orders", b"plain")
    await stream.publish("orders", b"{}", headers={"kind": "a"})
    plain, headed = await take(receiver, 2)
    assert (plain.body, plain.headers, plain.key) == (b"plain", {}, None)
    assert headed.headers == {"kind": "a"}
    await publish(connection, record(3, key="k"))
    reader = await stream.subscribe("orders", deliver_policy=DeliverPolicy.LAST)
    message = await reader.next_msg(timeout=20)
    assert message.data == b"3"
    assert message.headers == {"Nats-Msg-Id": "id3", "ductape-key": "k", "ductape-id": "id3"}


async def test_the_native_client_is_connected_and_works_beside_ours(world: World) -> None:
    connection = await world.connect()
    native = connection.unwrap(Client)
    heard = await native.subscribe("beside")
    await native.publish("beside", b"x", headers={"h": "v"})
    message = await heard.next_msg(timeout=20)
    assert (message.data, message.headers) == (b"x", {"h": "v"})
    with pytest.raises(TypeError):
        connection.unwrap(dict)


async def test_delayed_failures_do_not_hold_up_what_is_new(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, window=2000)
    await publish(connection, *map(record, range(400)))
    held = await take(receiver, 400)
    assert await settle(receiver, held, Verdict.RETRY, 60.0) == [None] * 400
    await publish(connection, record(1000))
    assert bodies(await take(receiver, 1)) == [1000]
    assert (await world.consumer())["num_ack_pending"] == 401


async def test_what_is_handed_back_does_not_come_straight_back(world: World) -> None:
    connection, other = await world.connect(), await world.connect()
    receiver = await world.receiver(connection)
    await publish(connection, *map(record, range(20)))
    held = await take(receiver, 20)
    second = await world.receiver(other)
    waiting = asyncio.ensure_future(receiver.receive(20, 0.5))
    reading = asyncio.ensure_future(second.receive(20, 5.0))
    await asyncio.sleep(0.1)
    assert await settle(receiver, held, Verdict.RELEASE) == [None] * 20
    found = [*await reading, *await take(second, 20, 0.3)]
    assert len(found) == 20
    assert await waiting == []
    assert {delivery.count for delivery in found} == {2}


async def test_a_group_that_is_removed_leaves_nothing(world: World) -> None:
    connection = await world.connect()
    await publish(connection, record(1))
    await connection.declare(event("audit"))
    for purpose in (Purpose.RETRY, Purpose.DEAD):
        await publish(connection, record(2), channel=event(purpose=purpose))
    assert isinstance(connection, Removable)
    for _ in range(2):
        await connection.remove(event())
    streams = {str(info.config.name) for info in await world.raw.jetstream().streams_info()}
    assert streams == {"orders"}
    assert [info.name for info in await world.raw.jetstream().consumers_info("orders")] == ["audit"]


async def test_a_removal_touches_nothing_of_others_whose_names_look_alike(world: World) -> None:
    connection = await world.connect()
    await connection.declare(event("a_b"))
    stream = world.raw.jetstream()
    await stream.add_stream(name="orders_a_b_dead", subjects=["another.>"])
    await stream.add_stream(name="wide", subjects=["ductape.retry.a/b.*"])
    assert isinstance(connection, Removable)
    await connection.remove(event("a.b"))
    assert {str(info.config.name) for info in await stream.streams_info()} == {"orders", "orders_a_b_dead", "wide"}
    assert [info.name for info in await stream.consumers_info("orders")] == ["a_b"]


async def test_a_removal_makes_nothing(world: World) -> None:
    connection = await world.connect()
    assert isinstance(connection, Removable)
    await connection.remove(event())
    assert await world.raw.jetstream().streams_info() == []


async def test_a_consumer_of_ours_that_was_given_several_subjects_is_refused(world: World) -> None:
    await (await world.connect()).declare(event())
    config = (await world.consumer())["config"]
    del config["filter_subject"]
    body = json.dumps({"stream_name": "orders", "config": config | {"filter_subjects": ["orders", "more"]}}).encode()
    await world.raw.jetstream().update_stream(name="orders", subjects=["orders", "more"])
    made = json.loads((await world.raw.request("$JS.API.CONSUMER.CREATE.orders.billing", body)).data)
    assert "error" not in made
    assert "reads other subjects" in await refused(await world.connect(lease=7.0), event())


async def test_a_lease_that_ends_while_it_connects_is_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    await publish(connection, record(1), record(2))
    held = await take(receiver, 2)
    assert isinstance(receiver, StreamReceiver)

    async def slowly(bound: float = 0.0) -> float:
        for delivery in held:
            delivery.leased_until = receiver._clock.now()
        return bound

    monkeypatch.setattr(receiver._link, "open", slowly)
    [answer] = await receiver.extend(held[:1])
    assert answer is not None
    assert answer.fault is Fault.LOST
    [answer] = await settle(receiver, held[1:], Verdict.RETRY)
    assert answer is not None
    assert answer.fault is Fault.LOST


async def test_a_consumer_that_does_not_answer_and_is_there_is_awaited(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    assert isinstance(receiver, StreamReceiver)
    receiver._told(b"NATS/1.0 503\r\n\r\n")  # as while a cluster elects a leader
    with pytest.raises(AdapterError) as caught:
        await receiver.receive(1, 0.1)
    assert caught.value.fault is Fault.TRANSIENT
    await publish(connection, record(1))
    assert bodies(await take(receiver, 1)) == [1]


async def test_order_is_claimed_where_the_server_pins(world: World) -> None:
    connection = await world.connect()
    await connection.declare(event(order=Order.KEY))
    assert connection.capabilities(event()).order is Order.TOTAL  # type: ignore[union-attr]
    assert (await world.consumer())["config"]["priority_policy"] == "pinned_client"
    await connection.declare(event("plain"))
    await connection.declare(event("plain", order=Order.KEY))
    assert (await world.consumer("plain"))["config"]["priority_policy"] == "pinned_client"


async def test_a_foreign_consumer_that_is_not_pinned_is_refused_where_order_is_asked_for(world: World) -> None:
    await world.raw.jetstream().add_stream(name="orders", subjects=["orders"])
    await world.raw.jetstream().add_consumer("orders", durable_name="billing", ack_wait=30, filter_subject="orders")
    assert "not pinned" in await refused(await world.connect(), event(order=Order.KEY))


async def test_windows_keep_to_themselves_what_has_no_room(world: World) -> None:
    connection = await world.connect()
    channel = event()
    await connection.declare(channel)
    receiver = await connection.receiver(channel, Intake(group="billing", window=3))
    await publish(connection, *map(record, range(9)))
    held = await take(receiver, 9, 0.5)
    assert len(held) == 3
    assert (await world.consumer())["num_ack_pending"] == 3
    await receiver.close()
