"""What goes wrong at the client's boundary: the client is played where a real broker cannot be made to fail so."""

import asyncio
import logging
import time
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from aiokafka import TopicPartition, errors

from ductape.adapter import (
    AdapterError,
    Channel,
    Delivery,
    Epoch,
    Fault,
    Intake,
    Outgoing,
    Settlement,
    Stored,
    Verdict,
    Window,
)
from ductape_kafka import KafkaConfig
from ductape_kafka._assignment import Assignment, Partition, agreed
from ductape_kafka._client import Options, leave
from ductape_kafka._connection import KafkaConnection
from ductape_kafka._producer import Producers
from ductape_kafka._receiver import KafkaReceiver
from ductape_kafka._sender import KafkaSender
from ductape_kafka._topics import Topic
from ductape_kafka._wire import RECEIVING
from tests.contract import LoopClock, record

from .conftest import site

CONFIG = KafkaConfig(brokers=["127.0.0.1:1"])


async def forever(*_: object, **__: object) -> None:
    await asyncio.Event().wait()


class Consumer:
    """A consumer of which each test says what it does."""

    def __init__(self, **calls: Any) -> None:
        self._fetcher: Any = None
        self._coordinator: Any = None
        self._client = SimpleNamespace(close=self._nothing)
        self._closed = False
        self.asked: list[str] = []
        self.__dict__.update(calls)

    async def _nothing(self) -> None:
        self.asked.append("close")

    async def start(self) -> None:
        self.asked.append("start")

    async def stop(self) -> None:
        self.asked.append("stop")

    def subscribe(self, topics: list[str], listener: Assignment) -> None:
        self.listener = listener

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.asked.append("assign")

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        self.asked.append("ends")
        return dict.fromkeys(partitions, 5)

    async def committed(self, tp: TopicPartition) -> None:
        self.asked.append("committed")

    async def commit(self, offsets: object) -> None:
        self.asked.append("commit")


def receiver_of(monkeypatch: pytest.MonkeyPatch, consumer: Consumer) -> KafkaReceiver:
    monkeypatch.setattr("ductape_kafka._receiver._consumer", lambda *_: consumer)
    intake = Intake(group="billing", window=10)
    return KafkaReceiver(CONFIG, intake, LoopClock(), tiers=False, left=lambda _: None)


async def test_where_a_new_group_begins_is_read_before_it_is_asked_whether_it_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consumer = Consumer()
    monkeypatch.setattr("ductape_kafka._connection.AIOKafkaConsumer", lambda **_: consumer)
    here = site()
    admin: Any = None
    connection = KafkaConnection(CONFIG, here, Options(CONFIG, here), admin)
    connection._topics.known["orders"] = Topic(1, 1000, False)
    await connection._begin(Channel(name="orders"), "billing", "latest")
    assert consumer.asked[:5] == ["start", "assign", "ends", "committed", "commit"]


async def test_a_consumer_whose_farewell_hangs_leaves_no_task_behind() -> None:
    tasks = [asyncio.ensure_future(forever()) for _ in range(4)]
    fetch, pending, coordination, heartbeat = tasks
    consumer = Consumer(
        stop=forever,
        _fetcher=SimpleNamespace(_fetch_task=fetch, _pending_tasks={pending}),
        _coordinator=SimpleNamespace(
            _coordination_task=coordination, _heartbeat_task=heartbeat, _commit_refresh_task=None
        ),
    )
    await leave(consumer, 0.01)
    assert all(task.cancelled() for task in tasks)
    assert consumer.asked == ["close"]


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (errors.KafkaConnectionError("away"), Fault.TRANSIENT),
        (errors.TopicAuthorizationFailedError("orders"), Fault.CONFIG),
    ],
)
async def test_a_join_tells_why_its_assignment_failed(
    monkeypatch: pytest.MonkeyPatch, error: Exception, fault: Fault
) -> None:
    async def refuse(*_: object) -> None:
        raise error

    async def start() -> None:
        await consumer.listener.on_partitions_assigned([TopicPartition("orders", 0)])

    consumer = Consumer(start=start, _coordinator=None)
    receiver = receiver_of(monkeypatch, consumer)
    monkeypatch.setattr(receiver.assignment, "_begin", refuse)
    with pytest.raises(AdapterError) as raised:
        await receiver.join(["orders"], "billing", Options(CONFIG, site()))
    assert raised.value.fault is fault
    with pytest.raises(AdapterError, match="joining: ") as raised:
        receiver.assignment.check(10.0)
    assert raised.value.fault is Fault.LOST, "a receiver that is open has to join anew"


async def test_a_receiver_that_is_closed_while_it_joins_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Consumer(start=forever)
    receiver = receiver_of(monkeypatch, consumer)
    joining = asyncio.ensure_future(receiver.join(["orders"], "billing", Options(CONFIG, site())))
    await asyncio.sleep(0)
    await receiver.close()
    with pytest.raises(AdapterError, match="the receiver is closed") as raised:
        async with asyncio.timeout(5):
            await joining
    assert raised.value.fault is Fault.LOST
    assert consumer.asked == ["stop", "close"]


async def test_partitions_that_were_given_up_are_waited_for_from_then_on() -> None:
    turns: list[str] = []
    clock = SimpleNamespace(now=lambda: 100.0 + len(turns), time=time.time)
    assignment: Any = Assignment(1.0, 10, clock, lambda: turns.append("changed"))  # type: ignore[arg-type]  # plays it
    turns.append("later")
    assignment.end()
    assert assignment.since == 101.0
    assert turns == ["later", "changed"]


async def test_a_group_with_other_assignors_is_told_while_nothing_is_assigned() -> None:
    def check_errors() -> None:
        raise errors.InconsistentGroupProtocolError

    assignment = Assignment(1.0, 10, LoopClock(), lambda: None)
    assignment.consumer = SimpleNamespace(_coordinator=SimpleNamespace(check_errors=check_errors))
    with pytest.raises(AdapterError, match=r"another assignor; set native\.partition_assignment_strategy") as raised:
        assignment.check(10.0)
    assert raised.value.fault is Fault.CONFIG
    with pytest.raises(AdapterError, match="KafkaConnectionError") as raised, agreed(RECEIVING):
        raise errors.KafkaConnectionError("away")
    assert raised.value.fault is Fault.TRANSIENT


async def test_what_the_client_does_not_know_leaves_open_as_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Admin(Consumer):
        def __init__(self, **_: object) -> None:
            super().__init__()

        async def start(self) -> None:
            raise NotImplementedError("no version of this request is known")

        async def close(self) -> None:
            self.asked.append("close")

    monkeypatch.setattr("ductape_kafka._connection.AIOKafkaAdminClient", Admin)
    with pytest.raises(AdapterError, match="no version of this request") as raised:
        await KafkaConnection.open(CONFIG, site())
    assert raised.value.fault is Fault.CONFIG


class Producer:
    """A producer that starts when the test says so, or never."""

    made: ClassVar[list["Producer"]] = []

    def __init__(self, **_: object) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.made.append(self)

    async def start(self) -> None:
        self.begun.set()
        await self.go.wait()


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> Producers:
    async def abandon(producer: Producer) -> None:
        abandoned.append(producer)

    abandoned: list[Producer] = []
    monkeypatch.setattr(Producer, "made", [])
    monkeypatch.setattr("ductape_kafka._producer.AIOKafkaProducer", Producer)
    monkeypatch.setattr("ductape_kafka._producer._abandon", abandon)
    here = SimpleNamespace(
        product="shop", env="test", broker="orders", log=logging.getLogger("ductape.adapter.kafka"), create=True
    )
    return Producers(CONFIG, Options(CONFIG, here), here)  # type: ignore[arg-type]  # no clock is needed


async def test_a_send_does_not_wait_for_a_producer_longer_than_its_deadline(
    producers: Producers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ductape_kafka._sender.DEADLINE", 0.05)
    sender = KafkaSender(producers, ["orders"], {"orders": Topic(3, 1000, False)}, LoopClock())
    async with asyncio.timeout(5):
        answers = await sender.send([record(number, key=f"k{number}") for number in range(20)])
    assert {(answer.fault, answer.text) for answer in answers if isinstance(answer, AdapterError)} == {
        (Fault.TRANSIENT, "no broker could be reached")
    }
    assert len(answers) == 20
    assert len(Producer.made) == 1, "one start for all partitions"
    await producers.close()


async def test_a_connection_that_is_closed_while_a_producer_starts_gives_it_up(producers: Producers) -> None:
    waiting = [asyncio.ensure_future(producers.get()) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await Producer.made[0].begun.wait()
    async with asyncio.timeout(3):
        await producers.close()
    for one in waiting:
        with pytest.raises(AdapterError, match="the connection is closed") as raised:
            await one
        assert raised.value.fault is Fault.LOST
    assert producers.current is None


async def test_a_total_order_has_one_lane_for_all(producers: Producers) -> None:
    known = {"orders": Topic(1, 1000, False), "orders.retry": Topic(1, 1000, False)}
    total = KafkaSender(producers, ["orders"], known, LoopClock(), total=True)
    assert {total.lane(record(1)), total.lane(record(2, key="a"))} == {0}
    assert KafkaSender(producers, ["orders"], known, LoopClock()).lane(record(1)) is None
    tiers = KafkaSender(producers, ["orders", "orders.retry"], known, LoopClock(), total=True)
    assert tiers.lane(record(1, key="a")) is None


async def test_a_batch_is_no_larger_than_its_topic_takes(producers: Producers) -> None:
    sender = KafkaSender(producers, ["orders"], {"orders": Topic(1, 1000, False)}, LoopClock())
    builder = SimpleNamespace(append=lambda **_: object())
    assert sender._fill(builder, [Outgoing(b"x" * 400, {}, f"id{number}") for number in range(5)]) == 2
    assert sender._fill(builder, [Outgoing(b"x" * 1000, {}, "full")]) == 1
    assert sender._fill(builder, [Outgoing(b"x", {}, f"id{number}", "k" * 400) for number in range(5)]) == 2


async def test_of_a_batch_that_the_broker_had_already_the_place_is_unknown(producers: Producers) -> None:
    async def send_batch(*_: object, **__: object) -> asyncio.Future[SimpleNamespace]:
        stored = asyncio.get_running_loop().create_future()
        stored.set_result(SimpleNamespace(offset=-1))
        return stored

    builder = SimpleNamespace(append=lambda **_: object(), close=lambda: None)
    cluster = SimpleNamespace(partitions_for_topic=lambda _: {0}, available_partitions_for_topic=lambda _: {0})
    producer: Any = SimpleNamespace(
        create_batch=lambda: builder, send_batch=send_batch, client=SimpleNamespace(cluster=cluster)
    )
    producers.current = producer
    sender = KafkaSender(producers, ["orders"], {"orders": Topic(1, 1000, False)}, LoopClock())
    assert await sender.send([record(1), record(2)]) == [Stored(""), Stored("")]


def member(monkeypatch: pytest.MonkeyPatch, consumer: Consumer) -> tuple[KafkaReceiver, Delivery, Delivery]:
    """A receiver that has joined, and the two deliveries of its only partition."""
    receiver = receiver_of(monkeypatch, consumer)
    receiver.consumer = receiver.assignment.consumer = consumer
    partition = assigned(receiver.assignment)
    deliveries = [Delivery(b"", {}, partition.window.epoch, (partition, number)) for number in range(2)]
    for number, delivery in enumerate(deliveries):
        partition.window.take(number, delivery)
        partition.out.add(number)
    return receiver, deliveries[0], deliveries[1]


def assigned(assignment: Assignment) -> Partition:
    tp = TopicPartition("orders", 0)
    partition = Partition(tp, Window(Epoch("", LoopClock()), 0), None)
    assignment.partitions, assignment.open = {tp: partition}, True
    return partition


async def test_what_was_handed_back_is_so_once_though_the_commit_beside_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(_: object) -> None:
        raise errors.KafkaConnectionError("away")

    receiver, one, other = member(monkeypatch, Consumer(commit=away, getmany=None))
    answers = await receiver.settle([Settlement(one, Verdict.RELEASE), Settlement(other, Verdict.ACK)])
    assert answers[0] is None
    assert answers[1] is not None
    assert answers[1].fault is Fault.TRANSIENT
    assert receiver._take(10) == [one]


async def test_a_commit_that_hangs_ends_with_its_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ductape_kafka._assignment.LAST_COMMIT", 0.05)
    receiver, one, _ = member(monkeypatch, Consumer(commit=forever))
    settling = asyncio.ensure_future(receiver.settle([Settlement(one, Verdict.ACK)]))
    await asyncio.sleep(0)
    one.epoch.held = 0
    async with asyncio.timeout(5):
        await receiver.assignment.on_partitions_revoked([])
        (answer,) = await settling
    assert answer is not None
    assert answer.fault is Fault.TRANSIENT
    assert await receiver.lag() is None, "nobody knows while the group rebalances"


async def test_a_commit_of_an_earlier_assignment_says_nothing_about_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def moved(_: object) -> None:
        later.append(assigned(receiver.assignment))
        raise errors.CommitFailedError("a new generation")

    later: list[Partition] = []
    receiver, one, _ = member(monkeypatch, Consumer(commit=moved))
    (answer,) = await receiver.settle([Settlement(one, Verdict.ACK)])
    assert answer is not None
    assert answer.fault is Fault.LOST
    assert receiver.assignment.open
    assert later[0].window.epoch.alive
