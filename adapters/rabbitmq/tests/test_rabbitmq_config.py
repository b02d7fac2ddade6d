"""The config, without a server."""

import re
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from ductape.adapter import Secret, SecretUrl
from ductape_rabbitmq import RabbitMQAdapter, RabbitMQConfig, Tls


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"host": ""}, "host"),
        ({"port": 0}, "port"),
        ({"vhost": ""}, "vhost"),
        ({"username": ""}, "username"),
        ({"url": SecretUrl("http://h")}, "url"),
        ({"url": SecretUrl("amqp://h:port")}, "url"),
        ({"url": SecretUrl("amqp:///")}, "url"),
        ({"url": SecretUrl("amqp://h"), "host": "other"}, "host"),
        ({"url": SecretUrl("amqp://h"), "vhost": "other"}, "vhost"),
        ({"url": SecretUrl("amqp://h"), "tls": True}, "tls"),
        ({"exchange": ""}, "exchange"),
        ({"routing_key": ""}, "routing_key"),
        ({"queue": ""}, "queue"),
        ({"queue": "amq.mine"}, "queue"),
        ({"queue": "q" * 201}, "queue"),
        ({"queue": "größe"}, "queue"),
        ({"exchange": "a|b"}, "exchange"),
        ({"exchange": "e" * 128}, "exchange"),
        ({"vhost": "v" * 128}, "vhost"),
        ({"url": SecretUrl(f"amqp://h/{'v' * 128}")}, "url"),
        ({"consumer_timeout": 0.5}, "consumer_timeout"),
        ({"consumer_timeout": float("nan")}, "consumer_timeout"),
        ({"max_message_size": 0}, "max_message_size"),
        ({"tls": Tls(key="k.pem")}, "tls.key"),
        ({"tls": Tls(ca="ca.pem", verify=False)}, "tls.verify"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(path)}:"):
        RabbitMQConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"host": "h", "port": 1, "username": "u", "password": Secret("p"), "queue": "q", "routing_key": "orders"},
        {"url": SecretUrl("amqps://u:p@h:1/v"), "tls": Tls(verify=False)},
        {"queue_type": "classic", "exchange": "events", "vhost": "team/a"},
    ],
)
def test_what_can_be_meant_is_taken(fields: dict[str, Any]) -> None:
    assert RabbitMQConfig(**fields) == RabbitMQConfig(**fields)


def test_secrets_are_not_in_the_representation() -> None:
    config = RabbitMQConfig(password=Secret("hunter2"), url=SecretUrl("amqp://user:hunter2@host/"))
    assert "hunter2" not in repr(config)
    assert "host" in repr(config)


def test_queue_types_are_typed() -> None:
    with pytest.raises(msgspec.ValidationError, match="queue_type"):
        msgspec.convert({"queue_type": "stream"}, type=RabbitMQConfig)


def test_fields_that_name_channel_and_group_are_there() -> None:
    fields = RabbitMQConfig.__struct_fields__
    assert {RabbitMQAdapter.channel_field, RabbitMQAdapter.group_field} <= set(fields)


def test_importing_the_package_loads_no_client() -> None:
    clients = "('aio_pika', 'aiormq', 'pamqp')"
    code = f"import sys, ductape_rabbitmq; print(sorted(m for m in sys.modules if m.split('.')[0] in {clients}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
