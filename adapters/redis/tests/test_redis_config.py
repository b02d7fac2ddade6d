"""The config, without a server."""

import re
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from ductape.adapter import Secret, SecretUrl
from ductape_redis import RedisAdapter, RedisConfig, Tls


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"host": ""}, "host"),
        ({"port": 0}, "port"),
        ({"db": -1}, "db"),
        ({"username": "u"}, "username"),
        ({"url": SecretUrl("http://h")}, "url"),
        ({"url": SecretUrl("redis://h"), "host": "other"}, "host"),
        ({"url": SecretUrl("redis://h"), "tls": True}, "tls"),
        ({"lease": 0.0}, "lease"),
        ({"lease": float("nan")}, "lease"),
        ({"max_length": -1}, "max_length"),
        ({"channel": ""}, "channel"),
        ({"mode": "pubsub", "body_field": "data"}, "body_field"),
        ({"tls": Tls(key="k.pem")}, "tls.key"),
        ({"tls": Tls(ca="ca.pem", verify=False)}, "tls.verify"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(path)}:"):
        RedisConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"password": Secret("p")},
        {"url": SecretUrl("rediss://u:p@h:1/2"), "tls": Tls(verify=False)},
        {"mode": "pubsub", "max_length": None},
        {"channel": "orders", "group": "billing"},
    ],
)
def test_what_can_be_meant_is_taken(fields: dict[str, Any]) -> None:
    assert RedisConfig(**fields) == RedisConfig(**fields)


def test_secrets_are_not_in_the_representation() -> None:
    config = RedisConfig(password=Secret("hunter2"), url=SecretUrl("redis://user:hunter2@host/0"))
    assert "hunter2" not in repr(config)
    assert "host" in repr(config)


def test_modes_are_typed() -> None:
    with pytest.raises(msgspec.ValidationError, match="mode"):
        msgspec.convert({"mode": "list"}, type=RedisConfig)


def test_fields_that_name_channel_and_group_are_there() -> None:
    fields = RedisConfig.__struct_fields__
    assert {RedisAdapter.channel_field, RedisAdapter.group_field} <= set(fields)


def test_importing_the_package_loads_no_client() -> None:
    code = "import sys, ductape_redis; print(sorted(m for m in sys.modules if m.split('.')[0] in ('redis', 'hiredis')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
