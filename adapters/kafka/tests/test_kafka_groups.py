"""Rebalances, what the commit's metadata keeps, retry topics, and where groups begin."""

import asyncio
import logging
import time

import pytest
from aiokafka import TopicPartition

from ductape import Ductape, Retry
from ductape.adapter import AdapterError, Delivery, Fault, Measurable, Outgoing, Purpose, Removable, Stored, Verdict
from ductape_kafka._receiver import KafkaReceiver
from tests.brokers.server import Server
from tests.contract import bodies, record, settle, take

from .conftest import World

# The first test starts the broker.
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "aiokafka")


async def test_what_is_settled_out_of_order_is_not_delivered_again(world: World) -> None:
    connection = await world.connect(partitions=1)
    await world.publish(connection, *(record(number) for number in range(10)))
    first = await world.receiver(connection)
    got = await take(first, 10)
    kept = got[0], got[4]
    assert await settle(first, [one for one in got if one not in kept]) == [None] * 8
    committed = await world.admin.list_consumer_group_offsets("billing")
    ((tp, stored),) = committed.items()
    assert (tp, stored.offset) == (TopicPartition(world.name, 0), 0), "the mark waits for the first"
    assert 0 < len(stored.metadata) < 100
    await first.close()
    second = await world.receiver(await world.connect())
    again = await take(second, 10, within=2.0)
    assert bodies(again) == [0, 4]
    assert await settle(second, again) == [None, None]
    assert (await world.admin.list_consumer_group_offsets("billing"))[tp].offset == 10


async def test_failures_and_their_time_go_with_the_partition(world: World) -> None:
    connection = await world.connect(partitions=1)
    await world.publish(connection, record(1))
    first = await world.receiver(connection)
    (one,) = await take(first, 1)
    one.failed, one.due = 3, 2_000_000_000.5
    assert isinstance(first, KafkaReceiver)
    await first.note([one])
    await first.close()
    second = await world.receiver(await world.connect())
    (again,) = await take(second, 1)
    assert (again.failed, again.due) == (3, 2_000_000_000.5)


async def test_partitions_move_only_when_what_runs_is_settled(world: World) -> None:
    connection = await world.connect(partitions=2, drain=10.0)
    await world.publish(connection, *(record(number, key=f"k{number}") for number in range(20)))
    first = await world.receiver(connection)
    got = await take(first, 20)
    joining = asyncio.ensure_future(world.receiver(await world.connect(), "billing"))
    while all(one.epoch.accepting for one in got):
        await first.receive(0, 0.0)
        await asyncio.sleep(0.02)
    assert not joining.done()
    assert await settle(first, got) == [None] * 20, "settled inside the rebalance"
    second = await joining
    assert not await take(second, 1, within=1.0)
    assert not await take(first, 1, within=0.5)


async def test_what_overstays_the_drain_goes_to_the_next_member_and_can_not_be_settled_any_more(world: World) -> None:
    connection = await world.connect(partitions=1, drain=0.5)
    await world.publish(connection, record(1))
    first = await world.receiver(connection)
    (one,) = await take(first, 1)
    second = await world.receiver(await world.connect())
    members = (first, second)
    found: list[Delivery] = []
    while not found:
        for member in members:
            found += await take(member, 1, within=0.1)
    assert found[0].body == one.body
    (answer,) = await settle(first, [one])
    assert answer is not None
    assert answer.fault is Fault.LOST


async def test_a_poison_message_gets_its_attempts_over_members_that_come_and_go(kafka_server: Server) -> None:
    attempts: list[int] = []
    clients: list[Ductape] = []
    name = f"t{time.time_ns()}"

    async def member() -> Ductape:
        client = Ductape(product="shop", env="dev")
        clients.append(client)
        config = {"brokers": [kafka_server.url], "partitions": 2, "session": 3.0, "drain": 5.0}
        await client.broker.create(tag=name, envs=[{"slug": "dev", "type": "KAFKA", "config": config}])
        await client.broker.topic.create(tag=f"{name}:new")

        async def handle(message: dict[str, int]) -> None:
            if message["n"] == 0:
                attempts.append(message["n"])
                raise ValueError("never")

        policy = Retry(attempts=6, delay=0.4, factor=1.0)
        await client.event.subscribe(f"{name}:new", callback=handle, group="billing", retry=policy)
        return client

    try:
        first = await member()
        await first.event.publish_many(f"{name}:new", [{"n": number} for number in range(20)])
        second = await member()
        while len(attempts) < 3:
            await asyncio.sleep(0.02)
        await second.close()
        third = await member()
        letters = []
        async with asyncio.timeout(30):
            while not letters:
                letters = [letter async for letter in third.event.dead(f"{name}:new", group="billing")]
        assert len(attempts) == 6
        assert [letter.attempts for letter in letters] == [6]
    finally:
        for client in clients:
            await client.close()


async def test_a_handler_that_always_fails_neither_spins_nor_blocks_the_others(kafka_server: Server) -> None:
    name = f"t{time.time_ns()}"
    async with Ductape(product="shop", env="dev") as client:
        config = {"brokers": [kafka_server.url], "partitions": 2}
        await client.broker.create(tag=name, envs=[{"slug": "dev", "type": "KAFKA", "config": config}])
        await client.broker.topic.create(tag=f"{name}:new", groups=["bad", "good"])
        runs = 0
        done: set[int] = set()
        finished = asyncio.Event()

        async def bad(message: dict[str, int]) -> None:
            nonlocal runs
            runs += 1
            raise ValueError("always")

        async def good(message: dict[str, int]) -> None:
            done.add(message["n"])
            if len(done) == 100:
                finished.set()

        await client.event.subscribe(f"{name}:new", callback=bad, group="bad", retry=Retry(attempts=3, delay=1.0))
        await client.event.subscribe(f"{name}:new", callback=good, group="good")
        began = time.monotonic()
        await client.event.publish_many(f"{name}:new", [{"n": number} for number in range(100)])
        await asyncio.wait_for(finished.wait(), 10)
        passed = time.monotonic() - began
        assert runs <= 100 * (1 + int(passed)), f"{runs} runs in {passed:.1f} s"


async def test_a_retry_topic_holds_its_head_until_it_is_due_and_gives_back_where_it_was(world: World) -> None:
    connection = await world.connect()
    (stored,) = await world.publish(connection, record(1, key="k"))
    receiver = await world.receiver(connection)
    (one,) = await take(receiver, 1)
    retry = world.channel(purpose=Purpose.RETRY)
    began = time.time()
    copy = Outgoing(one.body, {**one.headers, "_retry": "theirs"}, "id1", one.key, 1.2, origin=one)
    await world.publish(connection, copy, channel=retry)
    way_back = await world.receiver(connection, purpose=Purpose.RETRY)
    assert not await take(way_back, 1, within=0.5)
    (again,) = await take(way_back, 1)
    assert 1.2 <= time.time() - began < 4.0
    assert (again.position, again.stored_at) == (stored.position, one.stored_at)
    assert again.headers == {"ductape-id": "id1", "_retry": "theirs"}
    assert await settle(way_back, [again]) == [None]


async def test_short_delays_do_not_wait_behind_long_ones(world: World) -> None:
    connection = await world.connect()
    retry = world.channel(purpose=Purpose.RETRY)
    await connection.declare(retry)
    sender = await connection.sender(retry)
    answers = await sender.send([record(1, delay=3000.0), record(2, delay=30.0), record(3, delay=0.5), record(4)])
    assert all(isinstance(answer, Stored) for answer in answers)
    receiver = await world.receiver(connection, purpose=Purpose.RETRY)
    assert bodies(await take(receiver, 2)) == [3, 4]
    assert not await take(receiver, 1, within=0.3)


async def test_a_group_that_begins_with_the_latest_gets_all_from_its_declaration_on(world: World) -> None:
    connection = await world.connect()
    await world.publish(connection, *(record(number, key=f"k{number}") for number in range(10)))
    await connection.declare(world.channel("late", start="latest"))
    await world.publish(connection, *(record(number, key=f"k{number}") for number in range(10, 20)))
    receiver = await world.receiver(connection, "late", start="latest")
    got = await take(receiver, 20, within=3.0)
    assert bodies(got) == list(range(10, 20))
    await settle(receiver, got)


async def test_a_group_that_is_removed_leaves_its_topic_and_nothing_else(world: World) -> None:
    connection = await world.connect(partitions=1)
    assert isinstance(connection, Removable)
    for purpose in (Purpose.RETRY, Purpose.DEAD):
        await world.publish(connection, record(1), channel=world.channel("gone", purpose=purpose))
    await world.publish(connection, record(1))
    receiver = await world.receiver(connection, "gone")
    await settle(receiver, await take(receiver, 1))
    with pytest.raises(AdapterError, match="group 'gone' has members: stop them first"):
        await connection.remove(world.channel("gone"))
    await receiver.close()
    await connection.remove(world.channel("gone"))
    await connection.remove(world.channel("gone"))
    async with asyncio.timeout(20):  # the broker tells of it later than the controller
        while [name for name in await world.admin.list_topics() if world.name in name] != [world.name]:
            await asyncio.sleep(0.05)
    again = await world.receiver(connection, "gone")
    assert bodies(await take(again, 1)) == [1], "it is a new group"


async def test_a_group_can_begin_at_an_instant(world: World) -> None:
    connection = await world.connect(partitions=1)
    await world.publish(connection, record(1))
    await asyncio.sleep(0.02)
    instant = time.time()
    await asyncio.sleep(0.02)
    await world.publish(connection, record(2))
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(instant)) + f".{int(instant % 1 * 1000):03}Z"
    receiver = await world.receiver(connection, "since", start=start)
    assert bodies(await take(receiver, 2, within=2.0)) == [2]


async def test_a_stuck_message_pauses_its_partition_and_no_other(world: World) -> None:
    connection = await world.connect(partitions=2)
    await connection.declare(world.channel())
    sender = await connection.sender(world.channel())
    keys = {sender.lane(record(0, key=f"k{number}")): f"k{number}" for number in range(20)}
    assert len(keys) == 2
    (stuck, busy) = keys.values()
    for start in range(0, 1500, 500):
        await sender.send([record(number, key=stuck) for number in range(start, start + 500)])
    receiver = await world.receiver(connection, window=200)
    got: list[Delivery] = []
    while some := await take(receiver, 100, within=1.0):
        got += some
        await settle(receiver, [one for one in some if one.body != b"0"])
    assert 1000 <= len(got) < 1200, "what is open behind it is bounded"
    await sender.send([record(number, key=busy) for number in range(10)])
    others = await take(receiver, 10)
    assert {one.key for one in others} == {busy}
    (head,) = [one for one in got if one.body == b"0"]
    await settle(receiver, [head, *others])
    while len(got) < 1500:  # and goes on when it is done
        some = await take(receiver, 100)
        assert some
        await settle(receiver, some)
        got += some


async def test_lag_is_what_the_member_was_not_given(world: World) -> None:
    connection = await world.connect(partitions=1)
    receiver = await world.receiver(connection, window=4)
    assert isinstance(receiver, Measurable)
    assert await receiver.lag() == 0
    await world.publish(connection, *(record(number) for number in range(10)))
    got = await take(receiver, 4)
    assert await receiver.lag() == 6
    await settle(receiver, got)


async def test_a_release_comes_back_first_and_only_once(world: World) -> None:
    connection = await world.connect(partitions=1)
    await world.publish(connection, *(record(number) for number in range(5)))
    receiver = await world.receiver(connection, window=3)
    got = await take(receiver, 3)
    assert await settle(receiver, [got[1]], Verdict.RELEASE) == [None]
    (again,) = await take(receiver, 1)
    assert again.body == b"1"
    await settle(receiver, [got[0], again, got[2]])
    assert bodies(await take(receiver, 3, within=2.0)) == [3, 4]


async def test_a_member_without_partitions_waits_and_takes_over(world: World) -> None:
    connection = await world.connect(partitions=1)
    first = await world.receiver(connection)
    second = await world.receiver(await world.connect())
    members = [first, second]
    await world.publish(connection, record(1))
    owner = None
    while owner is None:
        for member in members:
            if got := await take(member, 1, within=0.2):
                await settle(member, got)
                owner = member
    await owner.close()
    (other,) = [member for member in members if member is not owner]
    await world.publish(connection, record(2))
    assert bodies(await take(other, 1)) == [2]


async def test_a_waiting_receive_goes_on_when_a_full_partition_or_window_has_room_again(world: World) -> None:
    connection = await world.connect(partitions=1)
    receiver = await world.receiver(connection, window=3)
    await world.publish(connection, *(record(number) for number in range(5)))
    got = await take(receiver, 3)
    waiting = asyncio.ensure_future(receiver.receive(3, 8.0))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await settle(receiver, got)
    assert bodies(await waiting) == [3, 4]
    assert time.monotonic() - began < 4.0


async def test_a_consumer_whose_fetcher_broke_down_is_told_of_at_once(world: World) -> None:
    """As uvloop makes it break down: it says `RuntimeError` where a write meets a connection that has just ended."""
    connection = await world.connect()
    receiver = await world.receiver(connection)
    assert isinstance(receiver, KafkaReceiver)
    assert receiver.consumer is not None

    async def broken(*_: object) -> bool:
        raise RuntimeError("the handler is closed")

    async def told() -> None:
        while True:
            assert await receiver.receive(1, 5.0) == []

    receiver.consumer._fetcher._proc_fetch_request = broken
    with pytest.raises(AdapterError, match="the client's consumer broke down \\(RuntimeError\\)") as raised:
        await asyncio.wait_for(told(), 10)
    assert raised.value.fault is Fault.LOST
    await receiver.close()
    again = await world.receiver(connection)
    await world.publish(connection, record(1))
    assert bodies(await take(again, 1)) == [1]
