"""The config and the credentials, without a server."""

import asyncio
import http.server
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ductape.adapter import AdapterError, Fault
from ductape_google_pubsub import GooglePubSubAdapter, GooglePubSubConfig
from tests.brokers.server import free_port

from .conftest import key_file, site


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"project_id": ""}, "project_id"),
        ({"project_id": "projects/shop"}, "project_id"),
        ({"topic_name": ""}, "topic_name"),
        ({"topic_name": "topics/orders"}, "topic_name"),
        ({"topic_name": "projects//topics/orders"}, "topic_name"),
        ({"subscription_name": "projects/p/subscriptions/s"}, "subscription_name"),
        ({"key_filename": ""}, "key_filename"),
        ({"emulator_host": "http://localhost:8085"}, "emulator_host"),
        ({"emulator_host": "localhost"}, "emulator_host"),
        ({"emulator_host": "localhost:1", "key_filename": "key.json"}, "key_filename"),
        ({"endpoint": "https://pubsub.googleapis.com"}, "endpoint"),
        ({"lease": 0}, "lease"),
        ({"lease": 601}, "lease"),
        ({"poll": 4.0}, "poll"),
        ({"poll": float("nan")}, "poll"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(path)}:"):
        GooglePubSubConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"project_id": "shop", "topic_name": "orders", "subscription_name": "billing", "key_filename": "key.json"},
        {"topic_name": "projects/other/topics/orders"},
        {"emulator_host": "localhost:8085", "native": {"grpc.keepalive_time_ms": 10_000}},
        {"endpoint": "europe-west1-pubsub.googleapis.com:443", "exactly_once": True},
    ],
)
def test_what_can_be_meant_is_taken(fields: dict[str, Any]) -> None:
    assert GooglePubSubConfig(**fields) == GooglePubSubConfig(**fields)


def test_fields_that_name_channel_and_group_are_there() -> None:
    fields = GooglePubSubConfig.__struct_fields__
    assert {GooglePubSubAdapter.channel_field, GooglePubSubAdapter.group_field} <= set(fields)


def test_importing_the_package_loads_no_client() -> None:
    code = "import sys, ductape_google_pubsub; print([m for m in sys.modules if m.split('.')[0] in ('grpc', 'google')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Some distributions of Google's announce their namespace when Python starts: that loads nothing.
    assert set(eval(done.stdout)) <= {"google", "google.cloud"}


# ---------------------------------------------------------------- credentials


async def refused(**fields: Any) -> AdapterError:
    with pytest.raises(AdapterError) as refused:
        await GooglePubSubAdapter().connect(GooglePubSubConfig(**fields), site())
    return refused.value


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own: no emulator, no project, no credentials, no metadata server."""
    for name in ("PUBSUB_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


TokenServer = tuple[str, list[bytes]]
"""Its address, and what it was asked."""


@pytest.fixture
def token_server() -> Iterator[TokenServer]:
    """Refuses every assertion, as Google does for a key that was deleted."""
    asked: list[bytes] = []

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["content-length"])))
            body = json.dumps({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}).encode()
            self.send_response(400)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/token", asked
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    error = await refused(key_filename=str(tmp_path / "none.json"))
    assert error.fault is Fault.CONFIG
    assert "config.key_filename: cannot be read: No such file" in str(error)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not json", "is not JSON"),
        ("[]", "is not JSON"),
        ('{"type": "authorized_user", "refresh_token": "hunter2"}', "is not the key of a service account"),
        ('{"type": "service_account", "private_key": "hunter2"}', "no whole key of a service account"),
    ],
)
async def test_a_foreign_key_file_is_told_apart_and_not_shown(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text(text)
    error = await refused(key_filename=str(path))
    assert error.fault is Fault.CONFIG
    assert told in str(error)
    assert "hunter2" not in str(error)
    assert error.__cause__ is None


async def test_a_key_that_google_refuses_is_a_config_fault(tmp_path: Path, token_server: TokenServer) -> None:
    uri, asked = token_server
    error = await refused(key_filename=key_file(tmp_path, token_uri=uri))
    assert (error.fault, len(asked)) == (Fault.CONFIG, 1)
    assert "config.key_filename: no token (RefreshError): the key was deleted, or is another's" in str(error)


async def test_a_token_server_that_is_away_is_transient(tmp_path: Path) -> None:
    error = await refused(key_filename=key_file(tmp_path, token_uri=f"http://127.0.0.1:{free_port()}/token"))
    assert error.fault is Fault.TRANSIENT
    assert "the token endpoint cannot be reached" in str(error)


async def test_a_token_server_that_is_silent_is_given_up_and_leaves_no_thread_waiting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/token"
        began = time.monotonic()
        error = await refused(key_filename=key_file(tmp_path, token_uri=uri))
        assert time.monotonic() - began < 8.0
    assert error.fault is Fault.TRANSIENT
    assert "TransportError" in str(error), "the library gave up, and not only we who wait for its thread"


def test_a_token_that_cannot_be_had_later_is_told_by_class_alone() -> None:
    from google.auth.exceptions import RefreshError, TransportError

    from ductape_google_pubsub._access import Login

    told: list[str] = []
    for error in (RefreshError("hunter2"), RefreshError("hunter2", retryable=True), TransportError("hunter2")):
        Login(_Failing(error), None)(_Context(), lambda _, error: told.append(str(error)))
    assert told == ["RefreshError, refused", "RefreshError, for now", "TransportError, for now"]


class _Context:
    method_name, service_url = "Publish", "https://pubsub.googleapis.com"


class _Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def before_request(self, *_: object) -> None:
        raise self.error


async def test_without_any_credentials_the_ways_to_have_some_are_told() -> None:
    error = await refused(project_id="shop")
    assert error.fault is Fault.CONFIG
    for way in ("key_filename", "GOOGLE_APPLICATION_CREDENTIALS", "gcloud auth", "emulator_host"):
        assert way in str(error)


async def test_a_missing_project_is_named() -> None:
    error = await refused(emulator_host="127.0.0.1:1")
    assert error.fault is Fault.CONFIG
    assert "config.project_id" in str(error)


async def test_the_service_takes_no_lease_below_ten_seconds() -> None:
    error = await refused(project_id="shop", lease=5)
    assert error.fault is Fault.CONFIG
    assert "config.lease" in str(error)


async def test_a_channel_option_that_grpc_refuses_is_named() -> None:
    native: Any = {"grpc.keepalive_time_ms": object()}
    error = await refused(project_id="shop", emulator_host="127.0.0.1:1", native=native)
    assert error.fault is Fault.CONFIG
    assert "config.native" in str(error)


async def test_a_wrong_host_is_transient_and_named() -> None:
    async with asyncio.timeout(9):
        error = await refused(project_id="shop", emulator_host=f"127.0.0.1:{free_port()}")
    assert error.fault is Fault.TRANSIENT
    assert "cannot be reached" in str(error)


async def test_the_variable_of_the_emulator_is_read_once_and_a_key_file_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token_server: TokenServer
) -> None:
    port = free_port()
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{port}")
    assert (await refused(project_id="shop")).fault is Fault.TRANSIENT
    uri, asked = token_server
    await refused(key_filename=key_file(tmp_path, token_uri=uri))
    assert len(asked) == 1
