"""TLS and SASL, on a broker that requires them, with certificates of our own; the mission's page on it."""

import asyncio
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from ductape import Ductape
from ductape.adapter import AdapterError, Channel, Fault, Intake, Outgoing, Secret, Settlement, Stored, Verdict
from ductape.errors import MessageTooLarge, OpenError, PublishError
from ductape.types import MessageBrokerTypes
from ductape_kafka import KafkaAdapter, KafkaConfig, Sasl, Tls
from tests.brokers.kafka import Kafka
from tests.brokers.server import Unavailable
from tests.contract import take

from .conftest import site

# The first test starts the broker.
pytestmark = [
    pytest.mark.broker,
    pytest.mark.xdist_group("kafka_secure"),
    pytest.mark.timeout(180),
    # aiokafka's close does not wait for the end of TLS, a round trip: a loop that ends sooner leaves the transport.
    pytest.mark.filterwarnings("ignore:.*unclosed transport:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PASSWORD = "correct horse"
_LOGIN = "org.apache.kafka.common.security"


class Secured:
    """A broker, and the files that its clients need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority, stranger = trustme.CA(), trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        stranger.cert_pem.write_to_path(folder / "stranger.pem")
        client = authority.issue_cert("client@example.com")
        client.private_key_pem.write_to_path(folder / "client.key")
        client.cert_chain_pems[0].write_to_path(folder / "client.pem")
        broker = authority.issue_cert("localhost", "127.0.0.1")
        key = load_pem_private_key(broker.private_key_pem.bytes(), None)
        store = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + broker.cert_chain_pems[0].bytes()
        (folder / "broker.pem").write_bytes(store)
        self.broker = Kafka(
            {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(folder / "broker.pem"),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(folder / "ca.pem"),
                "listener.name.mutual.ssl.client.auth": "required",
                "listener.name.secure.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
                "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-256",
                **{
                    f"listener.name.{name}.{mechanism}.sasl.jaas.config": f"{_LOGIN}.scram.ScramLoginModule required;"
                    for name in ("secure", "scram")
                    for mechanism in ("scram-sha-256", "scram-sha-512")
                },
                "listener.name.secure.plain.sasl.jaas.config": f"{_LOGIN}.plain.PlainLoginModule required "
                f'user_alice="{PASSWORD}";',
            },
            {"SECURE": "SASL_SSL", "MUTUAL": "SSL", "SCRAM": "SASL_PLAINTEXT"},
            tuple(f"{kind}=[name=alice,password={PASSWORD}]" for kind in ("SCRAM-SHA-256", "SCRAM-SHA-512")),
        )

    def config(self, listener: str, **fields: object) -> KafkaConfig:
        address = f"127.0.0.1:{self.broker.ports[listener]}"
        return KafkaConfig(brokers=[address], partitions=1, **fields)  # type: ignore[arg-type]  # tests name them

    def tls(self, ca: str = "ca.pem", **fields: str) -> Tls:
        return Tls(ca=str(self.folder / ca), **{name: str(self.folder / path) for name, path in fields.items()})


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    if os.environ.get(Kafka.variable):
        pytest.skip(f"{Kafka.variable} names a broker that has none of our users")
    secured = Secured(tmp_path_factory.mktemp("tls"))
    try:
        secured.broker.start()
    except Unavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no server: kafka: {error}")
    yield secured
    secured.broker.stop()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "aiokafka")


async def there_and_back(config: KafkaConfig, name: str) -> None:
    connection = await KafkaAdapter().connect(config, site())
    try:
        channel = Channel(name=name, group="billing")
        await connection.declare(channel)
        (stored,) = await (await connection.sender(channel)).send([Outgoing(b"x", {}, "id")])
        assert isinstance(stored, Stored)
        receiver = await connection.receiver(channel, Intake(group="billing", window=10))
        (one,) = await take(receiver, 1)
        assert list(await receiver.settle([Settlement(one, Verdict.ACK)])) == [None]
    finally:
        await connection.close()


@pytest.mark.parametrize("mechanism", ["plain", "scram-sha-256", "scram-sha-512"])
async def test_every_mechanism_works_over_tls(secured: Secured, mechanism: str) -> None:
    sasl = Sasl(mechanism=mechanism, username="alice", password=Secret(PASSWORD))  # type: ignore[arg-type]
    await there_and_back(secured.config("SECURE", ssl=secured.tls(), sasl=sasl), f"sasl-{mechanism}")


async def test_a_client_certificate_is_shown_where_one_is_wanted(secured: Secured) -> None:
    tls = secured.tls(cert="client.pem", key="client.key")
    await there_and_back(secured.config("MUTUAL", ssl=tls), "mutual")


async def refused(config: KafkaConfig) -> AdapterError:
    with pytest.raises(AdapterError) as error:
        await KafkaAdapter().connect(config, site())
    assert PASSWORD not in str(error.value)
    assert "wrong horse" not in str(error.value)
    return error.value


@pytest.mark.parametrize("mechanism", ["plain", "scram-sha-256"])
async def test_a_wrong_password_is_told(secured: Secured, mechanism: str) -> None:
    sasl = Sasl(mechanism=mechanism, username="alice", password=Secret("wrong horse"))  # type: ignore[arg-type]
    error = await refused(secured.config("SECURE", ssl=secured.tls(), sasl=sasl))
    assert error.fault is Fault.CONFIG
    assert "refuses config.sasl: check username, password and mechanism" in error.text


async def test_a_mechanism_that_the_broker_does_not_offer_is_told(secured: Secured) -> None:
    sasl = Sasl(mechanism="plain", username="alice", password=Secret(PASSWORD))
    error = await refused(secured.config("SCRAM", sasl=sasl))
    assert (error.fault, "does not offer config.sasl.mechanism" in error.text) == (Fault.CONFIG, True)


async def test_a_certificate_of_a_stranger_is_told(secured: Secured) -> None:
    sasl = Sasl(mechanism="plain", username="alice", password=Secret(PASSWORD))
    error = await refused(secured.config("SECURE", ssl=secured.tls("stranger.pem"), sasl=sasl))
    assert (error.fault, "is not trusted" in error.text, "config.ssl.ca" in error.text) == (Fault.CONFIG, True, True)


async def test_tls_on_a_port_that_has_none_is_told(secured: Secured) -> None:
    sasl = Sasl(mechanism="scram-sha-256", username="alice", password=Secret(PASSWORD))
    error = await refused(secured.config("SCRAM", ssl=secured.tls(), sasl=sasl))
    assert "config.ssl" in error.text


async def test_no_tls_on_a_port_that_wants_it_is_told(secured: Secured) -> None:
    error = await refused(secured.config("MUTUAL"))
    assert "if the port is for TLS, set config.ssl" in error.text


def environment(secured: Secured, **more: Any) -> Any:
    config: Mapping[str, Any] = {
        "brokers": [f"127.0.0.1:{secured.broker.ports['SECURE']}"],
        "clientId": "order-service",
        "groupId": "order-consumers",
        "topic": f"orders{secrets.token_hex(4)}",
        "ssl": {"ca": str(secured.folder / "ca.pem")},
        "sasl": {"mechanism": "scram-sha-256", "username": "alice", "password": "${KAFKA_PASSWORD}"},
    }
    return {"slug": "prd", "type": MessageBrokerTypes.KAFKA, "config": {**config, **more}}


async def client(secured: Secured, **more: Any) -> Ductape:
    ductape = Ductape(product="my-product", env="prd")
    await ductape.broker.create({
        "name": "Order Events", "tag": "order-events", "description": "Handles all order-related messages",
        "envs": [environment(secured, **more)],
    })  # fmt: skip
    await ductape.broker.topic.create(
        name="New Orders", message_broker_tag="order-events", tag="order-events:new-orders",
        sample={"orderId": "12345", "total": 99.99},
    )  # fmt: skip
    return ductape


async def test_the_missions_page_on_kafka(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    seen: asyncio.Queue[Any] = asyncio.Queue()
    async with await client(secured) as ductape:
        subscription = await ductape.event.subscribe(
            {"env": "prd", "product": "my-product", "event": "order-events:new-orders", "callback": seen.put}
        )
        assert "order-consumers" in repr(subscription)
        await ductape.event.publish({
            "event": "order-events:new-orders", "message": {"orderId": "12345"},
            "session": {"tag": "user-session", "token": "eyJ"},
        })  # fmt: skip
        assert await asyncio.wait_for(seen.get(), 20) == {"orderId": "12345"}
        with pytest.raises(MessageTooLarge, match="bytes, and the channel takes"):
            await ductape.event.publish("order-events:new-orders", {"orderId": "1" * 2_000_000})


async def test_what_an_operator_has_to_mend_is_told_when_it_opens(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong horse")
    async with await client(secured) as ductape:
        with pytest.raises(PublishError, match=r"refuses config\.sasl: check username, password and mech") as error:
            await ductape.event.publish("order-events:new-orders", {})
        assert error.value.stored == "no"
        assert "wrong horse" not in str(error.value)
        with pytest.raises(OpenError, match=r"refuses config\.sasl"):
            await ductape.event.subscribe("order-events:new-orders", callback=lambda message: None)


async def test_a_missing_topic_that_may_not_be_created_is_told_when_it_opens(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    ductape = Ductape(product="my-product", env="prd")
    await ductape.broker.create(tag="order-events", envs=[environment(secured) | {"create": False}])
    await ductape.broker.topic.create(tag="order-events:new-orders")
    async with ductape:
        with pytest.raises(PublishError, match="is missing, and may not be created here") as error:
            await ductape.event.publish("order-events:new-orders", {})
        assert error.value.stored == "no"
        with pytest.raises(OpenError, match="is missing, and may not be created here"):
            await ductape.event.subscribe("order-events:new-orders", callback=lambda message: None)
