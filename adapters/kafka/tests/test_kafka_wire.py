"""Partitions, headers, names and tiers; and what others read and write on the same topic."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from ductape.adapter import AdapterError, Channel, Delivery, Epoch, Fault, Outgoing, Purpose, Stored
from ductape_kafka._client import plainly
from ductape_kafka._wire import (
    TIERS,
    delivery_of,
    group_of,
    headers_of,
    murmur2,
    partition_of,
    returned_header,
    returned_of,
    text_bytes,
    tier_of,
    topics_of,
)
from tests.contract import record, settle, take

from .conftest import World

# The first test that needs the broker starts it.
pytestmark = pytest.mark.timeout(180)

JAVA = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}
"""What Kafka's own tests of its Java client expect, as signed integers."""


@pytest.mark.parametrize(("key", "expected"), JAVA.items())
def test_keys_hash_as_in_the_java_client(key: str, expected: int) -> None:
    assert murmur2(key.encode()) == expected & 0xFFFFFFFF
    assert partition_of(key, 7) == (expected & 0x7FFFFFFF) % 7


def consumed(body: bytes | None, key: bytes | None, *headers: tuple[str, bytes | None]) -> Delivery:
    native = SimpleNamespace(value=body, key=key, headers=headers, timestamp=1_700_000_000_123)
    return delivery_of(native, Epoch(), None, "orders[1]@7")


def test_body_headers_and_key_come_back_as_they_were() -> None:
    sent = Outgoing(b"\x00\xff", {"a": "1", "naïve": "ü"}, "id", "cust_ü")
    delivery = consumed(sent.body, text_bytes(sent.key or ""), *headers_of(sent))
    assert (delivery.body, delivery.headers, delivery.key) == (sent.body, sent.headers, sent.key)
    assert (delivery.position, delivery.stored_at, delivery.error) == ("orders[1]@7", 1_700_000_000.123, "")


@pytest.mark.parametrize("timestamp", [None, -1])
def test_a_record_without_a_time_has_none(timestamp: int | None) -> None:
    native = SimpleNamespace(value=b"1", key=None, headers=(), timestamp=timestamp)
    assert delivery_of(native, Epoch(), None, "orders[1]@7").stored_at is None


def test_what_the_client_has_fetched_is_handed_out_as_it_was_read() -> None:
    batch = BatchBuilder(1000, 0)
    batch.append(timestamp=1_700_000_000_123, key=b"k", value=b"1", headers=[("a", b"1")])
    stored, partition = bytes(batch._build()), TopicPartition("orders", 1)

    def fetched() -> SimpleNamespace:
        records = PartitionRecords(partition, MemoryRecords(stored), [], 0, None, None, True, 0)
        return SimpleNamespace(_partition_records=records)

    found, error = fetched(), SimpleNamespace()
    consumer: Any = SimpleNamespace(_fetcher=SimpleNamespace(_records={partition: found, "failed": error}))
    plainly(consumer)
    (read,), (copied,) = list(found._partition_records), list(fetched()._partition_records)
    assert isinstance(copied, ConsumerRecord)
    assert not isinstance(read, ConsumerRecord)
    epoch = Epoch()
    one, other = (delivery_of(each, epoch, None, "") for each in (read, copied))
    assert (one.body, one.key, one.headers, one.stored_at) == (other.body, other.key, other.headers, other.stored_at)
    assert (one.body, one.key, one.headers, one.stored_at) == (b"1", "k", {"a": "1"}, 1_700_000_000.123)


def test_bytes_that_are_no_text_survive_a_copy() -> None:
    delivery = consumed(
        None, b"\x00\xfe\xff", ("schema", b"\x00\x00\xff"), ("empty", None), ("twice", b"1"), ("twice", b"2")
    )
    assert (delivery.body, delivery.headers["empty"], delivery.headers["twice"]) == (b"", "", "2")
    copy = Outgoing(delivery.body, delivery.headers, "id", delivery.key)
    assert ("schema", b"\x00\x00\xff") in headers_of(copy)
    assert text_bytes(copy.key or "") == b"\x00\xfe\xff"


def test_derived_topics_are_named_after_channel_and_group() -> None:
    dead = Channel(name="orders", purpose=Purpose.DEAD, group="billing")
    retry = Channel(name="orders", purpose=Purpose.RETRY, group="team/a_b")
    assert topics_of(dead) == ("orders.billing.dead",)
    assert topics_of(retry)[:2] == ("orders.team_2fa_b.retry", "orders.team_2fa_b.retry.10")
    assert len(topics_of(retry)) == len(TIERS)
    assert (group_of(dead, "billing"), group_of(Channel(name="orders"), "billing")) == ("billing.dead", "billing")


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ü", "x" * 250])
def test_names_that_kafka_refuses_are_refused_first(name: str) -> None:
    with pytest.raises(AdapterError, match="topic") as error:
        topics_of(Channel(name=name))
    assert error.value.fault is Fault.CONFIG


def test_a_record_waits_in_the_longest_tier_that_is_not_longer_than_its_delay() -> None:
    assert [TIERS[tier_of(delay)] for delay in (0, 1.5, 10, 59.9, 60, 700, 3600, 9e9)] == [
        *(0, 0, 10, 10, 60, 600, 3600, 3600)
    ]


def test_a_copy_tells_when_it_is_due_and_where_it_was_first() -> None:
    origin = consumed(b"x", None)
    header = returned_header(Outgoing(b"x", {}, "id", None, 60.0, origin=origin), 1_700_000_100.0)
    assert returned_of([("a", b"1"), header]) == (1_700_000_160.0, 1_700_000_000.123, "orders[1]@7")
    assert returned_of([returned_header(Outgoing(b"x", {}, "id"), 5.0)]) == (5.0, None, "")
    assert returned_of([]) is None
    assert returned_of([("_retry", b"\xff")]) is None


async def test_other_clients_read_what_we_write_and_we_read_what_they_write(world: World) -> None:
    connection = await world.connect()
    (stored,) = await world.publish(connection, record(1, key="cust_789"))
    consumer = AIOKafkaConsumer(world.name, bootstrap_servers=world.server.url, auto_offset_reset="earliest")
    await consumer.start()
    try:
        native = await asyncio.wait_for(consumer.getone(), 10)
    finally:
        await consumer.stop()
    assert (native.value, native.key) == (b"1", b"cust_789")
    assert native.headers == (("ductape-id", b"id1"),)
    assert stored.position == f"{world.name}[{native.partition}]@{native.offset}"
    await world.raw.send_and_wait(world.name, b"theirs", key=b"cust_789", headers=[("trace", b"\xff\x00")])
    receiver = await world.receiver(connection)
    ours, theirs = await take(receiver, 2)
    assert (ours.body, ours.key, theirs.body, theirs.key) == (b"1", "cust_789", b"theirs", "cust_789")
    assert headers_of(Outgoing(b"", theirs.headers, "")) == [("trace", b"\xff\x00")]
    assert await settle(receiver, [ours, theirs]) == [None, None]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_batches_are_compressed_by_config(world: World, codec: str) -> None:
    connection = await world.connect(compression=codec, partitions=1)
    records = [Outgoing(b"x" * 1000, {}, f"id{number}") for number in range(100)]
    assert all(isinstance(answer, Stored) for answer in await (await world.sender(connection)).send(records))
    receiver = await world.receiver(connection, window=100)
    assert [one.body for one in await take(receiver, 100)] == [b"x" * 1000] * 100
