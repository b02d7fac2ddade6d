"""Exchanges, queues and their arguments, on a real server."""

import asyncio
import math
import time

import aio_pika
import pytest
from aio_pika import DeliveryMode, ExchangeType, Message

from ductape.adapter import AdapterError, Channel, Count, Fault, Intake, Order, Outgoing, Purpose, Settlement, Verdict
from tests.contract import bodies, record, settle, take

from .conftest import World, publish


async def refused(
    world: World, channel: Channel | None = None, *, create: bool = True, **config: object
) -> AdapterError:
    """The CONFIG error with which declaring is refused; the connection works afterwards."""
    connection = await world.connect(create=create, **config)
    with pytest.raises(AdapterError) as error:
        await connection.declare(channel or world.event())
    assert error.value.fault is Fault.CONFIG
    await connection.check()
    return error.value


async def test_a_queue_with_other_arguments_is_refused_with_what_to_do_and_left_as_it_is(world: World) -> None:
    queue = f"{world.name}.billing"
    channel = await world.channel()
    await channel.declare_queue(queue, durable=True)
    error = await refused(world)
    assert queue in str(error)
    assert "create: false" in str(error)
    as_it_is = await world.connect(create=False, queue_type="classic")
    await as_it_is.declare(world.event())


async def test_a_queue_that_was_unordered_is_not_silently_used_in_order(world: World) -> None:
    connection = await world.connect()
    await connection.declare(world.event())
    assert "x-single-active-consumer" in str(await refused(world, world.event(order=Order.KEY)))


async def test_a_queue_that_is_exclusive_to_another_connection_is_refused_with_what_to_do(world: World) -> None:
    await (await world.channel()).declare_queue(f"{world.name}.billing", exclusive=True)
    assert "exclusive" in str(await refused(world, queue_type="classic"))


async def test_a_queue_with_an_exclusive_consumer_is_refused_when_the_receiver_opens(world: World) -> None:
    connection = await world.connect(queue_type="classic")  # quorum queues have no exclusive consumers
    await connection.declare(world.event())

    async def nothing(message: object) -> None: ...

    queue = await world.queue(f"{world.name}.billing")
    await queue.consume(nothing, exclusive=True)
    with pytest.raises(AdapterError, match="alone") as error:
        await connection.receiver(world.event(), Intake(group="billing", window=10))
    assert error.value.fault is Fault.CONFIG


async def test_what_may_not_be_created_is_only_verified(world: World) -> None:
    assert f"{world.name}.billing" in str(await refused(world, create=False))
    assert "events.of.nobody" in str(await refused(world, create=False, exchange="events.of.nobody"))
    assert ".dead" in str(await refused(world, world.dead(), create=False))
    await (await world.connect()).declare(world.event())
    await (await world.connect(create=False)).declare(world.event())


async def test_names_that_the_protocol_cannot_carry_are_refused(world: World) -> None:
    assert "255 bytes" in str(await refused(world, Channel(name="n" * 256, group="")))
    assert "255 bytes" in str(await refused(world, Channel(name="n" * 250, group="billing")))
    assert "ASCII letters" in str(await refused(world, world.event("prüfung")))


async def test_an_exchange_is_made_once_and_used_whatever_its_type(world: World) -> None:
    connection = await world.connect(exchange=f"{world.name}.events")
    receiver = await world.receiver(connection)
    await publish(await world.sender(connection), record(1))
    assert bodies(await take(receiver, 1)) == [1]
    channel = await world.channel()
    await channel.declare_exchange(f"{world.name}.direct", ExchangeType.DIRECT)
    direct = await world.connect(exchange=f"{world.name}.direct")
    receiver = await world.receiver(direct, world.event("audit"))
    await publish(await world.sender(direct, world.event("audit")), record(2))
    assert bodies(await take(receiver, 1)) == [2]


async def test_the_config_names_the_default_groups_queue_literally(world: World) -> None:
    queue = f"jobs.of.{world.name}"
    connection = await world.connect(routing_key=world.name, queue=queue)
    default, other = world.event(queue), world.event("audit")
    receivers = [await world.receiver(connection, default), await world.receiver(connection, other)]
    await publish(await world.sender(connection, default), record(1))
    assert [bodies(await take(each, 1)) for each in receivers] == [[1], [1]]
    for name in (queue, f"{queue}.audit"):
        await world.queue(name)


async def test_what_nobody_gets_is_an_error_and_those_that_came_back_are_the_right_ones(world: World) -> None:
    connection = await world.connect()
    lonely = await world.sender(connection, world.event(""))
    first, second = await asyncio.gather(*(lonely.send([record(1), record(1)]) for _ in range(2)))
    for answer in (*first, *second):
        assert isinstance(answer, AdapterError)
        assert answer.fault is Fault.CONFIG
        assert "no queue is bound" in str(answer)


async def test_a_queue_that_was_deleted_is_declared_anew_with_the_next_sender(world: World) -> None:
    connection = await world.connect()
    sender = await world.sender(connection)
    await publish(sender, record(1))
    await (await world.channel()).queue_delete(f"{world.name}.billing")
    (answer,) = await sender.send([record(2)])
    assert isinstance(answer, AdapterError)
    assert answer.fault is Fault.LOST
    await publish(await world.sender(connection), record(2))
    assert bodies(await take(await world.receiver(connection), 1)) == [2]


async def test_a_receiver_whose_queue_is_deleted_is_lost(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    waiting = asyncio.ensure_future(receiver.receive(1, 10.0))
    await (await world.channel()).queue_delete(f"{world.name}.billing")
    with pytest.raises(AdapterError) as error:
        await waiting
    assert error.value.fault is Fault.LOST


async def test_a_body_that_the_server_refuses_is_found_out_and_the_others_are_stored(world: World) -> None:
    connection = await world.connect(max_message_size=300 * 1024 * 1024)
    receiver = await world.receiver(connection)
    sender = await world.sender(connection)
    large = 16 * 1024 * 1024 + 1
    answers = await sender.send([record(1), Outgoing(b"x" * large, {}, "big"), record(3)])
    stored = [not isinstance(answer, AdapterError) for answer in answers]
    faults = [answer.fault for answer in answers if isinstance(answer, AdapterError)]
    assert stored[1:] == [False, False]
    assert faults[-2:] == [Fault.MESSAGE, Fault.LOST]
    can = connection.capabilities(world.event())
    assert can is not None
    assert can.max_body == large - 1
    sender = await world.sender(connection)
    (refused,) = await sender.send([Outgoing(b"x" * large, {}, "big")])
    assert isinstance(refused, AdapterError)
    assert refused.fault is Fault.MESSAGE
    await publish(sender, record(3))
    assert set(bodies(await take(receiver, 2))) == {1, 3}


async def test_headers_that_would_close_the_channel_fail_alone(world: World) -> None:
    connection = await world.connect()
    sender = await world.sender(connection)
    bad = Outgoing(b"2", {"CC": "elsewhere"}, "id2")
    first, refused, last = await sender.send([record(1), bad, record(3)])
    assert isinstance(refused, AdapterError)
    assert refused.fault is Fault.MESSAGE
    assert not isinstance(first, AdapterError)
    assert not isinstance(last, AdapterError)


async def test_a_message_with_copies_for_others_can_be_dead_lettered(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    exchange = await (await world.channel()).get_exchange("amq.topic")
    await exchange.publish(Message(b"1", headers={"CC": [f"{world.name}.other"], "n": 7}), world.name)
    (theirs,) = await take(receiver, 1)
    letter = Outgoing(theirs.body, theirs.headers, "id1", origin=theirs)
    await publish(await world.sender(connection, world.dead()), letter)
    (copy,) = await take(await world.receiver(connection, world.dead()), 1)
    assert dict(copy.headers) == {"n": "7"}


async def test_what_is_handed_back_again_and_again_never_brings_more_than_the_window(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, window=8)
    await publish(await world.sender(connection), *(record(number) for number in range(50)))
    held = await take(receiver, 8)
    for _ in range(10):
        await settle(receiver, [held.pop()], Verdict.RELEASE)
        held += await take(receiver, 1)
        assert await receiver.receive(50, 0.05) == []
    assert await settle(receiver, held) == [None] * 8
    (last,) = await take(receiver, 1)
    await settle(receiver, [last])
    assert len(await take(receiver, 8)) == 8  # the window is whole again


async def test_a_producer_of_another_client_is_read_and_reads_ours(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    channel = await world.channel()
    exchange = await channel.get_exchange("amq.topic")
    await exchange.publish(
        Message(b"theirs", headers={"n": 7}, content_type="text/plain", delivery_mode=DeliveryMode.PERSISTENT),
        world.name,
    )
    (theirs,) = await take(receiver, 1)
    assert (theirs.body, dict(theirs.headers)) == (b"theirs", {"n": "7", "content-type": "text/plain"})
    await settle(receiver, [theirs])
    mine = await channel.declare_queue(exclusive=True)
    await mine.bind("amq.topic", world.name)
    headers = {"ductape-id": "id1", "content-type": "application/json", "who": "Zoë"}
    await publish(await world.sender(connection), Outgoing(b'{"a":1}', headers, "id1", "cust_789"))
    ours = await mine.get(timeout=5)
    await ours.ack()
    assert (ours.body, ours.content_type) == (b'{"a":1}', "application/json")
    assert ours.headers == {"ductape-id": "id1", "who": "Zoë", "ductape-key": "cust_789"}
    assert ours.delivery_mode is DeliveryMode.PERSISTENT


@pytest.mark.parametrize("purpose", [Purpose.EVENTS, Purpose.RETRY])
async def test_delays_are_never_early_and_short_ones_do_not_wait_for_long_ones(world: World, purpose: Purpose) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    sender = await world.sender(connection, Channel(name=world.name, purpose=purpose, group="billing"))
    began = time.monotonic()
    await publish(sender, record(30, delay=3.0), record(13, delay=1.3), record(5, delay=0.5), record(0))
    due: dict[int, float] = {}
    while len(due) < 4:
        due |= {int(each.body): time.monotonic() - began for each in await take(receiver, 1)}
    assert list(due) == [0, 5, 13, 30]
    for tenths, seconds in due.items():
        assert tenths / 10 <= seconds < tenths / 10 + 1.0


async def test_a_group_that_is_removed_leaves_nothing_behind_and_others_stay(world: World) -> None:
    connection = await world.connect()
    for channel in (world.event(), world.dead(), world.event("audit")):
        await connection.declare(channel)
    retry = Channel(name=world.name, purpose=Purpose.RETRY, group="billing")
    await publish(await world.sender(connection, retry), record(1, delay=60.0))
    for _ in range(2):
        await connection.remove(world.event())  # type: ignore[attr-defined]  # it is Removable
    for name in ("billing", "billing.dead", "billing.retry.64"):
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await world.queue(f"{world.name}.{name}")
    await world.queue(f"{world.name}.audit")


async def test_the_longest_delay_is_taken(world: World) -> None:
    connection = await world.connect()
    can = connection.capabilities(world.event())
    assert can is not None
    (stored,) = await publish(await world.sender(connection), record(1, delay=can.send_delay))
    assert stored.position.startswith(f"{world.name}.delay.{2**22}@")


async def test_delay_queues_do_not_expire_with_what_waits_in_them(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    await publish(await world.sender(connection), record(1, delay=1.0))
    assert bodies(await take(receiver, 1)) == [1]
    await world.queue(f"{world.name}.delay.1")  # it is there, and empty


async def test_the_count_grows_with_each_delivery_and_classic_queues_have_none(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    await publish(await world.sender(connection), record(1))
    for count in (1, 2, 3):
        (delivery,) = await take(receiver, 1)
        assert delivery.count == count
        await settle(receiver, [delivery], Verdict.RELEASE)
    classic = await world.connect(queue_type="classic")
    can = classic.capabilities(world.event("audit"))
    assert can is not None
    assert can.count is Count.NONE
    receiver = await world.receiver(classic, world.event("audit"))
    await publish(await world.sender(classic, world.event("audit")), record(1))
    (delivery,) = await take(receiver, 1)
    assert delivery.count is None


async def test_acknowledgements_in_any_order_settle_what_they_say(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, window=100)
    await publish(await world.sender(connection), *(record(number) for number in range(100)))
    got = await take(receiver, 100)
    odd = [each for each in got if int(each.body) % 2]
    assert await settle(receiver, odd[::-1]) == [None] * 50
    mixed = [Settlement(each, Verdict.ACK if int(each.body) % 4 else Verdict.RELEASE) for each in got[::2]]
    assert list(await receiver.settle(mixed)) == [None] * 50
    again = await take(receiver, 25)
    assert bodies(again) == list(range(0, 100, 4))
    assert await settle(receiver, odd[:3]) != [None] * 3
    assert await settle(receiver, again) == [None] * 25
    assert await receiver.receive(100, 0.5) == []
    queue = await world.queue(f"{world.name}.billing")
    await receiver.close()
    assert (await world.queue(queue.name)).declaration_result.message_count == 0


@pytest.mark.parametrize("order", [Order.NONE, Order.KEY])
async def test_a_burst_of_acknowledgements_out_of_order_is_settled_when_the_receiver_closes(
    world: World, order: Order
) -> None:
    connection = await world.connect()
    channel = world.event(order=order)
    receiver = await world.receiver(connection, channel, window=300)
    await publish(await world.sender(connection, channel), *(record(number) for number in range(300)))
    first, *others = await take(receiver, 300)
    await receiver.stop()
    assert await settle(receiver, others) == [None] * 299
    await receiver.close()
    again = await world.receiver(connection, channel, window=300)
    assert bodies(await take(again, 2, within=1.0)) == [int(first.body)]


async def test_in_order_what_is_handed_back_comes_again_before_what_is_behind_it(world: World) -> None:
    connection = await world.connect()
    channel = world.event(order=Order.KEY)
    receiver = await world.receiver(connection, channel, window=10)
    await publish(await world.sender(connection, channel), *(record(number, key="k") for number in range(20)))
    first = await take(receiver, 4)
    await settle(receiver, first[1:], Verdict.RELEASE)
    await settle(receiver, first[:1])
    rest: list[int] = []
    while len(rest) < 19:
        found = await take(receiver, 1)
        rest += [int(each.body) for each in found]
        await settle(receiver, found)
    assert rest == list(range(1, 20))


async def test_in_order_what_is_handed_back_beside_a_waiting_call_comes_once(world: World) -> None:
    connection = await world.connect()
    channel = world.event(order=Order.KEY)
    receiver = await world.receiver(connection, channel)
    await publish(await world.sender(connection, channel), record(1), record(2))
    held = await take(receiver, 2)
    waiting = asyncio.ensure_future(receiver.receive(10, 5.0))
    await asyncio.sleep(0)
    await settle(receiver, held, Verdict.RELEASE)
    again = [*await waiting, *await receiver.receive(10, 0.2)]
    assert [int(each.body) for each in again] == [1, 2]
    assert await settle(receiver, again) == [None] * 2


async def test_lag_is_what_nobody_was_given(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, window=3)
    await publish(await world.sender(connection), *(record(number) for number in range(10)))
    await take(receiver, 3)
    assert await receiver.lag() == 7  # type: ignore[attr-defined]  # it is Measurable


async def test_a_window_larger_than_the_protocol_knows_works(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, window=100_000)
    await publish(await world.sender(connection), record(1))
    assert bodies(await take(receiver, 1)) == [1]


async def test_capabilities_say_what_the_config_and_the_version_say(world: World) -> None:
    connection = await world.connect(consumer_timeout=60.0)
    can = connection.capabilities(world.event())
    assert can is not None
    assert (can.lease, can.lease_total, can.lease_shared) == (60.0, 60.0, True)
    assert can.send_delay == 2**22
    dead = connection.capabilities(world.dead())
    assert dead is not None
    assert dead.send_delay == 0.0
    assert can.max_body in (16 * 2**20, 128 * 2**20)
    assert not math.isinf(can.lease_total or 0.0)


async def test_the_native_connection_is_the_users_to_connect(world: World) -> None:
    connection = await world.connect()
    native = connection.unwrap(aio_pika.Connection)
    await native.connect()
    channel = await native.channel()
    assert (await channel.get_exchange("amq.topic")).name == "amq.topic"
    await connection.close()
    assert native.is_closed
