"""The protocol, names and faults, without a server."""

import asyncio
from urllib.parse import urlparse

import pytest
from nats.aio.client import Client, Srv
from nats.errors import ProtocolError

from ductape.adapter import AdapterError, Channel, Delivery, Epoch, Fault, Outgoing, Purpose
from ductape_nats._parser import Reader
from ductape_nats._wire import (
    Refusal,
    delivery_of,
    error_fault,
    heard_of,
    names_of,
    publish_command,
    safe,
    status_of,
    stored_of,
)

REPLY = b"$JS.ACK.orders.billing.2.42.57.1700000000125000000.5"


def block_of(record: Outgoing) -> tuple[bytes, bytes]:
    """The block of headers and the body, as a server would send them."""
    line, rest = publish_command(b"HPUB orders ", "", record).split(b"\r\n", 1)
    size = int(line.split()[-2])
    return rest[:size], rest[size:-2]


def carried(record: Outgoing) -> Delivery:
    return delivery_of("orders", REPLY, *block_of(record), Epoch(), 9.0)


def test_body_headers_and_key_come_back_as_they_were() -> None:
    headers = {"a": "  two  ", "Upper": "ü=:", "empty": ""}
    delivery = carried(Outgoing(b"\x00\r\n\xff", headers, "id", "cust_789"))
    assert (delivery.body, delivery.headers, delivery.key) == (b"\x00\r\n\xff", headers, "cust_789")
    assert (delivery.position, delivery.stored_at, delivery.count) == ("orders@42", 1_700_000_000.125, 2)
    assert (delivery.leased_until, delivery.error) == (9.0, "")


def test_a_command_says_how_long_it_is_and_names_the_message_for_deduplication() -> None:
    command = publish_command(b"HPUB orders ", "in.7 ", Outgoing(b"body", {"h": "v"}, "id", dedup="id~1"))
    head = b"NATS/1.0\r\nNats-Msg-Id: id~1\r\nh: v\r\n\r\n"
    assert command == b"HPUB orders in.7 %d %d\r\n%bbody\r\n" % (len(head), len(head) + 4, head)
    core = publish_command(b"HPUB orders ", "", Outgoing(b"", {}, "id"), stored=False)
    assert core == b"HPUB orders 12 12\r\nNATS/1.0\r\n\r\n\r\n"


@pytest.mark.parametrize(
    "headers", [{"h": "a\r\nb: c"}, {"h": "a\n"}, {"a b": "v"}, {"a:b": "v"}, {"é": "v"}, {"": "v"}]
)
def test_what_would_break_a_block_of_headers_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Refusal):
        publish_command(b"HPUB orders ", "", Outgoing(b"", headers, "id"))


def test_headers_on_which_the_server_acts_are_refused_and_left_out_of_copies() -> None:
    with pytest.raises(Refusal, match="Nats-"):
        publish_command(b"HPUB orders ", "", Outgoing(b"", {"Nats-Rollup": "all"}, "id"))
    origin = Delivery(b"", {"Nats-Rollup": "all"}, Epoch())
    copy = Outgoing(b"", {"Nats-Rollup": "all", "h": "v"}, "id", origin=origin)
    assert b"Rollup" not in publish_command(b"HPUB orders ", "", copy)


def test_messages_with_a_domain_are_read_from_their_reply_too() -> None:
    reply = b"$JS.ACK.hub.ACCOUNT.orders.billing.3.7.9.1700000000000000000.0.random"
    delivery = delivery_of("orders", reply, b"", b"x", Epoch(), 0.0)
    assert (delivery.count, delivery.position, delivery.headers) == (3, "orders@7", {})


def test_headers_that_are_not_utf_8_are_handed_over_with_an_error() -> None:
    block = b"NATS/1.0\r\nh: \xff\r\n\r\n"
    for delivery in (delivery_of("orders", REPLY, block, b"x", Epoch(), 0.0), heard_of("orders", block, b"x", Epoch())):
        assert delivery.error
        assert delivery.body == b"x"


def test_foreign_headers_with_and_without_a_space_are_read() -> None:
    delivery = heard_of("orders", b"NATS/1.0\r\na:1\r\nb:  2\r\nbroken\r\n\r\n", b"", Epoch())
    assert delivery.headers == {"a": "1", "b": " 2"}


def test_statuses_say_what_and_how_many_did_not_come() -> None:
    assert status_of(b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\n\r\n") == (408, "Request Timeout", 3)
    assert status_of(b"NATS/1.0 503\r\n\r\n") == (503, "", None)


def test_derived_channels_have_names_that_no_wildcard_of_the_channel_takes_in() -> None:
    retry = names_of(Channel(name="orders.new", purpose=Purpose.RETRY, group="billing"))
    assert retry == ("orders_new_billing_retry", "ductape.retry.billing.orders.new")
    subjects = {
        names_of(Channel(name=name, purpose=Purpose.DEAD, group=group)).subject
        for name, group in (("b.c", "a"), ("c", "a.b"), ("c", "a_b"), ("b_c", "a"))
    }
    assert len(subjects) == 4
    assert names_of(Channel(name="orders.new")) == ("orders_new", "orders.new")
    assert safe("shop.new") == "shop_new"


@pytest.mark.parametrize("name", ["", "a b", "a.*", "a.>", "a..b", ".a", "$SYS.a", "a\r\nPUB x"])
def test_names_that_are_no_subject_are_a_matter_of_config(name: str) -> None:
    with pytest.raises(AdapterError, match="subject") as caught:
        names_of(Channel(name=name))
    assert caught.value.fault is Fault.CONFIG


def test_answers_say_where_it_was_stored_or_what_is_wrong() -> None:
    assert stored_of(b'{"stream":"orders","seq":7}', "orders") == ("orders@7", False)
    assert stored_of(b'{"stream":"orders","seq":7,"duplicate":true,"more":1}', "orders") == ("orders@7", True)
    for answer, fault in (
        (b"NATS/1.0 503\r\n\r\n", Fault.LOST),
        (b'{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}', Fault.TRANSIENT),
        (b'{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum"}}', Fault.MESSAGE),
        (b'{"error":{"code":400,"err_code":10060,"description":"expected stream does not match"}}', Fault.CONFIG),
        (b"not json", Fault.AMBIGUOUS),
    ):
        refused = stored_of(answer, "orders")
        assert isinstance(refused, AdapterError)
        assert refused.fault is fault
    assert error_fault(500, 12345, "unknown", "x").fault is Fault.TRANSIENT


# -- what the server sends, in any pieces


async def read(pieces: list[bytes]) -> list[tuple[bytes, bytes, bytes, bytes]]:
    heard: list[tuple[bytes, bytes, bytes, bytes]] = []
    reader = Reader(Client(), lambda what, subject: None)
    reader.sinks[b"d1"] = lambda *parts: heard.append(parts)
    for piece in pieces:
        await reader.parse(piece)
    return heard


async def test_messages_are_read_whole_however_they_are_cut() -> None:
    head = b"NATS/1.0\r\nh: v\r\n\r\n"
    stream = (
        b"MSG a.b d1 3\r\nxyz\r\nHMSG a d1 reply %d %d\r\n%b\r\n\r\nMSG a d1 reply 0\r\n\r\n+OK\r\nMSG a d2 1\r\n?\r\n"
    ) % (len(head), len(head) + 2, head)
    whole = await read([stream])
    assert [(subject, reply, body) for subject, reply, _, body in whole] == [
        (b"a.b", b"", b"xyz"),
        (b"a", b"reply", b"\r\n"),
        (b"a", b"reply", b""),
    ]
    assert whole == await read([stream[at : at + 1] for at in range(len(stream))])
    assert whole == await read([stream[at : at + 7] for at in range(0, len(stream), 7)])


@pytest.mark.parametrize("data", [b"MSG a d1 x\r\n", b"MSG\r\n", b"NONSENSE\r\n", b"x" * 2_000_000])
async def test_what_is_no_protocol_ends_the_connection(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        await read([data])


async def test_the_news_of_a_large_cluster_is_read_in_pieces() -> None:
    client = Client()
    client._current_server = Srv(urlparse("nats://10.0.0.1:4222"))
    client.options["dont_randomize"] = True
    reader = Reader(client, lambda what, subject: None)
    urls = ", ".join(f'"10.0.{n // 250}.{n % 250}:4222"' for n in range(2000))
    news = b'INFO {"server_id": "S", "connect_urls": [%b]}\r\n' % urls.encode()
    for at in range(0, len(news), 10_000):
        await reader.parse(news[at : at + 10_000])
    assert len(client.discovered_servers) == 2000


async def test_an_answer_that_nobody_waits_for_any_more_disturbs_nothing() -> None:
    client = Client()
    reader = Reader(client, lambda what, subject: None)
    gone: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    gone.cancel()
    waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    client._pongs += [gone, waiting]
    await reader.parse(b"PONG\r\nPONG\r\n")
    assert waiting.result()
