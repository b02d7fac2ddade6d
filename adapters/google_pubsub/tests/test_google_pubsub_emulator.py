"""What the kit does not see, on the emulator: names, foreign subscriptions, order, counts, the way to dead letters."""

import asyncio
import contextlib
import subprocess
import sys
import time
from typing import Any

import grpc.aio  # type: ignore[import-untyped]  # grpcio ships no annotations
import pytest
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient
from google.pubsub_v1.types import pubsub as types

from ductape import Ductape, Event, Reject, Retry
from ductape.adapter import AdapterError, Connection, Count, Fault, Order, Outgoing, Settlement, Stored, Verdict
from ductape_conformance.proxy import TcpProxy
from tests.brokers.server import Server
from tests.contract import bodies, record, settle, take

from .conftest import World, dead, event, ordered, publish, site

pytestmark = pytest.mark.timeout(60)


class Raw:
    """Google's own clients on the same server: what another program would see."""

    def __init__(self, connection: Connection, project: str) -> None:
        self.publisher = connection.unwrap(PublisherAsyncClient)
        self.subscriber = connection.unwrap(SubscriberAsyncClient)
        self.project = project

    def topic(self, name: str) -> str:
        return f"projects/{self.project}/topics/{name}"

    def subscription(self, name: str) -> str:
        return f"projects/{self.project}/subscriptions/{name}"

    async def subscribe(self, name: str, topic: str, **more: Any) -> None:
        with contextlib.suppress(Exception):
            await self.publisher.create_topic(name=self.topic(topic))
        wanted = types.Subscription(name=self.subscription(name), topic=self.topic(topic), **more)
        await self.subscriber.create_subscription(wanted)

    async def pull(self, name: str) -> list[Any]:
        request = types.PullRequest(subscription=self.subscription(name), max_messages=10)
        return list((await self.subscriber.pull(request, timeout=3.0)).received_messages)


async def raw(world: World) -> Raw:
    return Raw(await world.connect(), world.project)


# ---------------------------------------------------------------- the wire


async def test_another_program_sees_plain_messages_and_writes_them(world: World) -> None:
    other = await raw(world)
    connection = await world.connect()
    await connection.declare(event())
    receiver = await world.receiver(connection, event("audit"))
    await publish(connection, record(7, key="cust_789"))
    (seen,) = await other.pull("orders.billing")
    assert (seen.message.data, dict(seen.message.attributes)) == (
        b"7",
        {"ductape-id": "id7", "ductape-key": "cust_789"},
    )
    foreign = types.PubsubMessage(data=b"\x00\xff", attributes={"kind": "order"}, ordering_key="k")
    await other.publisher.publish(topic=other.topic("orders"), messages=[foreign])
    own, theirs = await take(receiver, 2)
    assert (own.key, own.headers) == ("cust_789", {"ductape-id": "id7"})
    assert (theirs.body, theirs.headers, theirs.key) == (b"\x00\xff", {"kind": "order"}, "k")
    assert abs((theirs.stored_at or 0) - time.time()) < 60
    await settle(receiver, [own, theirs])


async def test_ordered_topics_carry_ordering_keys(world: World) -> None:
    other = await raw(world)
    connection = await world.connect()
    await publish(connection, record(1, key="a"), channel=ordered())
    (seen,) = await other.pull("orders.billing")
    assert (seen.message.ordering_key, dict(seen.message.attributes)) == ("a", {"ductape-id": "id1"})


async def test_six_megabytes_go_there_and_back(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    body = bytes(range(256)) * 24_000
    sender = await connection.sender(event())
    (answer,) = await sender.send([Outgoing(body, {}, "id", size=len(body))])
    assert isinstance(answer, Stored)
    (got,) = await take(receiver, 1)
    assert got.body == body
    await settle(receiver, [got])


# ---------------------------------------------------------------- what is there


async def test_what_is_made_never_expires_counts_and_has_a_place_for_its_dead(world: World) -> None:
    other = await raw(world)
    connection = await world.connect(exactly_once=True)
    await connection.declare(ordered())
    made = await other.subscriber.get_subscription(subscription=other.subscription("orders.billing"))
    assert made.enable_message_ordering
    assert made.enable_exactly_once_delivery
    assert made.ack_deadline_seconds == 2
    assert "ttl" not in made.expiration_policy
    assert made.dead_letter_policy.dead_letter_topic == other.topic("orders.billing.dead")
    assert made.dead_letter_policy.max_delivery_attempts == 100
    holding = await other.subscriber.get_subscription(subscription=other.subscription("orders.billing.dead"))
    assert holding.topic == other.topic("orders.billing.dead")
    assert not holding.enable_message_ordering
    can = connection.capabilities(ordered())
    assert can is not None
    assert (can.order, can.count, can.confirmed_ack, can.retry_delay) == (Order.KEY, Count.APPROXIMATE, True, 600.0)
    buried = connection.capabilities(dead())
    assert buried is not None
    assert (buried.order, buried.count, buried.retry_delay) == (Order.NONE, Count.NONE, 0.0)


async def test_a_foreign_subscription_is_used_as_it_is(world: World) -> None:
    other = await raw(world)
    await other.subscribe("theirs", "orders", ack_deadline_seconds=17)
    connection = await world.connect(topic_name="orders", subscription_name="theirs")
    receiver = await world.receiver(connection, ordered("theirs"))
    can = connection.capabilities(ordered("theirs"))
    assert can is not None
    assert (can.order, can.count, can.lease, can.retry_delay) == (Order.NONE, Count.NONE, 17.0, 0.0)
    await publish(connection, record(1), channel=event("theirs"))
    (got,) = await take(receiver, 1)
    assert got.count is None
    assert 13.0 < (got.leased_until or 0.0) - site().clock.now() <= 17.0
    await settle(receiver, [got])


async def test_all_attempts_are_made_here_where_a_foreign_policy_allows_fewer(world: World) -> None:
    other = await raw(world)
    for topic in ("orders", "theirs"):
        await other.publisher.create_topic(name=other.topic(topic))
    await other.subscribe("kept", "theirs")
    policy = types.DeadLetterPolicy(dead_letter_topic=other.topic("theirs"), max_delivery_attempts=5)
    await other.subscribe("billing", "orders", ack_deadline_seconds=10, dead_letter_policy=policy)
    config = {"projectId": world.project, "emulatorHost": world.address, "poll": 0.2}
    config |= {"topicName": "orders", "subscriptionName": "billing"}
    ductape = Ductape(product="shop", env="dev")
    await ductape.broker.create(tag="b", envs=[{"slug": "dev", "type": "GOOGLE_PUBSUB", "config": config}])
    await ductape.broker.topic.create(tag="b:orders")
    attempts: list[int] = []

    async def fail(message: object, event: Event[Any]) -> None:
        attempts.append(event.attempt)
        raise RuntimeError

    async def buried() -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        while not found:
            found = [(letter.reason, letter.attempts) async for letter in ductape.event.dead("b:orders")]
        return found

    async with ductape:
        retry = Retry(attempts=6, delay=1.0, factor=1.0)
        await ductape.event.subscribe("b:orders", callback=fail, retry=retry)
        await ductape.event.publish("b:orders", {})
        assert await asyncio.wait_for(buried(), 40) == [("exhausted", 6)]
    assert attempts == [1, 2, 3, 4, 5, 6]
    assert await other.pull("kept") == []


async def test_a_subscription_of_another_topic_is_refused_by_name(world: World) -> None:
    other = await raw(world)
    await other.subscribe("orders.billing", "parcels")
    connection = await world.connect()
    with pytest.raises(AdapterError, match=r"orders\.billing: belongs to .*/parcels, not to .*/orders") as told:
        await connection.declare(event())
    assert told.value.fault is Fault.CONFIG


async def test_a_push_subscription_is_refused_by_name(world: World) -> None:
    other = await raw(world)
    push = types.PushConfig(push_endpoint="https://shop.example/push")
    await other.subscribe("orders.billing", "orders", push_config=push)
    connection = await world.connect()
    with pytest.raises(AdapterError, match="is a push subscription"):
        await connection.declare(event())


async def test_where_nothing_may_be_created_what_is_missing_is_named(world: World) -> None:
    connection = await world.connect(create=False)
    with pytest.raises(AdapterError, match=r"topics/orders: is missing, and may not be created here") as told:
        await connection.declare(event())
    assert told.value.fault is Fault.CONFIG
    await (await world.connect()).declare(event(""))
    with pytest.raises(AdapterError, match=r"subscriptions/orders\.billing: is missing, and may not be created here"):
        await connection.declare(event())


async def test_a_subscription_that_is_deleted_under_its_reader_is_lost_and_comes_back(world: World) -> None:
    other = await raw(world)
    connection = await world.connect()
    receiver = await world.receiver(connection)
    await other.subscriber.delete_subscription(subscription=other.subscription("orders.billing"))
    with pytest.raises(AdapterError, match="NOT_FOUND") as told:
        await receiver.receive(1, 3.0)
    assert told.value.fault is Fault.LOST
    again = await world.receiver(connection)
    await publish(connection, record(2))
    assert bodies(await take(again, 1)) == [2]


async def test_a_topic_that_is_deleted_under_its_sender_is_lost(world: World) -> None:
    other = await raw(world)
    connection = await world.connect()
    await connection.declare(event())
    sender = await connection.sender(event())
    await other.publisher.delete_topic(topic=other.topic("orders"))
    (answer,) = await sender.send([record(1)])
    assert isinstance(answer, AdapterError)
    assert answer.fault is Fault.LOST


# ---------------------------------------------------------------- order, counts, leases


async def test_what_is_handed_back_in_order_is_overtaken_by_nothing(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, ordered(), window=4)
    await publish(connection, *(record(n, key="a") for n in range(8)), channel=ordered())
    head, *tail = await take(receiver, 4)
    await settle(receiver, [head])
    await settle(receiver, tail, Verdict.RELEASE)
    got: list[int] = []
    while len(got) < 7:
        some = await take(receiver, 1)
        await settle(receiver, some)
        got += bodies(some)
    assert got == [1, 2, 3, 4, 5, 6, 7]


async def test_a_failure_counts_and_comes_back_within_the_second_that_it_asks_for(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    await publish(connection, record(1))
    for count in (1, 2, 3):
        (one,) = await take(receiver, 1)
        assert one.count == count
        began = time.monotonic()
        await settle(receiver, [one], Verdict.RETRY, 0.2)
    (one,) = await take(receiver, 1)
    assert 0.9 < time.monotonic() - began < 4.0, "the service knows whole seconds; a failure is never a hot loop"
    await settle(receiver, [one])


async def test_closing_gives_back_what_is_not_settled(world: World) -> None:
    connection = await world.connect(lease=60)
    receiver = await world.receiver(connection)
    await publish(connection, *(record(n) for n in range(5)))
    got = await take(receiver, 5)
    await settle(receiver, got[:2])
    await receiver.close()
    fresh = await world.receiver(connection)
    assert sorted(bodies(await take(fresh, 3, within=5.0))) == sorted(bodies(got[2:]))


async def test_what_comes_late_into_a_long_poll_still_has_a_lease(world: World) -> None:
    connection = await world.connect(lease=1, poll=3.0)
    receiver = await world.receiver(connection)
    for number in range(3):
        assert await receiver.receive(1, 1.2) == []
        await publish(connection, record(number))
        (got,) = await take(receiver, 1, within=2.0)
        assert got.count == 1
        assert await settle(receiver, [got]) == [None]


@pytest.mark.parametrize("member", ["stays", "leaves"])
async def test_an_expired_acknowledgement_is_told_where_delivery_is_exactly_once(world: World, member: str) -> None:
    connection = await world.connect(exactly_once=True)
    first = await world.receiver(connection)
    await publish(connection, record(1))
    (mine,) = await take(first, 1)
    second = await world.receiver(await world.connect(exactly_once=True))
    (theirs,) = await take(second, 1)
    (answer,) = await settle(first, [mine])
    assert answer is not None
    assert answer.fault is Fault.LOST
    assert await settle(second, [theirs]) == [None]
    if member == "leaves":
        await second.close()
    assert await take(first, 1, within=2.5) == []


# ---------------------------------------------------------------- outages


async def test_after_a_cut_the_same_receiver_goes_on_and_settles_what_it_had(
    world: World, pubsub_proxy: TcpProxy
) -> None:
    connection = await world.connect(address=f"127.0.0.1:{pubsub_proxy.port}", lease=30)
    receiver = await world.receiver(connection)
    await publish(connection, *(record(n) for n in range(5)))
    got = await take(receiver, 5)
    pubsub_proxy.cut()
    end = time.monotonic() + 10
    answers: list[AdapterError | None] = [None]
    while time.monotonic() < end:
        answers = await settle(receiver, got)
        if not any(answers):
            break
        assert {answer.fault for answer in answers if answer} == {Fault.TRANSIENT}
        await asyncio.sleep(0.05)
    assert answers == [None] * 5
    assert got[0].epoch.alive, "acknowledgement ids outlive a connection"


async def test_a_half_open_link_makes_a_publish_ambiguous_within_its_bound(
    world: World, pubsub_proxy: TcpProxy
) -> None:
    connection = await world.connect(address=f"127.0.0.1:{pubsub_proxy.port}")
    await publish(connection, record(1))
    sender = await connection.sender(event())
    pubsub_proxy.half_open("to_client")
    began = time.monotonic()
    (answer,) = await sender.send([record(2)])
    assert isinstance(answer, AdapterError)
    assert answer.fault is Fault.AMBIGUOUS
    assert time.monotonic() - began < 10.0
    pubsub_proxy.resume()
    pubsub_proxy.cut()


# ---------------------------------------------------------------- the mission's page


async def test_the_missions_config_publishes_retries_and_buries(pubsub_server: Server) -> None:
    project = f"mission{time.time_ns()}"
    config = {
        "projectId": project,
        "topicName": "orders",
        "subscriptionName": "order-billing",
        "emulatorHost": pubsub_server.url,
        "poll": 0.2,
    }
    ductape = Ductape(product="my-product", env="prd")
    await ductape.broker.create(
        {"name": "Orders", "tag": "order-events", "envs": [{"slug": "prd", "type": "GOOGLE_PUBSUB", "config": config}]}
    )
    await ductape.broker.topic.create(name="New", message_broker_tag="order-events", tag="order-events:new-orders")
    done: list[tuple[str, int, str | None]] = []
    arrived = asyncio.Event()

    async def bill(order: dict[str, str], event: Event[Any]) -> None:
        done.append((order["orderId"], event.attempt, event.session.tag if event.session else None))
        arrived.set()
        if order["orderId"] == "bad":
            raise Reject("no such order")

    async with ductape:
        subscription = await ductape.event.subscribe(
            {"env": "prd", "product": "my-product", "event": "order-events:new-orders", "callback": bill}
        )
        for number in ("12345", "bad"):
            arrived.clear()
            session = {"tag": "user-session", "token": "t"}
            await ductape.event.publish(
                {"event": "order-events:new-orders", "message": {"orderId": number}, "session": session}
            )
            await asyncio.wait_for(arrived.wait(), 10)
        await subscription.close()
        letters = [letter async for letter in ductape.event.dead("order-events:new-orders")]
        assert [(letter.reason, letter.group) for letter in letters] == [("rejected", "order-billing")]
        channel = await ductape.native("order-events", grpc.aio.Channel)
        assert isinstance(channel, grpc.aio.Channel)
    assert done == [("12345", 1, "user-session"), ("bad", 1, "user-session")]


async def test_settling_many_verdicts_is_one_call_for_each_deadline(world: World) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    await publish(connection, *(record(n) for n in range(9)))
    got = await take(receiver, 9)
    verdicts = [Verdict.ACK, Verdict.RELEASE, Verdict.RETRY] * 3
    answers = await receiver.settle([Settlement(*pair, 1.0) for pair in zip(got, verdicts, strict=True)])
    assert list(answers) == [None] * 9
    again = await take(receiver, 6)
    assert sorted(bodies(again)) == sorted(bodies([one for n, one in enumerate(got) if n % 3]))
    await settle(receiver, again)


FORKED = """
import os, sys
from ductape.sync import Ductape

ductape = Ductape(product="p", env="e")
config = {"projectId": "forked", "emulatorHost": sys.argv[1]}
ductape.broker.create(tag="b", envs=[{"slug": "e", "type": "GOOGLE_PUBSUB", "config": config}])
ductape.broker.topic.create(tag="b:t")
ductape.event.publish("b:t", {"n": 1})
child = os.fork()
if not child:
    try:
        ductape.event.publish("b:t", {"n": 2})
    except Exception as error:
        os._exit(7 if "fork first, or spawn" in str(error) else 8)
    os._exit(9)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ductape.close()
"""


def test_a_forked_process_is_told_and_does_not_crash(pubsub_server: Server) -> None:
    command = [sys.executable, "-c", FORKED, pubsub_server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.split() == ["7"]
