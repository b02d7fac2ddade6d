"""Batches that are refused, producers that are replaced, and what is told to whom."""

import asyncio
import logging
import re
from collections.abc import Sequence

import pytest

from ductape.adapter import AdapterError, Channel, Fault, Order, Outgoing, Purpose, Sender, Stored
from ductape_conformance.proxy import TcpProxy
from ductape_kafka._connection import KafkaConnection
from tests.brokers.server import Server
from tests.contract import bodies, patiently, record, settle, take

from .conftest import World

# The first test starts the broker.
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "aiokafka")


def faults(answers: Sequence[Stored | AdapterError]) -> list[Fault | None]:
    return [answer.fault if isinstance(answer, AdapterError) else None for answer in answers]


async def resend(sender: Sender, records: Sequence[Outgoing]) -> dict[str, Stored | AdapterError]:
    """Sends again, in place, what is answered TRANSIENT or AMBIGUOUS: as the kernel does."""
    final: dict[str, Stored | AdapterError] = {}
    left = list(records)
    for _ in range(3 * len(records)):
        again: list[Outgoing] = []
        for one, answer in zip(left, await sender.send(left), strict=True):
            if isinstance(answer, AdapterError) and answer.fault in (Fault.TRANSIENT, Fault.AMBIGUOUS):
                again.append(one)
            else:
                final[one.id] = answer
        if not again:
            return final
        left = again
        await asyncio.sleep(0.1)
    raise AssertionError(f"{len(left)} records were never answered for good")


async def lowered(world: World, connection: KafkaConnection, limit: int) -> Sender:
    """Returns a sender that does not know that the topic takes less than it was told."""
    sender = await world.sender(connection)
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    settings = {"max.message.bytes": str(limit)}
    await world.admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, world.name, settings)])
    return sender


async def test_of_a_refused_batch_only_the_guilty_records_fail_and_none_is_stored_twice(world: World) -> None:
    connection = await world.connect(partitions=1)
    assert isinstance(connection, KafkaConnection)
    sender = await lowered(world, connection, 4000)
    bad = {7, 23, 24}
    records = [Outgoing(b"%d" % n if n not in bad else b"x" * 5000, {}, f"id{n}", f"k{n % 5}") for n in range(40)]
    final = await resend(sender, records)
    refused = {id for id, answer in final.items() if isinstance(answer, AdapterError)}
    assert refused == {f"id{n}" for n in bad}
    assert all("max.message.bytes" in str(final[id]) for id in refused)
    receiver = await world.receiver(connection, window=100)
    got = await take(receiver, 37)
    assert bodies(got) == [n for n in range(40) if n not in bad]
    by_key = {key: [int(one.body) for one in got if one.key == key] for key in {one.key for one in got}}
    assert all(numbers == sorted(numbers) for numbers in by_key.values()), "in order for each key"
    assert not await take(receiver, 1, within=0.5), "none twice"


async def test_after_a_failed_batch_the_partition_goes_on_with_another_producer(world: World) -> None:
    connection = await world.connect(partitions=1)
    assert isinstance(connection, KafkaConnection)
    sender = await lowered(world, connection, 2000)
    assert faults(await sender.send([record(1)])) == [None]
    before = connection._producers.current
    assert faults(await sender.send([Outgoing(b"x" * 3000, {}, "big")])) == [Fault.MESSAGE]
    assert connection._producers.current is not before
    for number in range(2, 5):
        assert faults(await sender.send([record(number)])) == [None], "the sequence is not poisoned"
    assert connection._producers.made == 2


async def test_what_is_too_large_is_refused_before_it_is_sent(world: World) -> None:
    connection = await world.connect()
    assert isinstance(connection, KafkaConnection)
    sender = await world.sender(connection)
    limit = connection.capabilities(world.channel()).max_message
    assert limit is not None
    answers = await sender.send([record(1, key="a"), Outgoing(b"x" * (limit + 1), {}, "big", "a"), record(2, key="a")])
    assert faults(answers) == [None, Fault.MESSAGE, Fault.TRANSIENT]
    assert re.search(rf"takes {limit} \(its max.message.bytes", str(answers[1]))
    assert connection._producers.made == 1


async def test_a_record_of_the_size_that_is_told_is_taken(world: World) -> None:
    connection = await world.connect(partitions=1)
    sender = await world.sender(connection)
    limit = connection.capabilities(world.channel())
    assert limit is not None
    assert limit.max_message is not None
    headers = {f"h{number}": "v" * 20 for number in range(100)}
    room = sum(len(name) + len(value) for name, value in headers.items())
    body = b"x" * (limit.max_message - room)
    assert faults(await sender.send([Outgoing(body, headers, "full", size=limit.max_message)])) == [None]


async def test_a_compacted_topic_wants_keys_and_says_so(world: World) -> None:
    connection = await world.connect()
    channel = world.channel(options={"config": {"cleanup.policy": "compact"}, "partitions": 1})
    sender = await world.sender(connection, channel)
    answers = await sender.send([record(1, key="a"), record(2), record(3, key="b")])
    assert faults(answers) == [None, Fault.MESSAGE, None]
    assert "compacted: a record needs a key" in str(answers[1])


async def test_topics_are_made_as_options_say(world: World) -> None:
    connection = await world.connect()
    await connection.declare(world.channel(options={"partitions": 5, "config": {"retention.ms": 60000}}))
    await connection.declare(world.channel(purpose=Purpose.DEAD))
    topics = await world.admin.describe_topics([world.name, f"{world.name}.billing.dead"])
    assert [len(each["partitions"]) for each in topics] == [5, 1]
    with pytest.raises(AdapterError, match=r"options\.partitions: 'many'") as error:
        await connection.declare(Channel(name=world.name + ".other", options={"partitions": "many"}))
    assert error.value.fault is Fault.CONFIG
    with pytest.raises(AdapterError, match="InvalidReplicationFactor") as error:
        await connection.declare(Channel(name=world.name + ".other", options={"replication": 3}))
    assert error.value.fault is Fault.CONFIG


async def test_one_partition_keeps_all_in_order_and_several_those_of_a_key(world: World) -> None:
    connection = await world.connect(partitions=3)
    total = Channel(name=world.name + ".total", order=Order.TOTAL)
    for channel, order in ((world.channel(), Order.KEY), (total, Order.TOTAL)):
        await connection.declare(channel)
        can = connection.capabilities(channel)
        assert can is not None
        assert can.order is order


async def test_a_missing_topic_that_may_not_be_made_is_told(world: World) -> None:
    connection = await world.connect(create=False)
    with pytest.raises(AdapterError, match=rf"topic '{world.name}' is missing, and may not be created") as error:
        await connection.declare(world.channel())
    assert error.value.fault is Fault.CONFIG


async def test_keyless_records_of_a_call_share_a_partition_and_calls_take_turns(world: World) -> None:
    connection = await world.connect(partitions=3)
    sender = await world.sender(connection)
    used = []
    for call in range(3):
        answers = await sender.send([record(10 * call + number) for number in range(5)])
        places = {answer.position.partition("@")[0] for answer in answers if isinstance(answer, Stored)}
        assert len(places) == 1
        used += places
    assert len(set(used)) == 3


async def test_a_confirmation_that_never_comes_is_ambiguous_and_its_batch_is_not_stored_later(
    world: World, kafka_proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ductape_kafka._sender.DEADLINE", 1.0)
    connection = await world.connect(broker=f"127.0.0.1:{kafka_proxy.port}", partitions=1)
    sender = await world.sender(connection)
    assert faults(await sender.send([record(1)])) == [None]
    kafka_proxy.stall()
    (answer,) = await sender.send([record(2)])
    assert faults([answer]) == [Fault.AMBIGUOUS]
    assert "not confirmed within" in str(answer)
    kafka_proxy.cut()
    kafka_proxy.resume()

    async def again() -> None:
        (stored,) = await sender.send([record(3)])
        if isinstance(stored, AdapterError):
            raise stored

    await patiently(again)
    receiver = await world.receiver(await world.connect())
    got = await take(receiver, 3, within=2.0)
    assert bodies(got) == [1, 3], "what was stalled died with its producer"
    await settle(receiver, got)


@pytest.mark.kills
async def test_a_broker_that_comes_back_gets_each_record_once_and_in_order(world: World, kafka_server: Server) -> None:
    connection = await world.connect(partitions=1)
    sender = await world.sender(connection)
    assert faults(await sender.send([record(0)])) == [None]
    await asyncio.to_thread(kafka_server.kill)
    sending = asyncio.ensure_future(resend(sender, [record(number, key="k") for number in range(1, 50)]))
    await asyncio.to_thread(kafka_server.restart)
    assert all(isinstance(answer, Stored) for answer in (await sending).values())
    receiver = await world.receiver(await world.connect(), window=100)
    assert [int(one.body) for one in await take(receiver, 50)] == list(range(50))


async def test_a_batch_whose_producer_is_given_up_for_another_may_be_stored(
    world: World, kafka_proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ductape_kafka._sender.DEADLINE", 1.0)
    connection = await world.connect(broker=f"127.0.0.1:{kafka_proxy.port}", partitions=2)
    sender = await world.sender(connection)
    keys = list({sender.lane(record(0, key=f"k{number}")): f"k{number}" for number in range(20)}.values())
    assert faults(await sender.send([record(number, key=key) for number, key in enumerate(keys)])) == [None, None]
    kafka_proxy.half_open("to_client")
    first = asyncio.ensure_future(sender.send([record(2, key=keys[0])]))
    await asyncio.sleep(0.6)
    second = await sender.send([record(3, key=keys[1])])
    assert faults([*await first, *second]) == [Fault.AMBIGUOUS] * 2
    kafka_proxy.cut()
    kafka_proxy.resume()
