"""Fields, names and faults, without a server."""

import pytest

from ductape.adapter import AdapterError, Channel, Delivery, Epoch, Fault, Outgoing, Purpose
from ductape_redis._wire import delivery_of, envelope, fault_of, fields_of, keys_of, milliseconds, opened, start_id


def carried(record: Outgoing, count: int = 1, **more: str | None) -> Delivery:
    fields = [field if isinstance(field, bytes) else field.encode() for field in fields_of(record)]
    return delivery_of("orders", (b"1700000000123-4", count, fields), Epoch(), None, more.get("body_field"))


def foreign(*fields: bytes, body_field: str | None = None) -> Delivery:
    return delivery_of("orders", (b"1-0", 1, list(fields)), Epoch(), None, body_field)


def test_body_headers_and_key_come_back_as_they_were() -> None:
    for _ in range(2):  # the second time header names are known
        delivery = carried(Outgoing(b"\x00\xff", {"a": "1", "naïve": "ü"}, "id", "cust_789"))
        assert (delivery.body, delivery.headers, delivery.key) == (b"\x00\xff", {"a": "1", "naïve": "ü"}, "cust_789")
        assert (delivery.position, delivery.stored_at) == ("orders@1700000000123-4", 1_700_000_000.123)
        assert (delivery.count, delivery.failed, delivery.error) == (1, 0, "")


def test_headers_named_like_our_fields_stay_headers() -> None:
    headers = {"body": "b", "_key": "k", "__x": "x", "_failed": "not a number", "_origin": "o", "_body": "bb"}
    delivery = carried(Outgoing(b"real", headers, "id"))
    assert (delivery.body, delivery.headers, delivery.key, delivery.failed) == (b"real", headers, None, 0)


def test_a_message_that_came_back_tells_its_failures_and_where_it_was_first() -> None:
    returned = foreign(b"amount", b"1", b"_failed", b"1", b"_count", b"0", b"_origin", b"orders@5-0")
    assert (returned.body, returned.failed, returned.position) == (b'{"amount":"1"}', 1, "orders@5-0")
    fields = [b"body", b"x", b"_failed", b"2", b"_count", b"3", b"_origin", b"orders@1700000000000-7", b"h", b"v"]
    delivery = delivery_of("{orders}:billing:retry", (b"1800000000000-0", 1, fields), Epoch(), None, None)
    assert (delivery.failed, delivery.count, delivery.headers) == (2, 4, {"h": "v"})
    assert (delivery.position, delivery.stored_at) == ("orders@1700000000000-7", 1_700_000_000.0)


def test_foreign_entries_are_their_fields_as_json_or_the_named_field() -> None:
    delivery = foreign(b"amount", b"12", b"name", "Zoë".encode())
    assert (delivery.body, delivery.headers) == ('{"amount":"12","name":"Zoë"}'.encode(), {})
    named = foreign(b"data", b"\xff\x00", b"kind", b"order", body_field="data")
    assert (named.body, named.headers, named.error) == (b"\xff\x00", {"kind": "order"}, "")
    assert foreign(b"other", b"1", body_field="data").body == b'{"other":"1"}'


@pytest.mark.parametrize(
    "fields",
    [
        (b"body", b"x", b"h", b"\xff"),
        (b"body", b"x", b"\xff", b"v"),
        (b"body", b"x", b"_failed", b"many"),
        (b"body", b"x", b"_key", b"\xff"),
    ],
)
def test_what_cannot_be_read_is_handed_over_with_an_error(fields: tuple[bytes, ...]) -> None:
    delivery = foreign(*fields)
    assert delivery.error
    assert delivery.body == b"x"


def test_foreign_bytes_without_a_body_are_an_error() -> None:
    assert foreign(b"blob", b"\xff\xfe").error


def test_derived_channels_have_names_of_their_own_in_the_same_hash_slot() -> None:
    keys = keys_of(Channel(name="orders"), "billing")
    assert keys == ("orders", "{orders}:due", "{orders}:billing:retry", "{orders}:billing:retry:due")
    retry = keys_of(Channel(name="orders", purpose=Purpose.RETRY, group="billing"), "billing")
    assert (retry.stream, retry.back) == (keys.back, keys.back)
    assert keys_of(Channel(name="orders", purpose=Purpose.DEAD, group="billing"), "x").stream == "{orders}:billing:dead"


def test_starts_become_the_id_before_the_first_one() -> None:
    assert (start_id(None), start_id("earliest"), start_id("latest")) == ("0", "0", "$")
    assert start_id("2023-11-14T22:13:20Z") == "1699999999999-18446744073709551615"
    for wrong in ("yesterday", "2023-11-14T22:13:20", "12"):
        with pytest.raises(AdapterError, match="start") as caught:
            start_id(wrong)
        assert caught.value.fault is Fault.CONFIG


def test_delays_are_never_shortened() -> None:
    assert (milliseconds(0.0), milliseconds(0.0001), milliseconds(1.0001), milliseconds(2.0)) == (0, 1, 1001, 2000)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", Fault.TRANSIENT),
        ("LOADING Redis is loading the dataset in memory", Fault.TRANSIENT),
        ("READONLY You can't write against a read only replica.", Fault.TRANSIENT),
        ("NOGROUP No such key 'orders'", Fault.LOST),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Fault.CONFIG),
        ("WRONGPASS invalid username-password pair or user is disabled.", Fault.CONFIG),
        ("NOPERM this user has no permissions to run the 'xadd' command", Fault.CONFIG),
        ("ERR max number of clients reached", Fault.TRANSIENT),
        ("ERR something new", Fault.LOST),
    ],
)
def test_every_error_reply_has_a_fault(text: str, fault: Fault) -> None:
    assert fault_of(ValueError(text)).fault is fault


def test_arguments_that_redis_quotes_are_cut_from_errors() -> None:
    error = fault_of(ValueError("ERR unknown command 'XADD', with args beginning with: 'orders' 'hunter2'"))
    assert error.fault is Fault.CONFIG
    assert "hunter2" not in str(error)


def test_the_script_that_redis_names_is_cut_from_errors() -> None:
    error = fault_of(
        ValueError("NOGROUP No such key 'orders' or consumer group 'a' script: f416ab, on @user_script:9.")
    )
    assert (error.fault, error.text) == (Fault.LOST, "NOGROUP No such key 'orders' or consumer group 'a'")


def test_an_envelope_carries_what_pubsub_cannot() -> None:
    delivery = opened("news", envelope(Outgoing(b"\xff", {"a": "ü"}, "id", "k")), Epoch())
    assert (delivery.body, delivery.headers, delivery.key, delivery.error) == (b"\xff", {"a": "ü"}, "k", "")


def test_a_foreign_pubsub_message_is_a_body_and_a_broken_envelope_an_error() -> None:
    assert opened("news", b'{"a": 1}', Epoch()).body == b'{"a": 1}'
    assert opened("news", b"", Epoch()).error == ""
    broken = opened("news", envelope(Outgoing(b"x", {}, "id"))[:-3], Epoch())
    assert broken.error
