"""Queues on a real server: found, created, verified; what other programs write and read; dead letters; FIFO."""

import asyncio
import json
import time
from typing import Any

import pytest

from ductape.adapter import AdapterError, Capabilities, Fault, Intake, Order, Purpose, Stored, Verdict
from tests.contract import bodies, record, settle, take

from .conftest import World

pytestmark = pytest.mark.broker


async def created(world: World, name: str, **attributes: str) -> tuple[Any, str]:
    """A plain client, and the URL of a queue that it created."""
    native = await world.native()
    return native, (await native.create_queue(QueueName=name, Attributes=attributes))["QueueUrl"]


async def test_a_missing_queue_is_a_matter_of_config_where_none_may_be_created(world: World) -> None:
    connection = await world.connect(create=False)
    for channel in (world.channel(), world.channel(address=f"{world.url}/000000000000/{world.name}-gone")):
        with pytest.raises(AdapterError, match="is missing") as caught:
            await connection.declare(channel)
        assert caught.value.fault is Fault.CONFIG
        assert "create it" in str(caught.value)
    await (await world.connect()).declare(world.channel())
    await connection.declare(world.channel())


async def test_a_topic_s_queue_url_is_used_as_it_is(world: World) -> None:
    _, url = await created(world, f"{world.name}-theirs")
    connection = await world.connect(create=False)
    channel = world.channel(address=url)
    assert all(isinstance(each, Stored) for each in await world.publish(connection, record(1), channel=channel))
    receiver = await world.receiver(connection, channel)
    held = await take(receiver, 1)
    assert bodies(held) == [1]
    assert held[0].position.startswith(f"{world.name}-theirs@")
    await settle(receiver, held)


async def test_a_configured_queue_is_used_as_it_is_written(world: World) -> None:
    native, url = await created(world, f"{world.name}-shared")
    connection = await world.connect(queue=f"{world.name}-shared")
    channel = world.channel(name=f"{world.name}-shared")
    await world.publish(connection, record(1), channel=channel)
    found = await native.receive_message(QueueUrl=url, WaitTimeSeconds=5)
    assert found["Messages"][0]["Body"] == "1"
    with pytest.raises(AdapterError, match="both name a queue") as caught:
        await connection.declare(world.channel(address=url))
    assert caught.value.fault is Fault.CONFIG


async def test_two_topics_that_would_take_each_other_s_messages_are_refused(world: World) -> None:
    _, url = await created(world, f"{world.name}-one")
    connection = await world.connect()
    receiver = await world.receiver(connection, world.channel(name="a.b", address=url))
    with pytest.raises(AdapterError, match=r"config\.queue") as caught:
        await world.receiver(connection, world.channel(name="a.c", address=url))
    assert caught.value.fault is Fault.CONFIG
    await receiver.close()
    await world.receiver(connection, world.channel(name="a.c", address=url))


async def test_what_is_published_is_plain_for_other_programs(world: World) -> None:
    connection = await world.connect()
    headers = {"ductape-id": "id1", "content-type": "application/json"}
    await world.publish(connection, record(1, body=b'{"n": 1}', headers=headers, key="cust"))
    native = await world.native()
    url = (await native.get_queue_url(QueueName=f"{world.name}_orders"))["QueueUrl"]
    found = await native.receive_message(QueueUrl=url, WaitTimeSeconds=5, MessageAttributeNames=["All"])
    [message] = found["Messages"]
    assert message["Body"] == '{"n": 1}'
    texts = {name: each["StringValue"] for name, each in message["MessageAttributes"].items()}
    assert texts == {**headers, "ductape-key": "cust"}


async def test_what_other_programs_write_is_read(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    native = await world.native()
    url = (await native.get_queue_url(QueueName=f"{world.name}_orders"))["QueueUrl"]
    attributes = {
        "n": {"DataType": "Number", "StringValue": "7"},
        "b": {"DataType": "Binary", "BinaryValue": b"\x00\x01"},
        "s": {"DataType": "String.custom", "StringValue": "text"},
    }
    await native.send_message(QueueUrl=url, MessageBody="hello", MessageAttributes=attributes)
    broken = {"ductape-encoding": {"DataType": "String", "StringValue": "base64"}}
    await native.send_message(QueueUrl=url, MessageBody="%%%", MessageAttributes=broken)
    held = {delivery.body: delivery for delivery in await take(receiver, 2)}
    assert dict(held[b"hello"].headers) == {"n": "7", "b": "AAE=", "s": "text"}
    assert (held[b"hello"].error, held[b"%%%"].error) == ("", "the body is not base64")
    await settle(receiver, list(held.values()))


async def test_dead_letters_go_to_a_queue_of_their_own_that_keeps_them_a_fortnight(world: World) -> None:
    connection = await world.connect()
    await world.publish(connection, record(1), channel=world.dead())
    native = await world.native()
    url = (await native.get_queue_url(QueueName=f"{world.name}_orders-dead"))["QueueUrl"]
    receiver = await world.receiver(connection, world.dead())
    held = await take(receiver, 1)
    assert bodies(held) == [1]
    await settle(receiver, held)
    found = await native.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
    assert found["Attributes"]["ApproximateNumberOfMessages"] == "0"


@pytest.mark.parametrize("fifo", [False, True])
async def test_the_queue_s_own_redrive_target_takes_the_dead_letters(world: World, fifo: bool) -> None:
    end, kind = (".fifo", {"FifoQueue": "true"}) if fifo else ("", {})
    native, target = await created(world, f"{world.name}-failures{end}", **kind)
    found = await native.get_queue_attributes(QueueUrl=target, AttributeNames=["QueueArn"])
    policy = {"deadLetterTargetArn": found["Attributes"]["QueueArn"], "maxReceiveCount": 50}
    _, url = await created(world, f"{world.name}-source{end}", RedrivePolicy=json.dumps(policy), **kind)
    connection = await world.connect(create=False)
    await world.publish(connection, record(1, dedup="id1~1"), channel=world.dead(address=url))
    message = (await native.receive_message(QueueUrl=target, WaitTimeSeconds=5))["Messages"][0]
    assert message["Body"] == "1"


async def test_what_sqs_itself_gave_up_is_listed_with_the_dead_letters(world: World) -> None:
    native, target = await created(world, f"{world.name}-failures")
    found = await native.get_queue_attributes(QueueUrl=target, AttributeNames=["QueueArn"])
    policy = {"deadLetterTargetArn": found["Attributes"]["QueueArn"], "maxReceiveCount": 1}
    _, url = await created(world, f"{world.name}-source", RedrivePolicy=json.dumps(policy))
    connection = await world.connect()
    channel = world.channel(address=url)
    await world.publish(connection, record(1), channel=channel)
    receiver = await world.receiver(connection, channel)
    assert await settle(receiver, await take(receiver, 1), Verdict.RELEASE) == [None]
    assert await receiver.receive(10, 1.5) == []
    dead = await world.receiver(connection, world.dead(address=url))
    held = await take(dead, 1)
    assert bodies(held) == [1]
    await settle(dead, held)


async def test_retries_come_back_through_the_queue_itself(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    way_back = world.channel(purpose=Purpose.RETRY)
    began = time.monotonic()
    await world.publish(connection, record(1, delay=1.0, dedup="id1~1"), channel=way_back)
    assert connection.capabilities(way_back).retry_joins  # type: ignore[union-attr]  # it never answers None
    held = await take(receiver, 1)
    assert bodies(held) == [1]
    assert time.monotonic() - began >= 1.0
    await settle(receiver, held)


async def test_what_a_channel_can_do_is_told_for_each(world: World) -> None:
    connection = await world.connect(lease=7)

    def can(**more: Any) -> Capabilities:
        found = connection.capabilities(world.channel(**more))
        assert found is not None
        return found

    plain, ordered = can(), can(name="o.p", order=Order.KEY)
    assert (plain.order, plain.order_locks, plain.send_delay, plain.lease) == (Order.NONE, False, 900.0, 7.0)
    assert (ordered.order, ordered.order_locks, ordered.send_delay) == (Order.KEY, True, 0.0)
    assert can(name="o.p", order=Order.KEY, purpose=Purpose.DEAD).order is Order.NONE
    assert can(address="https://sqs.eu-west-1.amazonaws.com/1/theirs.fifo").order is Order.KEY
    assert can(options={"fifo": True}).order is Order.KEY
    assert can(order=Order.KEY, options={"fifo": False}).order is Order.NONE
    with pytest.raises(AdapterError, match=r"options\.fifo"):
        can(options={"fifo": "yes"})


@pytest.mark.parametrize("start", ["latest", "2026-11-23T10:00:00Z"])
async def test_a_queue_cannot_begin_elsewhere(world: World, start: str) -> None:
    with pytest.raises(AdapterError, match="hands over everything") as caught:
        await (await world.connect()).declare(world.channel(start=start))
    assert caught.value.fault is Fault.CONFIG


async def test_a_topic_s_attributes_are_its_queue_s(world: World) -> None:
    connection = await world.connect()
    await connection.declare(world.channel(options={"attributes": {"DelaySeconds": "1"}}))
    native = await world.native()
    url = (await native.get_queue_url(QueueName=f"{world.name}_orders"))["QueueUrl"]
    found = (await native.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]))["Attributes"]
    assert (found["DelaySeconds"], found["VisibilityTimeout"]) == ("1", "5")
    with pytest.raises(AdapterError, match=r"options\.attributes") as caught:
        await connection.declare(world.channel(name="o.p", options={"attributes": {"DelaySeconds": 1}}))
    assert caught.value.fault is Fault.CONFIG


async def test_many_who_declare_one_queue_at_a_time_get_the_same(world: World) -> None:
    connections = [await world.connect() for _ in range(5)]
    await asyncio.gather(*(connection.declare(world.channel()) for connection in connections))
    for number, connection in enumerate(connections):
        await world.publish(connection, record(number))
    receiver = await world.receiver(connections[0])
    held = await take(receiver, 5)
    assert bodies(held) == list(range(5))
    await settle(receiver, held)


async def test_a_fifo_queue_stores_what_is_sent_again_once(world: World) -> None:
    connection = await world.connect()
    channel = world.channel(order=Order.KEY)
    for _ in range(3):
        answers = await world.publish(connection, record(1, key="k", dedup="id1"), channel=channel)
        assert isinstance(answers[0], Stored)
    receiver = await world.receiver(connection, channel)
    held = await take(receiver, 1)
    await settle(receiver, held)
    assert await receiver.receive(10, 1.5) == []


async def test_one_hot_key_keeps_its_order_over_many_calls(world: World) -> None:
    connection = await world.connect()
    channel = world.channel(order=Order.KEY)
    records = [record(n, key="hot", dedup=f"d{n}") for n in range(40)]
    assert all(isinstance(each, Stored) for each in await world.publish(connection, *records, channel=channel))
    receiver = await world.receiver(connection, channel)
    seen: list[int] = []
    while len(seen) < 40:
        for delivery in await receiver.receive(7, 5.0):
            assert await settle(receiver, [delivery]) == [None]
            seen.append(int(delivery.body))
    assert seen == list(range(40))


async def test_a_receiver_tells_how_many_wait(world: World) -> None:
    connection = await world.connect()
    await world.publish(connection, *map(record, range(7)))
    receiver = await connection.receiver(world.channel(), Intake(group="billing", window=1))
    assert await receiver.lag() == 7  # type: ignore[attr-defined]  # it is Measurable
