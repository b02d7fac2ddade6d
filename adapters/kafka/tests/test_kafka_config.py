"""The config, without a broker."""

import logging
import re
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from ductape import Ductape
from ductape.adapter import AdapterError, Fault, Secret
from ductape.errors import ConfigError
from ductape_kafka import KafkaAdapter, KafkaConfig, Sasl, Tls

from .conftest import site

BROKERS = ["localhost:9092"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"brokers": []}, "brokers"),
        ({"brokers": ["localhost"]}, "brokers"),
        ({"brokers": ["kafka://localhost:9092"]}, "brokers"),
        ({"brokers": ["localhost:99999"]}, "brokers"),
        ({"client_id": ""}, "client_id"),
        ({"group_id": ""}, "group_id"),
        ({"topic": ""}, "topic"),
        ({"sasl": Sasl(mechanism="plain", username="", password=Secret("p"))}, "sasl.username"),
        ({"partitions": 0}, "partitions"),
        ({"replication": 0}, "replication"),
        ({"session": 0.5}, "session"),
        ({"session": float("nan")}, "session"),
        ({"drain": 0.0}, "drain"),
        ({"drain": 60.0}, "drain"),
        ({"ssl": Tls(key="k.pem")}, "ssl.key"),
        ({"ssl": Tls(ca="ca.pem", verify=False)}, "ssl.verify"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(path)}:"):
        KafkaConfig(**{"brokers": BROKERS, **fields})


def test_secrets_are_not_in_the_representation() -> None:
    config = KafkaConfig(
        brokers=BROKERS, sasl=Sasl(mechanism="plain", username="prod-user", password=Secret("hunter2"))
    )
    assert "hunter2" not in repr(config)
    assert "prod-user" in repr(config)


def test_mechanisms_and_codecs_are_typed() -> None:
    with pytest.raises(msgspec.ValidationError, match="mechanism"):
        msgspec.convert({"mechanism": "scram256", "username": "u", "password": "p"}, type=Sasl, dec_hook=Secret)
    with pytest.raises(msgspec.ValidationError, match="compression"):
        msgspec.convert({"brokers": BROKERS, "compression": "brotli"}, type=KafkaConfig)


async def test_an_unknown_mechanism_is_named_with_those_that_are_known() -> None:
    ductape = Ductape(product="shop", env="prd")
    sasl = {"mechanism": "scram256", "username": "u", "password": "p"}
    await ductape.broker.create(
        tag="orders", envs=[{"slug": "prd", "type": "KAFKA", "config": {"brokers": BROKERS, "sasl": sasl}}]
    )
    await ductape.broker.topic.create(tag="orders:new")
    with pytest.raises(ConfigError, match=r"config\.sasl\.mechanism.*plain, scram-sha-256, scram-sha-512") as error:
        await ductape.event.publish("orders:new", {})
    assert error.value.code == "CONFIG_INVALID"
    await ductape.close()


@pytest.mark.parametrize(
    ("native", "text"),
    [
        ({"acks": 1}, "config.native.acks: ductape sets it"),
        ({"enable_auto_commit": True}, "config.native.enable_auto_commit"),
        ({"fetch_max_byte": 1}, "config.native.fetch_max_byte: neither"),
    ],
)
async def test_native_options_that_are_ours_or_nobodys_are_refused(native: dict[str, object], text: str) -> None:
    with pytest.raises(AdapterError, match=re.escape(text)) as error:
        await KafkaAdapter().connect(KafkaConfig(brokers=BROKERS, native=native), site())
    assert error.value.fault is Fault.CONFIG


async def test_a_certificate_that_cannot_be_read_is_a_config_fault() -> None:
    with pytest.raises(AdapterError, match=r"config\.ssl\.ca: '/nowhere\.pem' cannot be read") as error:
        await KafkaAdapter().connect(KafkaConfig(brokers=BROKERS, ssl=Tls(ca="/nowhere.pem")), site())
    assert error.value.fault is Fault.CONFIG


async def test_a_host_where_nobody_listens_and_one_that_is_unknown_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "aiokafka")
    for broker, text in (("127.0.0.1:9", "nobody listens there"), ("no.such.host.invalid:9092", "the name is unknown")):
        with pytest.raises(AdapterError, match=f"{re.escape(broker)} can be reached: {text}") as error:
            await KafkaAdapter().connect(KafkaConfig(brokers=[broker]), site())
        assert error.value.fault is Fault.TRANSIENT


def test_the_client_logs_nothing_beside_what_is_told() -> None:
    code = (
        "import asyncio, ductape_kafka as k\nfrom adapters.kafka.tests.conftest import site\n"
        "async def main(): await k.KafkaAdapter().connect(k.KafkaConfig(brokers=['127.0.0.1:9']), site())\n"
        "try: asyncio.run(main())\nexcept Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("nobody listens there" in done.stdout, done.stderr) == (True, "")


def test_fields_that_name_channel_and_group_are_there() -> None:
    fields = KafkaConfig.__struct_fields__
    assert {KafkaAdapter.channel_field, KafkaAdapter.group_field} <= set(fields)


def test_importing_the_package_loads_no_client() -> None:
    code = "import sys, ductape_kafka; print(sorted(m for m in sys.modules if m.split('.')[0] == 'aiokafka'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
