"""What a server rarely does, and a scripted one does here: it throttles, fails some entries, answers late or never."""

import asyncio
import time
from typing import Any

import pytest
from aiohttp.web import StreamResponse
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from ductape import Ductape, Event
from ductape.adapter import AdapterError, Fault, Intake, Order, Purpose, Secret, Stored, Verdict
from ductape_conformance.proxy import free_port
from ductape_sqs import SqsAdapter, SqsConfig
from ductape_sqs._wire import fault_of
from tests.contract import bodies, patiently, record, settle, take

from .conftest import KEYS, World, site, until
from .fake import QUEUE_URL, Body, FakeSqs, act, drop, fail, hang, refusal, refuse, say


def faults(answers: list[Any]) -> list[Fault | None]:
    return [answer.fault if isinstance(answer, AdapterError) else None for answer in answers]


# ---- sending


async def test_of_a_batch_that_failed_in_part_each_record_has_its_own_answer(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect()
    codes = {1: ("InternalError", False), 3: ("InvalidMessageContents", True), 5: ("RequestThrottled", False)}
    fake.script("SendMessageBatch", fail(codes))
    answers = await scripted.publish(connection, *map(record, range(8)))
    ambiguous, message, transient = Fault.AMBIGUOUS, Fault.MESSAGE, Fault.TRANSIENT
    assert faults(answers) == [None, ambiguous, None, message, None, transient, None, None]
    assert len(fake.waiting[f"{QUEUE_URL}{scripted.name}_orders"]) == 5
    assert "4711" not in str(answers), "SQS's texts may quote payloads"


async def test_a_batch_that_is_refused_as_a_whole_is_sent_in_halves(fake: FakeSqs, scripted: World) -> None:
    async def pick(fake: FakeSqs, operation: str, body: Body) -> StreamResponse:
        if any(entry["MessageBody"] == "6" for entry in body["Entries"]):
            return refusal(400, "InvalidMessageContents")
        return await act(fake, operation, body)

    connection = await scripted.connect()
    fake.script("SendMessageBatch", *[pick] * 20)
    answers = await scripted.publish(connection, *map(record, range(10)))
    assert faults(answers) == [Fault.MESSAGE if n == 6 else None for n in range(10)]
    assert len(fake.of("SendMessageBatch")) < 10, "halves, not single ones"


async def test_halving_a_refused_batch_ends_with_the_call(
    fake: FakeSqs, scripted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ductape_sqs._sender.BEGIN", 0.0)
    monkeypatch.setattr("ductape_sqs._sender.CALL", 1.0)

    async def late(fake: FakeSqs, operation: str, body: Body) -> StreamResponse:
        await asyncio.sleep(0.3)
        return refusal(400, "InvalidMessageContents")

    connection = await scripted.connect()
    fake.script("SendMessageBatch", *[late] * 20)
    answers = await scripted.publish(connection, *map(record, range(10)))
    assert set(faults(answers)) <= {Fault.AMBIGUOUS, Fault.TRANSIENT}, "none was alone when the time was over"


async def test_a_throttled_call_is_transient_and_an_answer_that_got_lost_ambiguous(
    fake: FakeSqs, scripted: World
) -> None:
    connection = await scripted.connect()
    fake.script("SendMessageBatch", refuse(403, "RequestThrottled"), drop(done=True), drop(done=False), refuse(503, ""))
    seen = [faults(await scripted.publish(connection, record(n)))[0] for n in range(5)]
    assert seen == [Fault.TRANSIENT, Fault.AMBIGUOUS, Fault.AMBIGUOUS, Fault.AMBIGUOUS, None]


async def test_an_answer_that_leaves_entries_out_confirms_nothing(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect()
    fake.script("SendMessageBatch", say("{}"), say("<html>"))
    assert faults(await scripted.publish(connection, *map(record, range(3)))) == [Fault.AMBIGUOUS] * 3
    assert faults(await scripted.publish(connection, record(1))) == [Fault.AMBIGUOUS]


async def test_a_call_fills_batches_of_ten_that_are_under_way_together(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect()
    go = asyncio.Event()
    fake.script("SendMessageBatch", *[hang(go)] * 10)
    sending = asyncio.create_task(scripted.publish(connection, *map(record, range(95))))
    await until(lambda: fake.busy["SendMessageBatch"] == 10)
    go.set()
    assert all(isinstance(answer, Stored) for answer in await sending)
    assert [len(call.body["Entries"]) for call in fake.of("SendMessageBatch")].count(10) == 9


async def test_in_order_nothing_of_a_key_is_stored_behind_what_failed(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect()
    channel = scripted.channel(order=Order.KEY)
    records = [record(n, key=f"k{n % 3}", dedup=f"d{n}") for n in range(9)]
    fake.script("SendMessageBatch", fail({}), fail({1: ("InternalError", False)}))
    answers = await scripted.publish(connection, *records, channel=channel)
    ambiguous, transient = Fault.AMBIGUOUS, Fault.TRANSIENT
    assert faults(answers) == [None, None, None, None, ambiguous, None, None, transient, None]
    stored = [int(message["Body"]) for message in fake.waiting[f"{QUEUE_URL}{scripted.name}_orders.fifo"]]
    assert sorted(stored) == [0, 1, 2, 3, 5, 6, 8]
    for call in fake.of("SendMessageBatch"):
        groups = [entry["MessageGroupId"] for entry in call.body["Entries"]]
        assert len(groups) == len(set(groups)), "entries of one call may fail apart: one of a key in each"


async def test_a_queue_that_was_deleted_is_lost_and_declared_again(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect()
    await scripted.publish(connection, record(1))
    url = f"{QUEUE_URL}{scripted.name}_orders"
    sender = await connection.sender(scripted.channel())
    del fake.attributes[url]
    assert faults(list(await sender.send([record(2)]))) == [Fault.LOST]
    assert faults(await scripted.publish(connection, record(3))) == [None]


async def test_what_has_not_begun_in_time_is_not_sent(
    fake: FakeSqs, scripted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ductape_sqs._sender.BEGIN", 0.0)
    connection = await scripted.connect()
    answers = await scripted.publish(connection, record(1, key="k"), channel=scripted.channel(order=Order.KEY))
    assert faults(answers) == [Fault.TRANSIENT]
    assert fake.of("SendMessageBatch") == []


async def test_a_call_ends_when_sqs_does_not_answer(
    fake: FakeSqs, scripted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await scripted.connect()
    await scripted.publish(connection, record(1))
    monkeypatch.setattr("ductape_sqs._sender.CALL", 0.2)
    fake.script("SendMessageBatch", hang(never := asyncio.Event()))
    sender = await connection.sender(scripted.channel())
    [answer] = await sender.send([record(2)])
    assert isinstance(answer, AdapterError)
    assert answer.fault is Fault.AMBIGUOUS
    assert "no answer within" in answer.text
    never.set()


# ---- receiving


async def test_polls_stay_open_between_calls_and_inside_the_window(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection, window=5)
    for _ in range(3):
        assert await receiver.receive(5, 0.01) == []
    assert [call.body["MaxNumberOfMessages"] for call in fake.of("ReceiveMessage")] == [5]
    url = f"{QUEUE_URL}{scripted.name}_orders"
    for number in range(12):
        fake.put(url, str(number))
    held = await take(receiver, 5)
    assert await receiver.receive(100, 0.05) == []
    await settle(receiver, held[:2])
    assert len(await take(receiver, 2)) == 2
    assert all(call.body["WaitTimeSeconds"] == 1 for call in fake.of("ReceiveMessage"))


async def test_full_batches_bring_parallel_polls_and_quiet_ends_them(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection, window=200)
    url = f"{QUEUE_URL}{scripted.name}_orders"
    for number in range(100):
        fake.put(url, str(number))
    fake.script("ReceiveMessage", act, *[hang(go := asyncio.Event())] * 8)
    found = list(await receiver.receive(200, 5.0))
    await until(lambda: fake.busy["ReceiveMessage"] == 8)
    go.set()
    found += await take(receiver, 90)
    assert fake.peak["ReceiveMessage"] == 8
    assert await settle(receiver, found) == [None] * 100
    assert await receiver.receive(200, 5.0) == [], "it ends when all polls came back empty"
    before = len(fake.of("ReceiveMessage"))
    assert await receiver.receive(200, 0.5) == []
    assert len(fake.of("ReceiveMessage")) == before + 1, "an idle queue is asked by one poll at a time"


async def test_with_a_full_window_nothing_is_asked(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection, window=3)
    for number in range(6):
        fake.put(f"{QUEUE_URL}{scripted.name}_orders", str(number))
    held = await take(receiver, 3)
    before = len(fake.asked)
    began = time.monotonic()
    assert await receiver.receive(10, 0.2) == []
    assert time.monotonic() - began >= 0.19, "a loop around it does not turn hot"
    assert len(fake.asked) == before
    waiting = asyncio.create_task(take(receiver, 3, 5.0))
    await asyncio.sleep(0.05)
    assert await settle(receiver, held) == [None] * 3
    assert len(await waiting) == 3


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        (refuse(403, "RequestThrottled"), Fault.TRANSIENT),
        (refuse(403, "OverLimit"), Fault.TRANSIENT),
        (refuse(500, "InternalError"), Fault.TRANSIENT),
        (drop(done=False), Fault.TRANSIENT),
        (say("no json"), Fault.TRANSIENT),
        (refuse(403, "AccessDenied"), Fault.CONFIG),
        (refuse(403, "ExpiredToken"), Fault.CONFIG),
        (refuse(400, "QueueDoesNotExist"), Fault.LOST),
    ],
    ids=["throttled", "in-flight-full", "error", "cut", "garbled", "denied", "expired", "deleted"],
)
async def test_a_failed_poll_is_told_and_the_next_one_works(
    fake: FakeSqs, scripted: World, step: Any, fault: Fault
) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    fake.put(f"{QUEUE_URL}{scripted.name}_orders", "1")
    fake.script("ReceiveMessage", step)
    with pytest.raises(AdapterError) as caught:
        await receiver.receive(10, 5.0)
    assert caught.value.fault is fault
    assert "hunter2" not in str(caught.value)
    assert bodies(await take(receiver, 1)) == [1]


async def test_a_poll_that_outlives_its_receiver_s_stop_swallows_nothing(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    fake.script("ReceiveMessage", hang(go := asyncio.Event()))
    assert await receiver.receive(10, 0.05) == []
    await receiver.stop()
    url = f"{QUEUE_URL}{scripted.name}_orders"
    fake.put(url, "1")
    go.set()
    await until(lambda: fake.changed)
    assert await receiver.receive(10, 1.0) == []
    assert list(fake.changed.values()) == [[0]], "handed back at once, not when its lease is over"
    await receiver.close()
    assert len(fake.waiting[url]) == 1


async def test_receivers_that_come_and_leave_at_once_lose_and_repeat_nothing(world: World) -> None:
    connection = await world.connect()
    channel = world.channel()
    await connection.declare(channel)
    seen: list[int] = []

    async def visit(number: int) -> None:
        receiver = await connection.receiver(channel, Intake(group="billing", window=10))
        await world.publish(connection, record(number))
        found = list(await receiver.receive(10, 0.02))
        await settle(receiver, found)
        seen.extend(int(delivery.body) for delivery in found)
        await receiver.close()

    await asyncio.gather(*(visit(number) for number in range(40)))
    last = await connection.receiver(channel, Intake(group="billing", window=200))
    rest = await take(last, 40 - len(seen), 20.0)
    await settle(last, rest)
    assert sorted(seen + bodies(rest)) == list(range(40))
    assert await last.receive(10, 1.5) == []


# ---- settling


async def test_of_settlements_that_failed_in_part_each_has_its_own_answer(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    for number in range(6):
        fake.put(f"{QUEUE_URL}{scripted.name}_orders", str(number))
    held = await take(receiver, 6)
    codes = {0: ("InternalError", False), 2: ("ReceiptHandleIsInvalid", True), 4: ("RequestThrottled", False)}
    fake.script("DeleteMessageBatch", fail(codes))
    answers = await settle(receiver, held)
    assert faults(answers) == [Fault.TRANSIENT, None, Fault.LOST, None, Fault.TRANSIENT, None]
    assert await settle(receiver, [held[0], held[4]]) == [None, None]


async def test_acknowledgements_fill_batches_of_ten_that_are_under_way_together(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection, window=95)
    for number in range(95):
        fake.put(f"{QUEUE_URL}{scripted.name}_orders", str(number))
    held = await take(receiver, 95)
    fake.script("DeleteMessageBatch", *[hang(go := asyncio.Event())] * 10)
    settling = asyncio.create_task(settle(receiver, held))
    await until(lambda: fake.busy["DeleteMessageBatch"] == 8)
    go.set()
    assert await settling == [None] * 95
    assert [len(call.body["Entries"]) for call in fake.of("DeleteMessageBatch")].count(10) == 9
    assert fake.peak["DeleteMessageBatch"] == 8


async def test_one_message_twice_in_a_batch_is_no_mistake(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    fake.put(f"{QUEUE_URL}{scripted.name}_orders", "1")
    held = await take(receiver, 1)
    fake.script("DeleteMessageBatch", fail({1: ("ReceiptHandleIsInvalid", True)}))
    assert faults(await settle(receiver, [*held, *held])) == [None, Fault.LOST]


async def test_retries_and_renewals_keep_to_the_half_day_that_sqs_gives(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect(lease=30)
    receiver = await scripted.receiver(connection)
    for number in range(4):
        fake.put(f"{QUEUE_URL}{scripted.name}_orders", str(number))
    fresh, old, older, over = await take(receiver, 4)
    now = asyncio.get_running_loop().time()
    for delivery, age in ((old, 43_000), (older, 43_190), (over, 43_201)):
        delivery.token = delivery.token._replace(since=now - age)  # type: ignore[attr-defined]
        delivery.leased_until = now + 30
    answers = await receiver.extend([fresh, old, older, over])
    assert faults(list(answers)) == [None, None, None, Fault.LOST]
    asked = [fake.changed[each.token.receipt] for each in (fresh, old, older)]  # type: ignore[attr-defined]
    assert asked[0] == asked[1] == [30]
    assert 7 <= asked[2][0] <= 10
    assert await settle(receiver, [old], Verdict.RETRY, 1000.0) == [None]
    assert 195 <= fake.changed[old.token.receipt][-1] <= 200  # type: ignore[attr-defined]
    assert await settle(receiver, [fresh], Verdict.RETRY, 1.2) == [None]
    assert fake.changed[fresh.token.receipt][-1] == 2  # type: ignore[attr-defined]


async def test_of_renewals_that_failed_in_part_only_those_that_went_well_count(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    for number in range(4):
        fake.put(f"{QUEUE_URL}{scripted.name}_orders", str(number))
    held = await take(receiver, 4)
    for delivery in held:  # as if some time had passed
        delivery.leased_until = (delivery.leased_until or 0.0) - 1.0
    before = [delivery.leased_until for delivery in held]
    codes = {0: ("RequestThrottled", False), 1: ("ReceiptHandleIsInvalid", True), 2: ("MessageNotInflight", True)}
    fake.script("ChangeMessageVisibilityBatch", fail(codes))
    answers = await receiver.extend(held)
    assert faults(list(answers)) == [Fault.TRANSIENT, Fault.LOST, Fault.LOST, None]
    assert [delivery.leased_until for delivery in held[:3]] == before[:3]
    assert (held[3].leased_until or 0.0) > (before[3] or 0.0)
    fake.script("ChangeMessageVisibilityBatch", refuse(403, "RequestThrottled"))
    assert faults(list(await receiver.extend(held[3:]))) == [Fault.TRANSIENT]


async def test_an_expired_receipt_is_told_without_asking_and_takes_nothing_from_its_new_owner(
    fake: FakeSqs, scripted: World
) -> None:
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    fake.put(f"{QUEUE_URL}{scripted.name}_orders", "1")
    held = await take(receiver, 1)
    held[0].leased_until = asyncio.get_running_loop().time() - 0.1
    for answers in (await receiver.extend(held), await settle(receiver, held, Verdict.RELEASE)):
        assert faults(list(answers)) == [Fault.LOST]
        assert "with another consumer" in str(answers[0])
    assert fake.changed == {}


async def test_settling_ends_within_a_third_of_the_lease(fake: FakeSqs, scripted: World) -> None:
    connection = await scripted.connect(lease=3)
    receiver = await scripted.receiver(connection)
    for number in range(30):
        fake.put(f"{QUEUE_URL}{scripted.name}_orders", str(number))
    held = await take(receiver, 30)
    fake.script("DeleteMessageBatch", *[hang(never := asyncio.Event())] * 3)
    began = time.monotonic()
    assert set(faults(await settle(receiver, held))) == {Fault.TRANSIENT}
    assert time.monotonic() - began < 2.0
    never.set()
    assert set(faults(await settle(receiver, held))) <= {None, Fault.LOST}


async def test_closing_ends_in_time_while_nothing_is_answered(
    fake: FakeSqs, scripted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ductape_sqs._receiver.CLOSING", 0.3)
    connection = await scripted.connect()
    receiver = await scripted.receiver(connection)
    fake.script("ReceiveMessage", hang(never := asyncio.Event()))
    assert await receiver.receive(10, 0.05) == []
    began = time.monotonic()
    await receiver.close()
    await connection.close()
    assert time.monotonic() - began < 3.0
    never.set()


async def test_through_throttling_and_failures_in_part_every_event_is_handled_and_settled(
    fake: FakeSqs, scripted: World
) -> None:
    throttled, partly = refuse(403, "RequestThrottled"), fail({0: ("InternalError", False)})
    fake.script("SendMessageBatch", throttled, partly, throttled, partly)
    fake.script("ReceiveMessage", throttled, act, refuse(403, "OverLimit"))
    fake.script("DeleteMessageBatch", throttled, partly)
    handled: set[str] = set()

    async def handle(event: Event[Any]) -> None:
        handled.add(event.id)

    keys = {"region": "us-east-1", "accessKeyId": "test", "secretAccessKey": "hunter2"}
    async with Ductape(product="shop", env="dev") as ductape:
        config = {**keys, "endpoint": fake.url, "poll": 1}
        await ductape.broker.create(tag="orders", envs=[{"slug": "dev", "type": "AWS_SQS", "config": config}])
        await ductape.broker.topic.create(tag="orders:new")
        await ductape.event.subscribe("orders:new", callback=handle)
        receipts = await asyncio.gather(*(ductape.event.publish("orders:new", {"n": n}) for n in range(30)))
        await until(lambda: handled == {receipt.id for receipt in receipts})
        await until(lambda: not fake.out and not fake.waiting[f"{QUEUE_URL}orders_new"])


# ---- names


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"name": "o.a.b"}, {"name": "o.a_b"}),
        ({"name": "o.a_b", "order": Order.KEY}, {"name": "o.a.b", "order": Order.KEY}),
        ({"name": "o.a.b", "order": Order.KEY}, {"name": "o.a_b"}),  # their dead letters
        ({"name": "o.a"}, {"name": "o.a-dead"}),
        ({"name": "o.a-dead"}, {"name": "o.a"}),
    ],
)
async def test_two_topics_whose_queues_would_be_one_are_refused(
    fake: FakeSqs, scripted: World, first: dict[str, Any], second: dict[str, Any]
) -> None:
    connection = await scripted.connect()
    for purpose in (Purpose.EVENTS, Purpose.RETRY, Purpose.DEAD, Purpose.EVENTS):
        await connection.declare(scripted.channel(purpose=purpose, **first))
    with pytest.raises(AdapterError, match=r"already, and would be for .* queue_url") as caught:
        await connection.declare(scripted.channel(**second))
    assert caught.value.fault is Fault.CONFIG
    url = fake.add("theirs")
    await connection.declare(scripted.channel(**second, address=url))


# ---- connecting


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("InvalidClientTokenId", "config.access_key_id"),
        ("UnrecognizedClientException", "config.access_key_id"),
        ("SignatureDoesNotMatch", "config.secret_access_key"),
        ("ExpiredToken", "session token"),
        ("RequestExpired", "clock"),
    ],
)
async def test_wrong_credentials_are_a_matter_of_config_and_say_what_to_do(
    fake: FakeSqs, scripted: World, code: str, hint: str
) -> None:
    fake.script("GetQueueUrl", refuse(403, code))
    with pytest.raises(AdapterError, match=hint) as caught:
        await scripted.connect()
    assert caught.value.fault is Fault.CONFIG
    assert "hunter2" not in str(caught.value) + repr(caught.value.__cause__)


async def test_a_right_that_is_missing_to_look_at_queues_keeps_nobody_from_connecting(
    fake: FakeSqs, scripted: World
) -> None:
    url = fake.add("mine")
    fake.script("GetQueueUrl", refuse(403, "AccessDenied"))
    connection = await scripted.connect()
    fake.script("GetQueueAttributes", refuse(403, "AccessDenied"))
    answers = await scripted.publish(connection, record(1), channel=scripted.channel(address=url))
    assert faults(answers) == [None]
    fake.script("SendMessageBatch", refuse(403, "AccessDenied"))
    [answer] = await scripted.publish(connection, record(2), channel=scripted.channel(address=url))
    assert isinstance(answer, AdapterError)
    assert answer.fault is Fault.CONFIG
    assert "allow it to these credentials" in answer.text


def test_an_answer_without_a_code_is_not_one_of_sqs() -> None:
    assert fault_of("GetQueueUrl", "", 400).text == "GetQueueUrl: an answer that is not SQS's (HTTP 400)"


async def test_a_server_that_is_away_is_transient() -> None:
    config = SqsConfig(endpoint=f"http://127.0.0.1:{free_port()}", **KEYS)
    with pytest.raises(AdapterError, match="no connection to") as caught:
        await SqsAdapter().connect(config, site())
    assert caught.value.fault is Fault.TRANSIENT


async def test_an_unknown_region_is_a_matter_of_config_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise AdapterError(Fault.TRANSIENT, "no connection to it")  # as where no name server knows the address

    monkeypatch.setattr("ductape_sqs._queues.Queues.ping", away)
    for region, fault in (("eu-wst-1", Fault.CONFIG), ("eu-west-1", Fault.TRANSIENT)):
        with pytest.raises(AdapterError) as caught:
            await SqsAdapter().connect(SqsConfig(**{**KEYS, "region": region}), site())
        assert caught.value.fault is fault
        assert fault is Fault.TRANSIENT or "Did you mean 'eu-west-1'?" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"region": None}, r"config\.region"),
        ({"native": {"no_such_option": 1}}, "native"),
        ({"native": {"retries": "many"}}, "native"),
    ],
)
async def test_what_the_client_refuses_is_a_matter_of_config(
    fake: FakeSqs, fields: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(AdapterError, match=text) as caught:
        await SqsAdapter().connect(SqsConfig(**{"endpoint": fake.url, **KEYS, **fields}), site())
    assert caught.value.fault is Fault.CONFIG
    assert "hunter2" not in str(caught.value)


async def test_without_keys_credentials_come_from_where_aws_tools_find_them(
    fake: FakeSqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    connection = await SqsAdapter().connect(SqsConfig(endpoint=fake.url), site())
    await connection.close()
    assert "AKIAENV/" in fake.asked[0].headers["Authorization"]
    assert "/eu-north-1/sqs/" in fake.asked[0].headers["Authorization"]


async def test_without_any_credentials_it_says_what_to_give(fake: FakeSqs, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(AdapterError, match=r"config\.access_key_id") as caught:
        await SqsAdapter().connect(SqsConfig(endpoint=fake.url, region="us-east-1"), site())
    assert caught.value.fault is Fault.CONFIG


def denied(code: str, status: int) -> ClientError:
    said = {"Error": {"Code": code, "Message": "hunter2"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(said, "AssumeRole")


@pytest.mark.parametrize(
    ("error", "fault", "told"),
    [
        (denied("AccessDenied", 403), Fault.CONFIG, "AccessDenied"),
        (denied("Throttling", 400), Fault.TRANSIENT, "Throttling"),
        (denied("InternalFailure", 500), Fault.TRANSIENT, "InternalFailure"),
        (RuntimeError("renewed keys are stale: hunter2"), Fault.TRANSIENT, "RuntimeError"),
    ],
)
async def test_credentials_that_are_not_given_are_a_typed_error_at_connect_and_later(
    fake: FakeSqs, scripted: World, monkeypatch: pytest.MonkeyPatch, error: Exception, fault: Fault, told: str
) -> None:
    async def fail(*_: object) -> None:
        raise error

    connection = await scripted.connect()
    await scripted.publish(connection, record(1))
    monkeypatch.setattr("aiobotocore.credentials.AioCredentials.get_frozen_credentials", fail)
    sender = await connection.sender(scripted.channel())
    [answer] = await sender.send([record(2)])
    monkeypatch.setattr("aiobotocore.session.AioSession.get_credentials", fail)
    with pytest.raises(AdapterError, match=told) as caught:
        await scripted.connect()
    for failure in (answer, caught.value):
        assert isinstance(failure, AdapterError)
        assert failure.fault is fault
        assert told in failure.text
        assert "hunter2" not in failure.text


async def test_temporary_keys_send_their_token(fake: FakeSqs, scripted: World) -> None:
    await scripted.connect(session_token=Secret("t0ken"))
    assert fake.asked[0].headers["X-Amz-Security-Token"] == "t0ken"


async def test_the_native_client_is_aiobotocore_s(scripted: World) -> None:
    from aiobotocore.client import AioBaseClient  # type: ignore[import-untyped]

    connection = await scripted.connect(native={"max_pool_connections": 7})
    client = connection.unwrap(AioBaseClient)
    assert client.meta.service_model.service_name == "sqs"
    assert client.meta.config.max_pool_connections == 7
    assert "hunter2" not in repr(connection)
    await patiently(connection.check)
