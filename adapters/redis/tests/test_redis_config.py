"""The config, without a server."""

import subprocess
import sys

import msgspec
import pytest

from ductape.adapter import AdapterError, Fault, Secret, SecretUrl
from ductape_redis import RedisAdapter, RedisConfig, Tls
from ductape_redis._config import validate


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (RedisConfig(host=""), "config.host"),
        (RedisConfig(port=0), "config.port"),
        (RedisConfig(db=-1), "config.db"),
        (RedisConfig(username="u"), "config.username"),
        (RedisConfig(url=SecretUrl("http://h")), "config.url"),
        (RedisConfig(url=SecretUrl("redis://h"), host="other"), "config.host"),
        (RedisConfig(url=SecretUrl("redis://h"), tls=True), "config.tls"),
        (RedisConfig(lease=0.0), "config.lease"),
        (RedisConfig(lease=float("nan")), "config.lease"),
        (RedisConfig(max_length=-1), "config.max_length"),
        (RedisConfig(channel=""), "config.channel"),
        (RedisConfig(mode="pubsub", body_field="data"), "config.body_field"),
        (RedisConfig(tls=Tls(key="k.pem")), "config.tls.key"),
        (RedisConfig(tls=Tls(ca="ca.pem", verify=False)), "config.tls.verify"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_path(config: RedisConfig, path: str) -> None:
    with pytest.raises(AdapterError) as caught:
        validate(config)
    assert caught.value.fault is Fault.CONFIG
    assert f"{path}:" in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        RedisConfig(),
        RedisConfig(password=Secret("p")),
        RedisConfig(url=SecretUrl("rediss://u:p@h:1/2"), tls=Tls(verify=False)),
        RedisConfig(mode="pubsub", max_length=None),
        RedisConfig(channel="orders", group="billing"),
    ],
)
def test_what_can_be_meant_is_taken(config: RedisConfig) -> None:
    validate(config)


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
