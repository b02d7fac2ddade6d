"""One program on every provider: the environment's name is all that differs, and what it prints is the same."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import Server

ROOT = Path(__file__).parents[1]

# Environment of examples/everywhere.toml to the fixture of its server, and to the variable that says where it is.
SERVERS: Mapping[str, tuple[str, Callable[[Any], Mapping[str, str]]]] = {
    "redis": ("redis_server", lambda server: {"REDIS_URL": server.url}),
    "kafka": ("kafka_server", lambda server: {"KAFKA_BROKERS": f"{server.host}:{server.port}"}),
    "rabbitmq": ("rabbitmq_server", lambda server: {"RABBITMQ_URL": server.url}),
    "nats": ("nats_server", lambda server: {"NATS_URL": server.url}),
    "sqs": ("sqs_server", lambda server: {"SQS_ENDPOINT": server.url}),
    "pubsub": ("pubsub_server", lambda server: {"PUBSUB_EMULATOR_HOST": f"{server.host}:{server.port}"}),
}
PRINTED = """order 1 billed at attempt 1
order 2 billed at attempt 2
order 3 billed at attempt 1
order 3 is a dead letter: exhausted after 2, LookupError: no customer 3
"""
TRACE = """checkout (this process)
  send {channel} (this process)
    process {channel} (the other process): ConnectionError
    process {channel} (the other process): ductape.Reject
    process {channel} (the other process)
"""


def run(program: str, env: str, **variables: str) -> str:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / program), env]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def on(env: str, check: Callable[[str, Mapping[str, str]], None]) -> Callable[..., None]:
    """Make the test of a check on one provider; it asks for the fixture of that server alone."""
    fixture, variables = SERVERS[env]

    @pytest.mark.usefixtures(fixture)
    @pytest.mark.timeout(120)
    def test(request: pytest.FixtureRequest) -> None:
        server: Server = request.getfixturevalue(fixture)
        check(env, variables(server))

    return test


@pytest.mark.parametrize("env", ["memory", "sqlite"])
def test_the_program_without_a_server(env: str, tmp_path: Path) -> None:
    assert run("everywhere.py", env, SQLITE_PATH=str(tmp_path / "broker.db")) == PRINTED


def verbs(traced: str) -> str:
    """The trace in the words of a provider without words of its own."""
    for own in ("publish", "consume", "subscribe"):
        traced = traced.replace(f" {own} ", " process " if own != "publish" else " send ")
    return traced


def test_two_processes_have_one_trace_through_retry_dead_letter_and_replay_over_a_file() -> None:
    assert run("traced.py", "sqlite") == TRACE.format(channel="orders.traced")


def check_program(env: str, variables: Mapping[str, str]) -> None:
    assert run("everywhere.py", env, **variables) == PRINTED


def check_trace(env: str, variables: Mapping[str, str]) -> None:
    printed = verbs(run("traced.py", env, **variables))
    assert printed == TRACE.format(channel=printed.split()[4])


for _env in SERVERS:
    globals()[f"test_the_program_on_{_env}"] = on(_env, check_program)
    globals()[f"test_two_processes_have_one_trace_through_retry_dead_letter_and_replay_on_{_env}"] = on(
        _env, check_trace
    )
