"""The config, without a server."""

import re
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from ductape.adapter import Secret
from ductape_sqs import SqsAdapter, SqsConfig


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"access_key_id": "a"}, "secret_access_key"),
        ({"secret_access_key": Secret("s")}, "access_key_id"),
        ({"access_key_id": "", "secret_access_key": Secret("s")}, "access_key_id"),
        ({"session_token": Secret("t")}, "session_token"),
        ({"region": ""}, "region"),
        ({"region": "EU West"}, "region"),
        ({"endpoint": "localhost:9324"}, "endpoint"),
        ({"endpoint": "http://user:secret@localhost"}, "endpoint"),
        ({"queue": "orders.new"}, "queue"),
        ({"queue": ""}, "queue"),
        ({"queue": "orders.fifo", "fifo": True}, "fifo"),
        ({"poll": 0}, "poll"),
        ({"poll": 20}, "poll"),
        ({"lease": 4}, "lease"),
        ({"lease": 50_000}, "lease"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(path)}:"):
        SqsConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"region": "us-east-1", "access_key_id": "a", "secret_access_key": Secret("s"), "session_token": Secret("t")},
        {"endpoint": "http://localhost:9324"},
        {"endpoint": "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/"},
        {"queue": "{env}-orders.fifo"},
        {"fifo": True, "lease": 2, "poll": 1},
    ],
)
def test_what_can_be_meant_is_taken(fields: dict[str, Any]) -> None:
    assert SqsConfig(**fields) == SqsConfig(**fields)


def test_secrets_are_not_in_the_representation() -> None:
    config = SqsConfig(
        access_key_id="AKIA", secret_access_key=Secret("hunter2"), session_token=Secret("hunter3"), region="eu-west-1"
    )
    assert "hunter" not in repr(config)
    assert "eu-west-1" in repr(config)


def test_types_are_checked() -> None:
    with pytest.raises(msgspec.ValidationError, match="lease"):
        msgspec.convert({"lease": "long"}, type=SqsConfig)


def test_fields_that_name_channel_and_group_are_there() -> None:
    fields = SqsConfig.__struct_fields__
    assert {SqsAdapter.channel_field, SqsAdapter.group_field} <= set(fields)


def test_importing_the_package_loads_no_client() -> None:
    clients = "('aiobotocore', 'botocore', 'aiohttp')"
    code = f"import sys, ductape_sqs; print(sorted(m for m in sys.modules if m.split('.')[0] in {clients}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
