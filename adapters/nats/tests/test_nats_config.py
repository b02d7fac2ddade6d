"""The config, without a server."""

import re
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from ductape.adapter import Secret
from ductape_nats import NatsAdapter, NatsConfig, Tls


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"servers": ""}, "servers"),
        ({"servers": []}, "servers"),
        ({"servers": "http://h"}, "servers"),
        ({"servers": ["nats://h", "ws://h"]}, "servers"),
        ({"user": "u"}, "pass"),
        ({"password": Secret("p")}, "user"),
        ({"token": Secret("")}, "token"),
        ({"user": "u", "password": Secret("p"), "token": Secret("t")}, "token"),
        ({"token": Secret("t"), "creds": "app.creds"}, "creds"),
        ({"lease": 0.0}, "lease"),
        ({"lease": float("nan")}, "lease"),
        ({"replicas": 0}, "replicas"),
        ({"max_age": 0.5}, "max_age"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"reconnect_time_wait": -1}, "reconnect_time_wait"),
        ({"subject": ""}, "subject"),
        ({"tls": Tls(key="k.pem")}, "tls.key"),
        ({"tls": Tls(ca="ca.pem", verify=False)}, "tls.verify"),
        ({"native": {"allow_reconnect": True}}, "native.allow_reconnect"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(path)}:"):
        NatsConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"servers": "a, nats://b:4223,tls://c"},
        {"servers": ["a:4222", "b:4222"], "user": "u", "password": Secret("p")},
        {"token": Secret("t"), "tls": Tls(verify=False)},
        {"creds": "app.creds", "mode": "core", "max_reconnect_attempts": 0},
        {"subject": "orders", "group": "billing", "native": {"inbox_prefix": "_INBOX.app"}},
    ],
)
def test_what_can_be_meant_is_taken(fields: dict[str, Any]) -> None:
    assert NatsConfig(**fields) == NatsConfig(**fields)


def test_servers_are_a_list_or_separated_by_commas() -> None:
    assert NatsConfig(servers="a, nats://b:4223 ,").urls() == ["a", "nats://b:4223"]
    assert NatsConfig(servers=["a,b", "c"]).urls() == ["a", "b", "c"]


def test_the_missions_names_are_read() -> None:
    given = {"servers": ["h:4222"], "user": "u", "pass": "hunter2", "max_reconnect_attempts": 10}
    config = msgspec.convert(given, type=NatsConfig, dec_hook=lambda kind, value: kind(value))
    assert config.password == Secret("hunter2")
    assert config.max_reconnect_attempts == 10


def test_secrets_are_not_in_the_representation() -> None:
    config = NatsConfig(servers=["nats://user:hunter2@host", "nats://hunter2@other"], token=Secret("hunter2"))
    assert "hunter2" not in repr(config)
    assert "host" in repr(config)


def test_modes_are_typed() -> None:
    with pytest.raises(msgspec.ValidationError, match="mode"):
        msgspec.convert({"mode": "push"}, type=NatsConfig)


def test_fields_that_name_channel_and_group_are_there() -> None:
    fields = NatsConfig.__struct_fields__
    assert {NatsAdapter.channel_field, NatsAdapter.group_field} <= set(fields)


def test_importing_the_package_loads_no_client() -> None:
    code = "import sys, ductape_nats; print(sorted(m for m in sys.modules if m.split('.')[0] in ('nats', 'nkeys')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
