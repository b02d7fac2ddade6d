"""Messages, names and faults, without a server."""

import pytest
from google.pubsub_v1.types import pubsub as types

from ductape.adapter import Channel, Delivery, Epoch, Fault, Outgoing, Purpose, Settlement, Verdict
from ductape_google_pubsub._wire import Leased, Names, delivery_of, fault_of, fill, legal, refused_ids, seconds_of

Message, Received = types.PubsubMessage.pb(), types.ReceivedMessage.pb()


def carried(record: Outgoing, *, ordered: bool = False, **more: int) -> Delivery:
    received = Received(ack_id="ack", **more)
    fill(received.message, record, ordered=ordered)
    received.message.message_id = "7"
    received.message.publish_time.seconds, received.message.publish_time.nanos = 1_700_000_000, 250_000_000
    return delivery_of(Received.FromString(received.SerializeToString()), Leased(Epoch(), 99.0, "orders.billing"))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("key", [None, "", "cust_789", "é"])
def test_body_headers_and_key_come_back_as_they_were(ordered: bool, key: str | None) -> None:
    delivery = carried(Outgoing(b"\x00\xff", {"a": "1", "naïve": "ü", "empty": ""}, "id", key), ordered=ordered)
    assert (delivery.body, delivery.key) == (b"\x00\xff", key)
    assert delivery.headers == {"a": "1", "naïve": "ü", "empty": ""}
    assert (delivery.position, delivery.stored_at, delivery.token) == ("orders.billing@7", 1_700_000_000.25, "ack")
    assert (delivery.count, delivery.leased_until) == (None, 99.0)
    assert carried(Outgoing(b"", {}, "id"), delivery_attempt=3).count == 3


def test_a_key_is_the_ordering_key_of_an_ordered_topic_only() -> None:
    message, plain = Message(), Message()
    fill(message, Outgoing(b"x", {}, "id", "k"), ordered=True)
    fill(plain, Outgoing(b"x", {}, "id", "k"), ordered=False)
    assert (message.ordering_key, dict(message.attributes)) == ("k", {})
    assert (plain.ordering_key, dict(plain.attributes)) == ("", {"ductape-key": "k"})


def test_derived_channels_have_topics_and_subscriptions_of_their_own() -> None:
    names = Names("shop", None)
    channel = Channel(name="orders", group="billing")
    dead = Channel(name="orders", purpose=Purpose.DEAD, group="billing")
    assert names.topic(channel) == "projects/shop/topics/orders"
    assert names.subscription(channel, "billing") == "projects/shop/subscriptions/orders.billing"
    assert names.topic(dead) == "projects/shop/topics/orders.billing.dead"
    assert names.subscription(dead, "billing") == "projects/shop/subscriptions/orders.billing.dead"


def test_the_configured_subscription_is_the_default_groups_and_others_stand_beside_it() -> None:
    channel = Channel(name="orders")
    names = Names("shop", "orders-sub")
    assert names.subscription(channel, "orders-sub") == "projects/shop/subscriptions/orders-sub"
    assert names.subscription(channel, "audit") == "projects/shop/subscriptions/orders-sub.audit"
    holes = Names("shop", "{env}-billing")
    assert holes.subscription(channel, "dev-billing") == "projects/shop/subscriptions/dev-billing"
    assert holes.subscription(channel, "audit") == "projects/shop/subscriptions/orders.audit"


def test_a_topic_of_another_project_keeps_its_name_and_what_is_derived_is_ours() -> None:
    names = Names("shop", None)
    channel = Channel(name="projects/other/topics/orders", group="billing")
    dead = Channel(name=channel.name, purpose=Purpose.DEAD, group="billing")
    assert names.topic(channel) == "projects/other/topics/orders"
    assert names.topic(dead) == "projects/shop/topics/orders.billing.dead"
    assert names.subscription(channel, "billing") == "projects/shop/subscriptions/orders.billing"


def test_names_that_pubsub_refuses_are_made_legal_and_stay_apart() -> None:
    assert legal("orders.new_2") == "orders.new_2"
    assert legal("3d.prints") == "ductape.3d.prints"
    assert legal("Google-events") == "ductape.Google-events"
    assert legal("ab") == "ductape.ab"
    first, second = legal("x" * 300 + "1"), legal("x" * 300 + "2")
    assert len(first) == len(second) == 255
    assert first != second


@pytest.mark.parametrize(
    ("verdict", "delay", "ordered", "seconds"),
    [
        (Verdict.RELEASE, 0.0, False, 0),
        (Verdict.RELEASE, 0.0, True, 1),  # a refusal lets later ones of the key overtake; a lapse does not
        (Verdict.RETRY, 0.0, False, 1),  # never a hot loop
        (Verdict.RETRY, 1.2, False, 2),
        (Verdict.RETRY, 60.0, False, 60),
        (Verdict.RETRY, 61.0, False, 65),  # every distinct second costs a call
        (Verdict.RETRY, 599.0, False, 600),
        (Verdict.RETRY, 9999.0, False, 600),
    ],
)
def test_what_comes_back_has_a_deadline_that_is_never_early(
    verdict: Verdict, delay: float, ordered: bool, seconds: int
) -> None:
    settlement = Settlement(Delivery(b"", {}, Epoch()), verdict, delay)
    assert seconds_of(settlement, ordered=ordered) == seconds


@pytest.mark.parametrize(
    ("code", "details", "wrote", "fault"),
    [
        ("UNAVAILABLE", "Socket closed", False, Fault.TRANSIENT),
        ("UNAVAILABLE", "Socket closed", True, Fault.AMBIGUOUS),
        ("UNAVAILABLE", "failed to connect to all addresses", True, Fault.TRANSIENT),
        (
            "UNAVAILABLE",
            "metadata from plugin failed with error: TransportError, for now",
            True,
            Fault.TRANSIENT,
        ),
        ("UNAVAILABLE", "metadata from plugin failed with error: RefreshError, refused", True, Fault.CONFIG),
        ("UNAVAILABLE", "failed to connect: CERTIFICATE_VERIFY_FAILED", True, Fault.CONFIG),
        ("NOT_FOUND", "Requested project not found or user does not have access", False, Fault.CONFIG),
        ("DEADLINE_EXCEEDED", "", True, Fault.AMBIGUOUS),
        ("DEADLINE_EXCEEDED", "", False, Fault.TRANSIENT),
        ("RESOURCE_EXHAUSTED", "quota", True, Fault.TRANSIENT),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (5 vs. 4)", True, Fault.MESSAGE),
        ("INVALID_ARGUMENT", "", True, Fault.MESSAGE),
        ("INVALID_ARGUMENT", "", False, Fault.CONFIG),
        ("PERMISSION_DENIED", "", True, Fault.CONFIG),
        ("UNAUTHENTICATED", "", False, Fault.CONFIG),
        ("NOT_FOUND", "", True, Fault.LOST),
        ("DATA_LOSS", "", False, Fault.LOST),
    ],
)
def test_every_status_has_its_meaning(code: str, details: str, wrote: bool, fault: Fault) -> None:
    assert fault_of(code, details, "projects/p/topics/t", wrote=wrote).fault is fault


def test_texts_name_place_and_code_and_show_no_payload() -> None:
    shown = str(
        fault_of("INVALID_ARGUMENT", "message body 'hunter2' does not match", "projects/p/topics/t", wrote=True)
    )
    assert "projects/p/topics/t: INVALID_ARGUMENT" in shown
    assert "hunter2" not in shown
    token = str(fault_of("UNAVAILABLE", "Getting metadata from plugin failed with error: hunter2", "t"))
    assert "hunter2" not in token
    assert "token endpoint" in token
    assert "config.project_id" in str(fault_of("NOT_FOUND", "Requested project not found (project=shop)", "t"))
    assert "roles/pubsub" in str(fault_of("PERMISSION_DENIED", "", "t"))


def test_what_an_exactly_once_subscription_refuses_is_told_apart() -> None:
    found = refused_ids(
        {"a": "TRANSIENT_FAILURE_UNORDERED_ACK_ID", "b": "PERMANENT_FAILURE_INVALID_ACK_ID", "other": "thing"}, "s"
    )
    assert {id_: error.fault for id_, error in found.items()} == {"a": Fault.TRANSIENT, "b": Fault.LOST}
