"""Frames, headers, names and faults, without a server."""

import asyncio
import datetime
import logging
import struct
import time
from collections.abc import Mapping
from typing import Any

import pytest
from pamqp import commands, frame, header

from ductape.adapter import (
    AdapterError,
    Channel,
    Delivery,
    Epoch,
    Fault,
    Intake,
    Order,
    Outgoing,
    Purpose,
    Settlement,
    Site,
    Verdict,
)
from ductape_rabbitmq import RabbitMQConfig
from ductape_rabbitmq._channel import Channel as Wire
from ductape_rabbitmq._link import Endpoint, Link
from ductape_rabbitmq._receiver import FEW, RabbitMQReceiver
from ductape_rabbitmq._topology import Topology, bucket
from ductape_rabbitmq._wire import Content, Framer, ack, delivery_of, fault_of, message_id_of, nack
from tests.contract import LoopClock

FRAME_MAX = 131_072


def written(record: Outgoing, *, copies: bool = False) -> Content:
    """A record's frames, as the other side has them."""
    framer = Framer(3, FRAME_MAX, copies=copies)
    data = framer.frames(framer.method("amq.topic", "orders"), record, b"nonce.1f", 1_700_000_000)
    payloads: dict[int, list[bytes]] = {1: [], 2: [], 3: []}
    while data:
        kind, number, size = struct.unpack_from(">BHI", data)
        assert (number, data[7 + size]) == (3, 0xCE)
        assert size <= FRAME_MAX - 8
        payloads[kind].append(data[7 : 7 + size])
        data = data[8 + size :]
    ((method,), (head,)) = payloads[1], payloads[2]
    assert method[:4] == b"\x00\x3c\x00\x28"
    content = Content(head, b"".join(payloads[3]))
    assert int.from_bytes(head[4:12], "big") == len(content.body)
    return content


def read(content: Content, *, counted: bool = True) -> Delivery:
    return delivery_of("orders.billing", 7, content, Epoch(), 99.0, counted=counted)


def foreign(headers: Mapping[str, Any] | None = None, body: bytes = b"{}", **properties: Any) -> Content:
    """A message as another client writes it, encoded by pamqp."""
    props = commands.Basic.Properties(headers=dict(headers) if headers is not None else None, **properties)
    data = frame.marshal(header.ContentHeader(body_size=len(body), properties=props), 3)
    return Content(data[7:-1], body)


def test_body_headers_and_key_come_back_as_they_were() -> None:
    for _ in range(2):  # the second time header names are known
        sent = Outgoing(b"\x00\xff", {"a": "1", "naïve": "ü", "content-type": "text/plain"}, "id", "cust_789")
        delivery = read(written(sent))
        assert (delivery.body, delivery.headers, delivery.key) == (b"\x00\xff", dict(sent.headers), "cust_789")
        assert (delivery.position, delivery.stored_at) == ("orders.billing@nonce.1f", 1_700_000_000.0)
        assert (delivery.count, delivery.failed, delivery.error, delivery.leased_until) == (1, 0, "", 99.0)
        assert delivery.token == (7, None)


def test_what_we_write_is_what_other_clients_read() -> None:
    content = written(Outgoing(b"x", {"ductape-id": "id1", "content-type": "application/json"}, "id1", "k", 1.5))
    data = struct.pack(">BHI", 2, 3, len(content.header)) + content.header + b"\xce"
    properties = frame.unmarshal(data)[2].properties  # type: ignore[union-attr]  # a header frame
    assert properties.headers == {"ductape-id": "id1", "ductape-key": "k"}
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
    assert (properties.message_id, properties.expiration) == ("nonce.1f", "1500")
    assert properties.timestamp == datetime.datetime.fromtimestamp(1_700_000_000, datetime.UTC)


@pytest.mark.parametrize("size", [0, 1, FRAME_MAX - 8, FRAME_MAX - 7, 300_000])
def test_bodies_are_split_into_frames_that_fit(size: int) -> None:
    assert len(read(written(Outgoing(b"x" * size, {}, "id"))).body) == size


def test_settlements_are_the_frames_of_the_protocol() -> None:
    assert ack(3, 9) == frame.marshal(commands.Basic.Ack(9), 3)
    assert ack(3, 2**40, multiple=True) == frame.marshal(commands.Basic.Ack(2**40, True), 3)
    assert nack(3, 9) == frame.marshal(commands.Basic.Nack(9, False, True), 3)


@pytest.mark.parametrize(
    "headers",
    [{"n" * 256: "v"}, {"CC": "other"}, {"BCC": "other"}, {"x-death": "me"}, {"big": "x" * 120_000}],
    ids=["long-name", "cc", "bcc", "broker's", "larger-than-a-frame"],
)
def test_headers_that_would_close_the_channel_are_refused_before(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"header") as error:
        written(Outgoing(b"x", headers, "id"))
    assert "xxxx" not in str(error.value)


def test_dead_letters_have_room_for_headers_that_their_original_had_not() -> None:
    almost = Outgoing(b"x", {"big": "x" * 114_000}, "id")
    grown = Outgoing(b"x", {"big": "x" * 114_000, "ductape-dead-error": "e" * 4000}, "id")
    written(almost)
    with pytest.raises(ValueError, match="one frame"):
        written(grown)
    assert len(read(written(grown, copies=True)).headers) == 2


def test_foreign_headers_become_text_and_copies_keep_their_types() -> None:
    headers = {
        "number": 7, "negative": -1, "yes": True, "none": None, "ratio": 0.5, "nested": {"a": [1, "b"]},
        "when": datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC), "text": "plain", "raw": bytearray(b"bytes"),
    }  # fmt: skip
    content = foreign(
        headers, correlation_id="c1", reply_to="back", message_type="order.new", app_id="them", priority=4
    )
    delivery = read(content)
    assert delivery.headers == {
        "number": "7", "negative": "-1", "yes": "true", "none": "", "ratio": "0.5", "nested": '{"a":[1,"b"]}',
        "when": "2026-11-23T00:00:00+00:00", "text": "plain", "raw": "bytes",
    }  # fmt: skip
    assert (delivery.key, delivery.stored_at, delivery.position) == (None, None, "orders.billing#7")
    copy = Outgoing(delivery.body, {**delivery.headers, "ratio": "changed", "new": "1"}, "id", origin=delivery)
    again = written(copy, copies=True)
    data = struct.pack(">BHI", 2, 3, len(again.header)) + again.header + b"\xce"
    properties = frame.unmarshal(data)[2].properties  # type: ignore[union-attr]  # as above
    assert properties.headers == {**headers, "ratio": "changed", "new": "1"}
    assert (properties.correlation_id, properties.reply_to, properties.message_type) == ("c1", "back", "order.new")
    assert (properties.app_id, properties.priority, properties.message_id) == ("them", 4, "nonce.1f")


def test_a_copy_keeps_when_its_original_was_stored() -> None:
    delivery = read(written(Outgoing(b"x", {}, "id")))
    framer = Framer(3, FRAME_MAX, copies=True)
    copy = Outgoing(b"x", {}, "id", origin=delivery)
    frames = framer.frames(framer.method("", "q"), copy, b"n.2", 1_800_000_000)
    assert struct.pack(">Q", 1_700_000_000) in frames


@pytest.mark.parametrize(("value", "count"), [(1, 2), (4, 5)])
def test_the_server_counts_and_its_own_headers_are_left_out(value: int, count: int) -> None:
    headers = {"x-delivery-count": value, "x-death": [{"count": 1}], "x-first-death-queue": "q", "x-request-id": "r"}
    delivery = read(foreign(headers))
    assert (delivery.count, delivery.headers) == (count, {"x-request-id": "r"})
    assert read(foreign(headers), counted=False).count is None


def test_what_cannot_be_read_is_handed_over_with_an_error() -> None:
    broken = foreign({"h": "vvvv"})
    mangled = Content(broken.header.replace(b"vvvv", b"\xff\xfe\xff\xfe"), b"x")
    delivery = read(mangled)
    assert (delivery.body, delivery.error) == (b"x", "headers that are not UTF-8: b'h'")
    for cut in range(12, len(broken.header)):
        short = read(Content(broken.header[:cut], b"x"))
        assert (short.body, short.token) == (b"x", (7, None))


def test_a_message_without_properties_is_a_body() -> None:
    delivery = read(foreign(None, b"text"))
    assert (delivery.body, delivery.headers, delivery.error, delivery.count) == (b"text", {}, "", 1)


def test_a_time_in_milliseconds_is_no_time() -> None:
    sent = struct.pack(">Q", 1_700_000_000)
    for stamp, stored_at in ((sent, 1_700_000_000.0), (struct.pack(">Q", 1_700_000_000_000), None)):
        content = written(Outgoing(b"x", {"a": "1"}, "id"))
        mended = Content(content.header.replace(sent, stamp), b"x")
        assert [read(mended).stored_at for _ in range(2)] == [stored_at] * 2


def test_ids_of_what_came_back_are_found() -> None:
    assert message_id_of(written(Outgoing(b"x", {"a": "b"}, "id"))) == "nonce.1f"
    assert message_id_of(foreign({})) == ""


@pytest.mark.parametrize(
    ("code", "text", "fault", "says"),
    [
        (403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", Fault.CONFIG, "password"),
        (403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", Fault.CONFIG, "alone"),
        (403, "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'u'", Fault.CONFIG, "permissions"),
        (404, "NOT_FOUND - no exchange 'e' in vhost '/'", Fault.CONFIG, "no exchange"),
        (404, "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor", Fault.TRANSIENT, "stopped"),
        (405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q'", Fault.CONFIG, "config.queue"),
        (406, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q'", Fault.CONFIG, "create: false"),
        (530, "NOT_ALLOWED - vhost v not found", Fault.CONFIG, "config.vhost"),
        (530, "NOT_ALLOWED - access to vhost '/' refused: connection limit (1) is reached", Fault.TRANSIENT, "limit"),
        (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", Fault.TRANSIENT, "320"),
        (541, "INTERNAL_ERROR", Fault.TRANSIENT, "541"),
        (501, "FRAME_ERROR", Fault.LOST, "501"),
    ],
)
def test_every_reply_code_has_a_fault_and_says_what_to_do(code: int, text: str, fault: Fault, says: str) -> None:
    error = fault_of(code, text, "here")
    assert error.fault is fault
    assert says in str(error)


def names(channel: Channel, **config: Any) -> str:
    log = logging.getLogger("test")
    clock: Any = time
    site = Site(product="shop", env="prd", broker="orders", clock=clock, log=log)
    return Topology(RabbitMQConfig(**config), site, Link(Endpoint(host="h", port=1))).queue(channel)


@pytest.mark.parametrize(
    ("config", "name", "group", "queue"),
    [
        ({}, "orders.new", "shop.new", "orders.new.shop.new"),
        ({"routing_key": "o.n"}, "o.n", "billing", "o.n.billing"),
        ({"routing_key": "o.n", "queue": "jobs"}, "o.n", "jobs", "jobs"),
        ({"routing_key": "o.n", "queue": "jobs"}, "o.n", "billing", "jobs.billing"),
        ({"queue": "jobs"}, "orders.new", "jobs.new", "jobs.new"),
        ({"queue": "jobs"}, "orders.old", "jobs.new", "orders.old.jobs.new"),
        ({"queue": "jobs"}, "orders.new", "billing", "orders.new.billing"),
        ({"routing_key": "{topic}", "queue": "{product}-{topic}"}, "new", "shop-new", "shop-new"),
        ({"routing_key": "{topic}", "queue": "{product}-{topic}"}, "new", "billing", "new.billing"),
        ({"routing_key": "o.n", "queue": "{env}"}, "o.n", "prd", "prd"),
    ],
)
def test_queues_are_named_as_the_config_says(config: dict[str, Any], name: str, group: str, queue: str) -> None:
    assert names(Channel(name=name, group=group), **config) == queue
    assert names(Channel(name=name, group=group, purpose=Purpose.DEAD), **config) == queue + ".dead"
    assert names(Channel(name=name, group=group, purpose=Purpose.RETRY), **config) == queue


def test_delays_wait_where_nothing_longer_than_half_as_much_again_waits() -> None:
    assert [bucket(each) for each in (0.1, 1.0, 1.1, 2.5, 3.5, 5, 7, 9, 13)] == [1, 1, 2, 3, 4, 6, 8, 12, 16]
    for delay in range(3, 5000):
        assert delay <= bucket(delay) <= delay * 1.5
    assert bucket(2.0**22) == 2**22


def receiving(order: Order, number: int) -> tuple[Wire, list[bytes], RabbitMQReceiver, list[Delivery]]:
    """A channel, what is written on it, a receiver there, and what it was given by a server that answers nothing."""
    said: list[bytes] = []

    async def depth(queue: str) -> int:
        return 0

    wire = Wire(3, said.append)
    intake = Intake(group="billing", window=100, order=order)
    receiver = RabbitMQReceiver(wire, "orders", intake, LoopClock(), 0.4, counted=True, depth=depth)
    for tag in range(1, number + 1):
        receiver.delivered(tag, written(Outgoing(b"x", {}, "id")))
    held = list(receiver._buffer)
    receiver._buffer.clear()
    return wire, said, receiver, held


async def test_settling_ends_with_the_channel_and_says_nothing_on_it_any_more() -> None:
    wire, said, receiver, held = receiving(Order.NONE, 3 * FEW)
    settling = asyncio.ensure_future(receiver.settle([Settlement(each, Verdict.RELEASE) for each in held]))
    await asyncio.sleep(0)
    before = len(said)
    wire.gone(AdapterError(Fault.LOST, "closed"))
    answers = await settling
    assert [answer.fault for answer in answers if answer is not None] == [Fault.LOST] * 3 * FEW
    wire.write(b"late")
    assert len(said) == before > 0


async def test_in_order_what_was_handed_back_here_does_not_fail_with_the_server() -> None:
    _, _, receiver, held = receiving(Order.KEY, 2)
    answers = await receiver.settle([Settlement(held[0], Verdict.ACK), Settlement(held[1], Verdict.RELEASE)])
    assert [answer and answer.fault for answer in answers] == [Fault.TRANSIENT, None]
    assert [each.token for each in receiver._buffer] == [held[1].token]
