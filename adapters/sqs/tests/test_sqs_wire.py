"""Records to entries and back, names, and what errors mean; without a server."""

import datetime
import json
from typing import Any

import msgspec
import pytest
from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]

from ductape.adapter import AdapterError, Delivery, Epoch, Fault, Outgoing, Secret
from ductape_sqs._shapes import Bad, Entry, Message
from ductape_sqs._wire import (
    LARGEST,
    Target,
    batches,
    code_of,
    dead_name,
    delivery_of,
    entry_fault,
    entry_of,
    fault_of,
    queue_name,
)

from .conftest import World
from .fake import FakeSqs

STANDARD = Target("orders", LARGEST)
FIFO = Target("orders.fifo", LARGEST, fifo=True, ordered=True)


def outgoing(body: bytes = b"{}", headers: dict[str, str] | None = None, **more: Any) -> Outgoing:
    return Outgoing(**{"body": body, "headers": headers or {"ductape-id": "id1"}, "id": "id1", "dedup": "id1", **more})


def through(record: Outgoing, target: Target = STANDARD) -> tuple[dict[str, Any], Delivery]:
    """Returns an entry as JSON, and the delivery that it becomes."""
    entry, size = entry_of(record, target)
    shown = json.loads(msgspec.json.encode(entry))
    attributes = shown.get("MessageAttributes", {})
    texts = [text for name, each in attributes.items() for text in (name, each["DataType"], each["StringValue"])]
    assert size == len("".join([shown["MessageBody"], *texts]).encode()), "the size is what SQS counts"
    assert len(attributes) <= 10
    system = {"MessageGroupId": shown["MessageGroupId"]} if "MessageGroupId" in shown else {}
    message = {"MessageId": "m1", "ReceiptHandle": "r1", "Body": shown["MessageBody"], "Attributes": system}
    received = msgspec.convert({**message, "MessageAttributes": attributes}, Message)
    return shown, delivery_of(received, "orders", Epoch(), 100.0, 30)


def test_the_body_is_the_codec_s_and_headers_are_attributes() -> None:
    shown, got = through(outgoing(b'{"n": 1}', {"ductape-id": "id1", "trace": "abc"}))
    assert shown["MessageBody"] == '{"n": 1}'
    assert shown["MessageAttributes"]["trace"] == {"DataType": "String", "StringValue": "abc"}
    assert (got.body, dict(got.headers), got.key) == (b'{"n": 1}', {"ductape-id": "id1", "trace": "abc"}, None)
    assert (got.leased_until, got.position) == (130.0, "orders@m1")


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"\x00", "\ufffe".encode(), bytes(range(256)), b"a\x0bb"])
def test_a_body_that_xml_cannot_hold_is_base64_and_says_so(body: bytes) -> None:
    shown, got = through(outgoing(body))
    assert shown["MessageAttributes"]["ductape-encoding"]["StringValue"] == "base64"
    assert got.body == body
    assert "ductape-encoding" not in got.headers


@pytest.mark.parametrize("body", ["žluťoučký 日本語 🙂", "a\tb\r\nc", "\u2028", "\ue000"])
def test_other_alphabets_and_line_breaks_stay_text(body: str) -> None:
    shown, got = through(outgoing(body.encode()))
    assert shown["MessageBody"] == body
    assert got.body == body.encode()


def test_an_empty_body_is_marked_because_sqs_takes_none() -> None:
    shown, got = through(outgoing(b""))
    assert shown["MessageBody"]
    assert got.body == b""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("empty", ""),
        ("control", "a\x01b"),
        ("not-a-character", "\uffff"),
        ("with space", "v"),
        ("AWS.trace", "v"),
        ("amazon.x", "v"),
        ("a..b", "v"),
        (".a", "v"),
        ("a.", "v"),
        ("ductape-headers", "mine"),
        ("ductape-encoding", "mine"),
        ("n" * 300, "v"),
        ("žluť", "v"),
    ],
)
def test_a_header_that_sqs_does_not_take_is_packed_and_comes_back(name: str, value: str) -> None:
    shown, got = through(outgoing(headers={"ductape-id": "id1", name: value}))
    assert set(shown["MessageAttributes"]) == {"ductape-id", "ductape-headers"}
    assert shown["MessageAttributes"]["ductape-headers"]["StringValue"].isascii()
    assert dict(got.headers) == {"ductape-id": "id1", name: value}


@pytest.mark.parametrize("number", [9, 10, 11, 40])
@pytest.mark.parametrize("body", [b"{}", b"\xff"])
@pytest.mark.parametrize("key", [None, "cust"])
def test_no_message_has_more_than_ten_attributes_and_no_header_is_lost(
    number: int, body: bytes, key: str | None
) -> None:
    headers = {f"h{n}": f"v{n}" for n in range(number)}
    shown, got = through(outgoing(body, headers, key=key))
    assert (got.body, dict(got.headers), got.key) == (body, headers, key)
    assert ("ductape-headers" in shown["MessageAttributes"]) == (number + (body != b"{}") + (key is not None) > 10)


def test_a_fifo_queue_orders_by_the_key_and_drops_what_has_one_dedup_id() -> None:
    shown, got = through(outgoing(key="cust_789", dedup="d1"), FIFO)
    assert (shown["MessageGroupId"], shown["MessageDeduplicationId"]) == ("cust_789", "d1")
    assert got.key == "cust_789"
    assert "ductape-key" not in shown["MessageAttributes"]


@pytest.mark.parametrize("key", ["", "two words", "ž", "k" * 200, "~tilde"])
def test_a_key_that_sqs_does_not_take_as_a_group_comes_back_as_it_was(key: str) -> None:
    shown, got = through(outgoing(key=key), FIFO)
    assert len(shown["MessageGroupId"]) <= 128
    assert shown["MessageGroupId"].isalnum()
    assert got.key == key


def test_messages_without_a_key_are_in_groups_of_their_own() -> None:
    first, got = through(outgoing(dedup="a"), FIFO)
    second, _ = through(outgoing(dedup="b"), FIFO)
    assert got.key is None
    assert first["MessageGroupId"] != second["MessageGroupId"]


def test_a_copy_on_an_unordered_fifo_queue_locks_no_key() -> None:
    target = Target("orders.fifo", LARGEST, fifo=True, copies=True)
    shown, got = through(outgoing(key="cust", dedup="id1~2~3.000"), target)
    assert shown["MessageGroupId"] != "cust"
    assert got.key == "cust"


def test_a_delay_is_rounded_up_to_seconds() -> None:
    assert through(outgoing(delay=1.2))[0]["DelaySeconds"] == 2
    assert "DelaySeconds" not in through(outgoing())[0]


def test_what_is_too_large_on_the_wire_is_refused_without_its_payload() -> None:
    for body in (b"x" * (LARGEST + 1), b"\xff" * 200_000):
        with pytest.raises(AdapterError) as refused:
            entry_of(outgoing(body), STANDARD)
        assert refused.value.fault is Fault.MESSAGE
        assert "bytes on the wire" in str(refused.value)
        assert "xxx" not in str(refused.value)


def test_what_is_published_leaves_room_for_what_a_dead_letter_adds() -> None:
    body = b"\xff" * 190_000
    entry, size = entry_of(outgoing(body), STANDARD)
    assert size > 250_000
    letter = {f"ductape-dead-{n}": "x" * 1000 for n in range(7)}
    entry_of(outgoing(body, letter), Target("orders-dead", LARGEST, copies=True))
    with pytest.raises(AdapterError):
        entry_of(outgoing(body, letter), STANDARD)
    assert entry.message_body


def test_calls_hold_ten_entries_and_no_more_bytes_than_the_queue_takes() -> None:
    sizes = [100] * 12 + [200_000, 100_000, 200_000]
    ready = [(place, Entry("x"), size) for place, size in enumerate(sizes)]
    cut = list(batches(ready, LARGEST))
    assert [[place for place, _ in batch] for batch in cut] == [list(range(10)), [10, 11, 12], [13], [14]]
    assert [[entry.id for _, entry in batch] for batch in cut][1] == ["0", "1", "2"]


# ---- what others write


def foreign(**more: Any) -> Delivery:
    message = {"MessageId": "m1", "ReceiptHandle": "r1", "Body": "hello", **more}
    return delivery_of(msgspec.convert(message, Message), "orders", Epoch(), 0.0, 30)


def test_a_message_of_a_producer_that_knows_nothing_of_ductape_is_read() -> None:
    attributes = {
        "n": {"DataType": "Number", "StringValue": "7"},
        "b": {"DataType": "Binary", "BinaryValue": "AAE="},
    }
    system = {"ApproximateReceiveCount": "3", "SentTimestamp": "1795440000250", "MessageGroupId": "tenant"}
    got = foreign(MessageAttributes=attributes, Attributes=system)
    assert (got.body, dict(got.headers), got.key) == (b"hello", {"n": "7", "b": "AAE="}, "tenant")
    assert (got.count, got.stored_at, got.error) == (3, 1795440000.25, "")


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("ductape-headers", "no json"),
        ("ductape-headers", "[1]"),
        ("ductape-headers", '{"a": 1}'),
        ("ductape-encoding", "base64"),
        ("ductape-encoding", "rot13"),
    ],
)
def test_what_cannot_be_read_is_handed_over_with_what_could_be(attribute: str, value: str) -> None:
    attributes = {attribute: {"DataType": "String", "StringValue": value}, "ok": {"StringValue": "kept"}}
    got = foreign(MessageAttributes=attributes)
    assert got.error
    assert got.body == b"hello"
    assert got.headers["ok"] == "kept"


# ---- names


def test_queues_are_named_after_topics_without_dots() -> None:
    assert queue_name("order-events.new-orders", fifo=False) == "order-events_new-orders"
    assert queue_name("order-events.new-orders", fifo=True) == "order-events_new-orders.fifo"
    assert dead_name("orders.fifo") == "orders-dead"


@pytest.mark.parametrize("name", ["o" * 81, "órders", ""])
def test_a_name_that_sqs_does_not_take_is_a_matter_of_config(name: str) -> None:
    with pytest.raises(AdapterError, match=r"config\.queue") as refused:
        queue_name(name, fifo=False)
    assert refused.value.fault is Fault.CONFIG


# ---- errors


@pytest.mark.parametrize(
    ("native", "code"),
    [
        ("com.amazonaws.sqs#QueueDoesNotExist", "QueueDoesNotExist"),
        ("AWS.SimpleQueueService.NonExistentQueue;Sender", "NonExistentQueue"),
        ("QueueDoesNotExist", "QueueDoesNotExist"),
        ("", ""),
    ],
)
def test_codes_are_read_in_every_spelling(native: str, code: str) -> None:
    assert code_of(native) == code


@pytest.mark.parametrize(
    ("code", "status", "fault"),
    [
        ("RequestThrottled", 403, Fault.TRANSIENT),
        ("ThrottlingException", 400, Fault.TRANSIENT),
        ("OverLimit", 403, Fault.TRANSIENT),
        ("InternalError", 500, Fault.AMBIGUOUS),
        ("ServiceUnavailable", 503, Fault.AMBIGUOUS),
        ("", 502, Fault.AMBIGUOUS),
        ("", 429, Fault.TRANSIENT),
        ("AccessDenied", 403, Fault.CONFIG),
        ("InvalidClientTokenId", 403, Fault.CONFIG),
        ("SignatureDoesNotMatch", 403, Fault.CONFIG),
        ("ExpiredToken", 403, Fault.CONFIG),
        ("KmsDisabled", 400, Fault.CONFIG),
        ("SomethingNew", 403, Fault.CONFIG),
        ("QueueDoesNotExist", 400, Fault.LOST),
        ("InvalidMessageContents", 400, Fault.MESSAGE),
        ("BatchRequestTooLong", 400, Fault.MESSAGE),
        ("SomethingNew", 400, Fault.LOST),
    ],
)
def test_every_refusal_has_its_fault(code: str, status: int, fault: Fault) -> None:
    error = fault_of("SendMessageBatch", code, status)
    assert error.fault is fault
    assert "SendMessageBatch" in str(error)
    assert fault is not Fault.CONFIG or code == "SomethingNew" or ": " in error.text.partition(") ")[0]


@pytest.mark.parametrize(
    ("code", "sender", "fault"),
    [
        ("InternalError", False, Fault.AMBIGUOUS),
        ("RequestThrottled", False, Fault.TRANSIENT),
        ("Unheard", False, Fault.AMBIGUOUS),
        ("Unheard", True, Fault.MESSAGE),
        ("Unheard", "true", Fault.MESSAGE),
        ("KmsAccessDenied", True, Fault.CONFIG),
        ("ReceiptHandleIsInvalid", True, Fault.LOST),
    ],
)
def test_every_failed_entry_has_its_fault(code: str, sender: bool | str, fault: Fault) -> None:
    assert entry_fault("DeleteMessageBatch", Bad("0", code, sender)).fault is fault


# ---- the signature


@pytest.mark.parametrize("token", [None, "session/token=="])
async def test_requests_are_signed_as_botocore_signs_them(
    fake: FakeSqs, scripted: World, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: dict[str, Any] = {"session_token": Secret(token)} if token else {}
    connection = await scripted.connect(**keys)
    await scripted.publish(connection, outgoing("ž".encode()))
    sent = fake.of("SendMessageBatch")[0]
    stamp = datetime.datetime.strptime(sent.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    assert abs((datetime.datetime.now(datetime.UTC) - stamp).total_seconds()) < 60

    signed = ("Host", "Content-Type", "X-Amz-Target")
    request = AWSRequest("POST", fake.url + "/", {name: sent.headers[name] for name in signed}, sent.raw)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_: stamp.replace(tzinfo=None))
    SigV4Auth(Credentials("test", "hunter2", token), "sqs", "us-east-1").add_auth(request)
    assert sent.headers["X-Amz-Date"] == request.headers["X-Amz-Date"]
    assert sent.headers.get("X-Amz-Security-Token") == token
    assert sent.headers["Authorization"] == request.headers["Authorization"]
