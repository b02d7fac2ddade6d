"""What no emulator does, on a scripted service: partial answers, throttling, refusals, silence, missing rights."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf import empty_pb2  # type: ignore[import-untyped]  # it ships no annotations
from google.pubsub_v1.types import pubsub as types
from grpc import ChannelConnectivity  # type: ignore[import-untyped]  # as below

from ductape import Ductape
from ductape.adapter import AdapterError, Channel, Count, Fault, Order, Outgoing, Settlement, Stored, Verdict
from ductape.errors import CapabilityError
from ductape_google_pubsub._access import Access
from tests.contract import record, settle, take

from .conftest import Fake, World, event, ordered, publish, refuse, site


def faults(answers: Sequence[Stored | AdapterError]) -> list[Fault | None]:
    return [answer.fault if isinstance(answer, AdapterError) else None for answer in answers]


# ---------------------------------------------------------------- storing


async def test_records_without_order_go_in_one_request_and_keys_in_one_each(scripted: World, fake: Fake) -> None:
    connection = await scripted.connect()
    await publish(connection, *(record(n, key=f"k{n % 3}") for n in range(30)))
    assert [len(request.messages) for request in fake.seen["Publish"]] == [30]
    await publish(connection, *(record(n, key=f"k{n % 3}") for n in range(30)), channel=ordered())
    requests = fake.seen["Publish"][1:]
    keys = [{message.ordering_key for message in request.messages} for request in requests]
    assert sorted(keys, key=min) == [{"k0"}, {"k1"}, {"k2"}]
    for request in requests:
        numbers = [int(message.data) for message in request.messages]
        assert numbers == sorted(numbers)
    assert ("x-goog-request-params", "topic=projects/scripted/topics/orders") in fake.metadata


async def test_a_record_that_the_service_refuses_is_found_and_refused_alone(scripted: World, fake: Fake) -> None:
    stored: list[bytes] = []
    accept = fake.scripts["Publish"]

    def pick(request: Any) -> object:
        messages = request.messages
        if any(message.data == b"13" for message in messages):
            return refuse("INVALID_ARGUMENT", "hunter2 does not match the schema")(request)
        stored.extend(message.data for message in messages)
        return accept(request)

    fake.scripts["Publish"] = pick
    connection = await scripted.connect()
    sender = await connection.sender(event())
    answers = await sender.send([record(n) for n in range(30)])
    assert faults(answers) == [Fault.MESSAGE if n == 13 else None for n in range(30)]
    assert "hunter2" not in str(answers[13])
    assert sorted(stored) == sorted(b"%d" % n for n in range(30) if n != 13)
    assert len(fake.seen["Publish"]) < 12, "halves, not single ones"


async def test_after_a_refused_record_of_a_key_nothing_later_of_it_is_stored(scripted: World, fake: Fake) -> None:
    stored: list[bytes] = []
    accept = fake.scripts["Publish"]

    def pick(request: Any) -> object:
        messages = request.messages
        if any(message.data == b"4" for message in messages):
            return refuse("INVALID_ARGUMENT")(request)
        stored.extend(message.data for message in messages)
        return accept(request)

    fake.scripts["Publish"] = pick
    connection = await scripted.connect()
    sender = await connection.sender(ordered())
    answers = await sender.send([record(n, key="k") for n in range(10)] + [record(99, key="j")])
    assert faults(answers) == [None] * 4 + [Fault.MESSAGE] + [Fault.TRANSIENT] * 5 + [None]
    assert sorted(stored) == [b"0", b"1", b"2", b"3", b"99"]


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("RESOURCE_EXHAUSTED", Fault.TRANSIENT),
        ("UNAVAILABLE", Fault.AMBIGUOUS),
        ("ABORTED", Fault.AMBIGUOUS),
        ("DEADLINE_EXCEEDED", Fault.AMBIGUOUS),
        ("PERMISSION_DENIED", Fault.CONFIG),
        ("UNAUTHENTICATED", Fault.CONFIG),
        ("NOT_FOUND", Fault.LOST),
    ],
)
async def test_a_failed_publish_says_what_it_means(scripted: World, fake: Fake, code: str, fault: Fault) -> None:
    connection = await scripted.connect()
    sender = await connection.sender(event())
    fake.scripts["Publish"] = refuse(code)
    answers = await sender.send([record(1), record(2)])
    assert faults(answers) == [fault, fault]
    assert f"projects/scripted/topics/orders: {code}" in str(answers[0])
    assert len(fake.seen["Publish"]) == 1, "repeating is the kernel's"


async def test_a_call_is_cut_at_what_a_request_takes(scripted: World, fake: Fake) -> None:
    connection = await scripted.connect()
    sender = await connection.sender(event())
    body = b"x" * 4_000_000
    answers = await sender.send([Outgoing(body, {}, str(n), size=len(body)) for n in range(5)])
    assert faults(answers) == [None] * 5
    assert [len(request.messages) for request in fake.seen["Publish"]] == [2, 2, 1]


# ---------------------------------------------------------------- settling


async def test_ids_that_an_exactly_once_subscription_refuses_are_answered_alone(scripted: World, fake: Fake) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    for number in range(4):
        fake.message(b"%d" % number)
    got = await take(receiver, 4)
    ids = {"ack1": "TRANSIENT_FAILURE_UNORDERED_ACK_ID", "ack3": "PERMANENT_FAILURE_INVALID_ACK_ID"}
    fake.scripts["Acknowledge"] = refuse("FAILED_PRECONDITION", ids=ids)
    answers = await settle(receiver, got)
    assert [answer and answer.fault for answer in answers] == [Fault.TRANSIENT, None, Fault.LOST, None]
    del fake.scripts["Acknowledge"]
    assert await settle(receiver, got[:1]) == [None]
    assert list(fake.seen["Acknowledge"][-1].ack_ids) == ["ack1"]


async def test_what_a_call_that_failed_for_now_does_not_name_is_told_again(scripted: World, fake: Fake) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    for number in range(3):
        fake.message(b"%d" % number)
    got = await take(receiver, 3)
    fake.scripts["Acknowledge"] = refuse("ABORTED", ids={"ack2": "PERMANENT_FAILURE_INVALID_ACK_ID"})
    answers = await settle(receiver, got)
    assert [answer and answer.fault for answer in answers] == [Fault.TRANSIENT, Fault.LOST, Fault.TRANSIENT]


async def test_leases_that_an_exactly_once_subscription_does_not_renew_are_answered_alone(
    scripted: World, fake: Fake
) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    for number in range(3):
        fake.message(b"%d" % number)
    got = await take(receiver, 3)
    before = [one.leased_until for one in got]
    ids = {"ack1": "PERMANENT_FAILURE_INVALID_ACK_ID", "ack3": "TRANSIENT_FAILURE_OTHER"}
    fake.scripts["ModifyAckDeadline"] = refuse("FAILED_PRECONDITION", ids=ids)
    answers = list(await receiver.extend(got))
    assert [answer and answer.fault for answer in answers] == [Fault.LOST, None, Fault.TRANSIENT]
    renewed = [one.leased_until != was for one, was in zip(got, before, strict=True)]
    assert renewed == [False, True, False]


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("RESOURCE_EXHAUSTED", Fault.TRANSIENT),
        ("UNAVAILABLE", Fault.TRANSIENT),
        ("ABORTED", Fault.TRANSIENT),
        ("DEADLINE_EXCEEDED", Fault.TRANSIENT),
        ("PERMISSION_DENIED", Fault.CONFIG),
        ("NOT_FOUND", Fault.LOST),
    ],
)
async def test_a_failed_settlement_says_what_it_means_and_is_not_repeated_here(
    scripted: World, fake: Fake, code: str, fault: Fault
) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    for number in range(2):
        fake.message(b"%d" % number)
    got = await take(receiver, 2)
    fake.scripts["Acknowledge"] = fake.scripts["ModifyAckDeadline"] = refuse(code, "for a reason")
    for verdict, name in ((Verdict.ACK, "Acknowledge"), (Verdict.RETRY, "ModifyAckDeadline")):
        answers = await settle(receiver, got, verdict, 1.0)
        assert [answer and answer.fault for answer in answers] == [fault, fault]
        assert f"subscriptions/orders.billing: {code}: for a reason" in str(answers[0])
        assert len(fake.seen[name]) == 1, "repeating is the kernel's"


async def test_one_malformed_id_spoils_no_other(scripted: World, fake: Fake) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    for number in range(16):
        fake.message(b"%d" % number)
    got = await take(receiver, 16)
    done: list[str] = []

    def pick(request: Any) -> object:
        ids = list(request.ack_ids)
        if "ack6" in ids:
            return refuse("INVALID_ARGUMENT", "invalid ack id")(request)
        done.extend(ids)
        return empty_pb2.Empty()

    fake.scripts["Acknowledge"] = pick
    answers = await settle(receiver, got)
    assert [place for place, answer in enumerate(answers) if answer] == [5]
    assert answers[5] is not None
    assert answers[5].fault is Fault.LOST
    assert len(done) == 15


async def test_looking_for_malformed_ids_ends_with_the_call(
    scripted: World, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    for number in range(16):
        fake.message(b"%d" % number)
    got = await take(receiver, 16)
    monkeypatch.setattr(receiver, "_bound", 0.5)

    async def slow(request: Any) -> object:
        await asyncio.sleep(0.2)
        return refuse("INVALID_ARGUMENT", "invalid ack id")(request)

    fake.scripts["Acknowledge"] = slow
    answers = await settle(receiver, got)
    assert {answer and answer.fault for answer in answers} == {Fault.TRANSIENT}
    assert "not settled in time" in str(answers[-1])
    assert len(fake.seen["Acknowledge"]) <= 4


async def test_many_are_acknowledged_in_calls_of_a_thousand(scripted: World, fake: Fake) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection, window=2500)
    for number in range(2500):
        fake.message(b"%d" % number)
    got = await take(receiver, 2500)
    assert await settle(receiver, got) == [None] * 2500
    assert sorted(len(request.ack_ids) for request in fake.seen["Acknowledge"]) == [500, 1000, 1000]
    assert max(request.max_messages for request in fake.seen["Pull"]) == 1000


async def test_retries_of_many_delays_are_few_calls(scripted: World, fake: Fake) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection, window=200)
    for number in range(200):
        fake.message(b"%d" % number)
    got = await take(receiver, 200)
    answers = await receiver.settle([Settlement(one, Verdict.RETRY, 300.0 + n / 4) for n, one in enumerate(got)])
    assert list(answers) == [None] * 200
    seconds = [request.ack_deadline_seconds for request in fake.seen["ModifyAckDeadline"]]
    assert sorted(seconds) == list(range(300, 351, 5))


async def test_a_settlement_that_is_not_answered_ends_within_a_third_of_the_lease(scripted: World, fake: Fake) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    fake.message(b"1")
    got = await take(receiver, 1)

    async def silent(_: object) -> None:
        await asyncio.sleep(30)

    fake.scripts["Acknowledge"] = silent
    began = time.monotonic()
    (answer,) = await settle(receiver, got)
    assert answer is not None
    assert answer.fault is Fault.TRANSIENT
    assert time.monotonic() - began < 5.0


# ---------------------------------------------------------------- receiving


async def test_empty_answers_that_come_at_once_make_no_hot_loop(scripted: World, fake: Fake) -> None:
    fake.hold = 0.0
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    assert list(await receiver.receive(10, 1.0)) == []
    assert 2 <= len(fake.seen["Pull"]) <= 8


async def test_a_poll_stays_open_between_calls_and_asks_for_no_more_than_there_is_room(
    scripted: World, fake: Fake
) -> None:
    fake.hold = 0.4
    connection = await scripted.connect(poll=0.5)
    receiver = await scripted.receiver(connection, window=7)
    for _ in range(10):
        assert list(await receiver.receive(100, 0.01)) == []
    assert len(fake.seen["Pull"]) == 1
    assert fake.seen["Pull"][0].max_messages == 7


async def test_an_idle_poll_that_ends_by_its_deadline_is_no_error(scripted: World, fake: Fake) -> None:
    fake.hold = 30.0
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    assert list(await receiver.receive(10, 1.5)) == []
    await receiver.stop()


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("UNAVAILABLE", Fault.TRANSIENT),
        ("RESOURCE_EXHAUSTED", Fault.TRANSIENT),
        ("NOT_FOUND", Fault.LOST),
        ("PERMISSION_DENIED", Fault.CONFIG),
    ],
)
async def test_a_failed_poll_says_what_it_means_and_the_next_one_works(
    scripted: World, fake: Fake, code: str, fault: Fault
) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    bring = fake.scripts["Pull"]
    fake.scripts["Pull"] = refuse(code, "for a reason")
    with pytest.raises(AdapterError, match=f"subscriptions/orders.billing: {code}: for a reason") as failed:
        await receiver.receive(10, 1.0)
    assert failed.value.fault is fault
    fake.scripts["Pull"] = bring
    fake.message(b"1")
    assert [one.body for one in await take(receiver, 1)] == [b"1"]


async def test_what_was_lost_of_a_lease_is_not_extended(scripted: World, fake: Fake) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    fake.message(b"1")
    fake.message(b"2")
    lapsed, ours = await take(receiver, 2)
    lapsed.leased_until = 0.0
    answers = list(await receiver.extend([lapsed, ours]))
    assert [answer and answer.fault for answer in answers] == [Fault.LOST, None]
    assert [list(request.ack_ids) for request in fake.seen["ModifyAckDeadline"]] == [["ack2"]]


async def test_what_was_lost_of_a_lease_is_not_given_back_but_acknowledged(scripted: World, fake: Fake) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    for number in range(3):
        fake.message(b"%d" % number)
    lapsed, late, ours = await take(receiver, 3)
    lapsed.leased_until = late.leased_until = 0.0
    verdicts = ((lapsed, Verdict.RETRY), (late, Verdict.ACK), (ours, Verdict.RETRY))
    answers = await receiver.settle([Settlement(one, verdict, 1.0) for one, verdict in verdicts])
    assert [answer and answer.fault for answer in answers] == [Fault.LOST, None, None]
    assert [list(request.ack_ids) for request in fake.seen["ModifyAckDeadline"]] == [["ack3"]]
    assert [list(request.ack_ids) for request in fake.seen["Acknowledge"]] == [["ack2"]]


async def test_a_lease_is_extended_by_what_the_subscription_gives_not_the_config(scripted: World, fake: Fake) -> None:
    connection = await scripted.connect(lease=60)
    receiver = await scripted.receiver(connection)
    fake.message(b"1")
    (got,) = await take(receiver, 1)
    now = site().clock.now()
    assert list(await receiver.extend([got])) == [None]
    assert [request.ack_deadline_seconds for request in fake.seen["ModifyAckDeadline"]] == [10]
    assert (got.leased_until or 0.0) - now < 15.0


async def test_channels_for_polls_are_as_many_as_receivers_need(
    scripted: World, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    make = Access.channel

    def channel(access: Access) -> Any:
        made.append(make(access))
        return made[-1]

    monkeypatch.setattr("ductape_google_pubsub._api.POLLS", 2)
    monkeypatch.setattr(Access, "channel", channel)
    connection = await scripted.connect()
    made.clear()
    first, second, third = [await scripted.receiver(connection) for _ in range(3)]
    assert len(made) == 2
    await first.close()
    fourth = await scripted.receiver(connection)
    assert len(made) == 2, "there was room"
    for receiver in (second, third, fourth, fourth):
        await receiver.close()
    assert [each.get_state() for each in made] == [ChannelConnectivity.SHUTDOWN] * 2
    fake.message(b"1")
    assert [one.body for one in await take(await scripted.receiver(connection), 1)] == [b"1"]
    assert len(made) == 3


# ---------------------------------------------------------------- what is there, and what may be looked at


async def test_where_nothing_may_be_looked_at_the_least_is_assumed(scripted: World, fake: Fake) -> None:
    fake.scripts["GetTopic"] = fake.scripts["GetSubscription"] = refuse("PERMISSION_DENIED")
    connection = await scripted.connect(create=False)
    await connection.declare(event())
    can = connection.capabilities(event())
    assert can is not None
    assert (can.count, can.order, can.confirmed_ack, can.lease) == (Count.NONE, Order.NONE, False, 10.0)
    assert (can.retry_delay, fake.seen["CreateTopic"]) == (0.0, [])


async def test_where_nothing_may_be_looked_at_or_created_the_roles_are_told(scripted: World, fake: Fake) -> None:
    fake.scripts["GetTopic"] = fake.scripts["CreateTopic"] = refuse("PERMISSION_DENIED")
    connection = await scripted.connect()
    with pytest.raises(
        AdapterError, match=r"topics/orders: .* grant roles/pubsub.editor, or say create: false"
    ) as told:
        await connection.declare(event())
    assert told.value.fault is Fault.CONFIG


NO_PROJECT = "Requested project not found or user does not have access to it (project=scripted)"
"""What Google says of a project that does not exist."""


async def test_a_project_that_does_not_exist_is_told_when_connecting(scripted: World, fake: Fake) -> None:
    fake.scripts["GetTopic"] = refuse("NOT_FOUND", NO_PROJECT)
    with pytest.raises(AdapterError, match=r"project=scripted\)\. Check config\.project_id") as told:
        await scripted.connect()
    assert told.value.fault is Fault.CONFIG


async def test_a_topic_in_a_project_that_does_not_exist_is_not_created(scripted: World, fake: Fake) -> None:
    connection = await scripted.connect()
    fake.scripts["GetTopic"] = refuse("NOT_FOUND", NO_PROJECT)
    with pytest.raises(AdapterError, match=r"Check config\.project_id") as told:
        await connection.declare(Channel(name="projects/other/topics/orders", group="billing"))
    assert told.value.fault is Fault.CONFIG
    assert fake.seen["CreateTopic"] == []


@pytest.mark.parametrize(
    ("attempts", "count", "delay"),
    [(100, Count.APPROXIMATE, 600.0), (5, Count.APPROXIMATE, 0.0), (None, Count.NONE, 0.0)],
)
async def test_failures_are_given_back_only_where_the_service_does_not_take_them_away_first(
    scripted: World, fake: Fake, caplog: pytest.LogCaptureFixture, attempts: int | None, count: Count, delay: float
) -> None:
    policy = {"dead_letter_topic": "projects/scripted/topics/theirs", "max_delivery_attempts": attempts}
    fake.scripts["GetSubscription"] = lambda request: types.Subscription(
        name=request.subscription,
        topic="projects/scripted/topics/orders",
        ack_deadline_seconds=10,
        dead_letter_policy=policy if attempts else None,
    )
    connection = await scripted.connect()
    for _ in range(2):
        await connection.declare(event())
    can = connection.capabilities(event())
    assert can is not None
    assert (can.count, can.retry_delay) == (count, delay)
    warned = [one.getMessage() for one in caplog.records if "max_delivery_attempts" in one.getMessage()]
    assert len(warned) == (attempts == 5), "once"
    assert all("orders.billing: after 5 deliveries" in each for each in warned)


async def test_a_login_that_is_refused_is_a_config_fault_at_once(scripted: World, fake: Fake) -> None:
    fake.scripts["GetTopic"] = refuse("UNAUTHENTICATED", "no")
    with pytest.raises(AdapterError, match=r"UNAUTHENTICATED.*key_filename") as told:
        await scripted.connect()
    assert told.value.fault is Fault.CONFIG


async def test_a_service_that_is_silent_is_told_within_the_bound_of_connecting(scripted: World, fake: Fake) -> None:
    async def silent(_: object) -> None:
        await asyncio.sleep(30)

    fake.scripts["GetTopic"] = silent
    began = time.monotonic()
    with pytest.raises(AdapterError, match=r"DEADLINE_EXCEEDED.*check the network") as told:
        await scripted.connect()
    assert told.value.fault is Fault.TRANSIENT
    assert time.monotonic() - began < 9.0


# ---------------------------------------------------------------- through a client


async def test_a_subscription_without_order_is_refused_where_the_topic_has_one(fake: Fake) -> None:
    config = {"projectId": "scripted", "emulatorHost": f"127.0.0.1:{fake.port}", "poll": 0.2}
    ductape = Ductape(product="shop", env="dev")
    await ductape.broker.create(tag="b", envs=[{"slug": "dev", "type": "GOOGLE_PUBSUB", "config": config}])
    await ductape.broker.topic.create(tag="b:t", groups=["billing"], order="key")

    async def handle(message: object) -> None: ...

    async with ductape:
        with pytest.raises(CapabilityError, match="cannot keep order='key'"):
            await ductape.event.subscribe("b:t", callback=handle, group="billing")


async def test_throttling_and_partial_failures_lose_nothing_and_repeat_nothing(fake: Fake) -> None:
    stored: list[bytes] = []
    acknowledged: list[str] = []
    bring = fake.scripts["Pull"]

    def every(number: int, name: str) -> bool:
        return len(fake.seen[name]) % number == 0

    def publish(request: Any) -> Any:
        if every(2, "Publish"):
            return refuse("RESOURCE_EXHAUSTED", "quota exceeded")(request)
        for message in request.messages:
            stored.append(message.data)
            fake.message(message.data, attributes=dict(message.attributes))
        return types.PublishResponse(message_ids=[str(len(stored) - n) for n in range(len(request.messages))])

    def acknowledge(request: Any) -> Any:
        ids = list(request.ack_ids)
        refused = ids[::3] if every(2, "Acknowledge") else []
        acknowledged.extend(id_ for id_ in ids if id_ not in refused)
        if refused:
            return refuse("FAILED_PRECONDITION", ids=dict.fromkeys(refused, "TRANSIENT_FAILURE_OTHER"))(request)
        return empty_pb2.Empty()

    fake.scripts["Publish"] = publish
    fake.scripts["Acknowledge"] = acknowledge
    fake.scripts["Pull"] = lambda request: (refuse("RESOURCE_EXHAUSTED") if every(3, "Pull") else bring)(request)
    handled: list[int] = []
    done = asyncio.Event()

    async def handle(message: dict[str, int]) -> None:
        handled.append(message["n"])
        if len(handled) >= 200:
            done.set()

    config = {"projectId": "scripted", "emulatorHost": f"127.0.0.1:{fake.port}", "poll": 0.2}
    ductape = Ductape(product="shop", env="dev")
    await ductape.broker.create(tag="b", envs=[{"slug": "dev", "type": "GOOGLE_PUBSUB", "config": config}])
    await ductape.broker.topic.create(tag="b:t", groups=["billing"])
    async with ductape:
        await ductape.event.subscribe("b:t", callback=handle, group="billing")
        await asyncio.gather(*(ductape.event.publish("b:t", {"n": n}) for n in range(200)))
        await asyncio.wait_for(done.wait(), 30)
    assert sorted(handled) == list(range(200))
    assert len(stored) == 200, "what was refused was not stored, and is stored once"
    assert sorted(acknowledged) == sorted(set(acknowledged))
    assert len(acknowledged) == 200, "each is acknowledged in the end"
