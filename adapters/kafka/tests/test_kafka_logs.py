"""What operators and other producers do to a topic: transactions, retention, more partitions, other settings."""

import asyncio
import logging
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewPartitions, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete

from ductape.adapter import AdapterError, Channel, Delivery, Fault, Intake, Stored
from ductape_kafka import KafkaAdapter, KafkaConfig
from ductape_kafka._connection import KafkaConnection
from ductape_kafka._topics import parts
from ductape_kafka._wire import partition_of
from tests.brokers.kafka import Kafka
from tests.brokers.server import Server
from tests.contract import bodies, record, settle, take

from .conftest import World, site

# The first test starts the broker.
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "aiokafka")


async def test_what_a_transaction_took_back_is_never_delivered_and_its_marks_do_not_stop_the_group(
    world: World,
) -> None:
    connection = await world.connect(partitions=1)
    await connection.declare(world.channel())
    producer = AIOKafkaProducer(bootstrap_servers=world.server.url, transactional_id=world.name)
    await producer.start()
    try:
        for number, kept in ((1, True), (2, False), (3, True), (4, False)):
            await producer.begin_transaction()
            await producer.send_and_wait(world.name, b"%d" % number, partition=0)
            await (producer.commit_transaction() if kept else producer.abort_transaction())
    finally:
        await producer.stop()
    receiver = await world.receiver(connection)
    got = await take(receiver, 3, within=2.0)
    assert bodies(got) == [1, 3]
    assert await settle(receiver, got) == [None, None]
    await receiver.close()
    second = await world.receiver(await world.connect())
    await world.publish(connection, record(5))
    assert bodies(await take(second, 2, within=2.0)) == [5]


async def test_a_group_whose_mark_was_retained_away_goes_on_with_the_first_message_that_is_left(world: World) -> None:
    connection = await world.connect(partitions=1)
    await world.publish(connection, *(record(number) for number in range(10)))
    first = await world.receiver(connection)
    got = sorted(await take(first, 10), key=lambda one: int(one.body))
    assert await settle(first, [got[0], got[3]]) == [None, None]  # the mark is 1, and 3 is known to be done
    await first.close()
    partition = TopicPartition(world.name, 0)
    await world.admin.delete_records({partition: RecordsToDelete(before_offset=6)})
    second = await world.receiver(await world.connect())
    left = await take(second, 5, within=3.0)
    assert bodies(left) == [6, 7, 8, 9]
    assert await settle(second, left) == [None] * 4
    assert (await world.admin.list_consumer_group_offsets("billing"))[partition].offset == 10


async def test_partitions_that_are_added_get_their_keys_and_messages(world: World) -> None:
    connection = await world.connect(partitions=1)
    assert isinstance(connection, KafkaConnection)
    sender = await world.sender(connection)
    keys = [f"k{number}" for number in range(12)]
    assert all(isinstance(one, Stored) for one in await sender.send([record(0, key=key) for key in keys]))
    await world.admin.create_partitions({world.name: NewPartitions(4)})
    producer = connection._producers.current
    assert producer is not None
    async with asyncio.timeout(10):
        while len(producer.client.cluster.partitions_for_topic(world.name)) < 4:  # seen within a minute by itself
            await producer.client.force_metadata_update()
    answers = await sender.send([record(1, key=key) for key in keys])
    places = [answer.position.partition("@")[0] for answer in answers if isinstance(answer, Stored)]
    assert places == [f"{world.name}[{partition_of(key, 4)}]" for key in keys]
    assert [sender.lane(record(2, key=key)) for key in keys] == [partition_of(key, 4) for key in keys]
    receiver = await world.receiver(await world.connect())
    assert len(await take(receiver, 24)) == 24


async def test_topics_that_are_opened_together_are_made_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one, each waited for all that were asked for before it: hundreds failed for want of time."""
    connection = await world.connect(partitions=2)
    assert isinstance(connection, KafkaConnection)
    made: list[int] = []
    create = connection._admin.create_topics

    async def counted(topics: list[NewTopic], **options: int) -> object:
        made.append(len(topics))
        return await create(topics, **options)

    monkeypatch.setattr(connection._admin, "create_topics", counted)
    channels = [Channel(name=f"{world.name}.{number}") for number in range(60)]
    wrong = Channel(name=f"{world.name}.wrong", options={"config": {"cleanup.policy": "no such"}})
    # The same twice, as a publisher and a subscription have it, and one that is refused: the others do not suffer.
    *done, refused = await asyncio.gather(
        *(connection.declare(channel) for channel in (*channels, channels[0], wrong)), return_exceptions=True
    )
    assert done == [None] * 61
    assert isinstance(refused, AdapterError)
    assert refused.fault is Fault.CONFIG
    assert wrong.name in refused.text
    assert made == [61]
    assert {connection._topics.known[channel.name].partitions for channel in channels} == {2}


def test_no_request_makes_more_partitions_than_a_controller_takes() -> None:
    topics = [NewTopic(str(number), partitions, 1) for number, partitions in enumerate((1500, 500, 1, 5000, 6))]
    assert [[topic.num_partitions for topic in part] for part in parts(topics)] == [[1500, 500], [1], [5000], [6]]


async def test_a_broker_that_creates_what_is_asked_for_gets_no_topic_by_our_asking(
    start_server: Callable[[Server], Server],
) -> None:
    """And where the broker takes next to no metadata with a commit, commits go without it."""
    server = start_server(Kafka({"auto.create.topics.enable": "true", "offset.metadata.max.bytes": "8"}))
    verifying = await KafkaAdapter().connect(KafkaConfig(brokers=[server.url]), site(create=False))
    creating = await KafkaAdapter().connect(KafkaConfig(brokers=[server.url], partitions=2), site())
    try:
        for _ in range(2):
            with pytest.raises(AdapterError, match="topic 'orders' is missing") as error:
                await verifying.declare(Channel(name="orders"))
            assert error.value.fault is Fault.CONFIG
        channel = Channel(name="orders", group="billing")
        await creating.declare(channel)
        assert isinstance(creating, KafkaConnection)
        assert creating._topics.known["orders"].partitions == 2
        sender = await creating.sender(channel)
        answers = await sender.send([record(number, key="k") for number in range(6)])
        assert all(isinstance(answer, Stored) for answer in answers)
        receiver = await creating.receiver(channel, Intake(group="billing", window=10))
        got: list[Delivery] = sorted(await take(receiver, 6), key=lambda one: int(one.body))
        assert await settle(receiver, [got[0], got[2], got[4]]) == [None] * 3
        assert await settle(receiver, [got[1], got[3], got[5]]) == [None] * 3
        await receiver.close()
    finally:
        await creating.close()
        await verifying.close()
