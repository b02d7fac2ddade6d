"""Configs: spellings, variables, types, and errors that name the place and no secret."""

from __future__ import annotations

import enum
import itertools
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from ductape._config import expand, read_config, snake
from ductape._secrets import Secret, SecretUrl
from ductape.errors import ConfigError

WHERE = "broker 'order-events', env 'prd'"


class Acks(enum.Enum):
    NONE = "none"
    ALL = "all"


class Sasl(msgspec.Struct, frozen=True, kw_only=True):
    mechanism: Literal["plain", "scram-sha-256", "scram-sha-512"]
    username: str = ""
    password: Secret | None = None


class Node(msgspec.Struct, frozen=True, kw_only=True):
    host_name: str
    port: int = 1


class Config(msgspec.Struct, frozen=True, kw_only=True):
    brokers: tuple[str, ...] = ()
    client_id: str = ""
    ssl: bool | Node = False
    sasl: Sasl | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 9092
    wait: float | None = None
    flag: bool | int = False
    label: str | int = ""
    servers: str | list[str] = ""
    url: SecretUrl | None = None
    token: Secret | None = None
    keys: dict[str, Secret] = {}
    limits: dict[str, int] = {}
    nodes: list[Node] = []
    acks: Acks = Acks.ALL
    file: Path | None = None
    pass_: str = msgspec.field(name="pass", default="")
    native: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.client_id and self.label == "refuse":
            raise ValueError(f"label and client_id {self.client_id} exclude each other")


def config(raw: Mapping[str, object], **environ: str) -> Config:
    return read_config(raw, Config, where=WHERE, environ=environ)


def refusal(raw: Any, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config(raw, **environ)
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown
    assert "hunter2" not in repr(caught.value.fields)
    return str(caught.value).replace(f"{WHERE}, ", "")


class TestSpelling:
    def test_both_spellings_at_every_level(self) -> None:
        camel = config({"clientId": "a", "nodes": [{"hostName": "h"}], "ssl": {"hostName": "s"}})
        assert camel == config({"client_id": "a", "nodes": [{"host_name": "h"}], "ssl": {"host_name": "s"}})

    @pytest.mark.parametrize(
        ("camel", "expected"),
        [
            ("clientId", "client_id"),
            ("queueURL", "queue_url"),
            ("accessKeyID", "access_key_id"),
            ("SSLContext", "ssl_context"),
            ("sha256Sum", "sha256_sum"),
            ("plain", "plain"),
        ],
    )
    def test_camel_case_becomes_snake_case(self, camel: str, expected: str) -> None:
        assert snake(camel) == expected

    def test_a_field_named_like_a_keyword_is_written_without_its_underscore(self) -> None:
        assert config({"pass": "x"}).pass_ == "x"

    def test_what_is_native_stays_as_it_is(self) -> None:
        marker = object()
        native = {"maxInFlight": (1, 2), "hook": marker, "acks": Acks.ALL, "deep": {"a": [{"bC": 4}]}}
        assert config({"native": native}).native == native

    def test_an_unknown_key_is_refused_with_the_nearest(self) -> None:
        assert refusal({"clinetId": "x"}) == (
            "CONFIG_INVALID: config: unknown key 'clinetId'. Did you mean 'client_id'?"
        )
        assert refusal({"sasl": {"mechanism": "plain", "pasword": "hunter2"}}) == (
            "CONFIG_INVALID: config.sasl: unknown key 'pasword'. Did you mean 'password'?"
        )

    def test_an_unknown_key_with_nothing_near_lists_what_is_known(self) -> None:
        assert refusal({"nodes": [{"xyzzy": 1}]}) == (
            "CONFIG_INVALID: config.nodes[0]: unknown key 'xyzzy'. Known: host_name, port."
        )

    def test_a_key_that_is_no_string_is_refused(self) -> None:
        assert "unknown key 3." in refusal({3: 1})

    def test_one_field_in_two_spellings_is_refused(self) -> None:
        assert "config.client_id: is there twice" in refusal({"clientId": "a", "client_id": "b"})


class TestTypes:
    def test_a_choice_names_the_path_and_the_possible_values(self) -> None:
        with pytest.raises(ConfigError) as caught:
            config({"sasl": {"mechanism": "scram256"}})
        assert str(caught.value) == (
            "CONFIG_INVALID: broker 'order-events', env 'prd', config.sasl.mechanism: "
            "'scram256' is not one of plain, scram-sha-256, scram-sha-512."
        )
        assert caught.value.fields["path"] == "config.sasl.mechanism"

    @pytest.mark.parametrize(
        ("raw", "told"),
        [
            ({"port": "9092"}, "config.port: expected an integer, got a string."),
            ({"port": 0}, "config.port: expected an integer >= 1."),
            ({"brokers": "a"}, "config.brokers: expected a list, got a string."),
            ({"brokers": ["a", 1]}, "config.brokers[1]: expected a string, got an integer."),
            ({"ssl": "yes"}, "config.ssl: expected true or false or a mapping, got a string."),
            ({"sasl": []}, "config.sasl: expected a mapping or nothing, got a list."),
            ({"sasl": {}}, "config.sasl.mechanism: required, but missing."),
            ({"acks": "some"}, "config.acks: 'some' is not one of none, all."),
            ({"limits": {"a": 1, "b": "x"}}, "config.limits.b: expected an integer, got a string."),
            ({"nodes": [{"hostName": 3}]}, "config.nodes[0].hostName: expected a string, got an integer."),
            ({"token": 3}, "config.token: expected a string, got an integer."),
            ({"native": 3}, "config.native: expected a mapping, got an integer."),
            ("text", "config: expected a mapping, got a string."),
        ],
    )
    def test_a_wrong_type_names_the_path_as_written(self, raw: object, told: str) -> None:
        assert refusal(raw) == f"CONFIG_INVALID: {told}"

    def test_what_a_record_says_about_itself_is_told(self) -> None:
        raw = {"client_id": "a", "label": "refuse"}
        assert refusal(raw) == "CONFIG_INVALID: config: label and client_id a exclude each other."

    def test_other_types_are_built_from_a_string(self) -> None:
        assert config({"file": "a/b"}).file == Path("a/b")
        assert config({"file": Path("a/b")}).file == Path("a/b")


class TestVariables:
    def test_they_are_read_in_any_string_at_any_depth(self) -> None:
        raw = {"brokers": ["${HOST}:1"], "native": {"a": [{"b": "x-${HOST}-${NONE:-d}"}]}}
        read = config(raw, HOST="h")
        assert read.brokers == ("h:1",)
        assert read.native == {"a": [{"b": "x-h-d"}]}

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("$${HOST}", "${HOST}"),
            ("a$$b$c", "a$b$c"),
            ("${EMPTY}", ""),
            ("${EMPTY:-d}", "d"),
            ("${NONE:-}", ""),
            ("${HOST}${HOST}", "hh"),
            ("${RAW}", "${HOST}$$"),
        ],
    )
    def test_the_grammar(self, text: str, value: str) -> None:
        assert expand(text, where="x", environ={"HOST": "h", "EMPTY": "", "RAW": "${HOST}$$"}) == value

    def test_a_missing_one_is_named_with_its_path(self) -> None:
        assert refusal({"sasl": {"mechanism": "plain", "password": "${KAFKA_PASSWORD}"}}) == (
            "VARIABLE_MISSING: config.sasl.password: the environment variable KAFKA_PASSWORD is not set. "
            "Set it, or write ${KAFKA_PASSWORD:-default}."
        )

    @pytest.mark.parametrize("text", ["${", "${1A}", "${A", "${A:-${B}}", "${A-b}"])
    def test_a_malformed_one_is_refused(self, text: str) -> None:
        assert refusal({"client_id": text}, A="hunter2").startswith("CONFIG_INVALID: config.client_id: a variable is")

    def test_their_text_becomes_what_the_field_wants(self) -> None:
        raw = {key: f"${{{key.upper()}}}" for key in ("port", "wait", "ssl", "flag", "label", "client_id", "servers")}
        read = config(raw, PORT="6379\n", WAIT="1.5", SSL="true", FLAG="1", LABEL="7", CLIENT_ID="8", SERVERS="9")
        assert (read.port, read.wait, read.ssl, read.label) == (6379, 1.5, True, "7")
        assert read.flag is not True
        assert (read.flag, read.client_id, read.servers) == (1, "8", "9")
        assert config({"port": "${PORT:-6379}"}).port == 6379

    def test_a_value_that_does_not_fit_is_not_shown(self) -> None:
        assert refusal({"port": "${PORT}"}, PORT="hunter2") == (
            "CONFIG_INVALID: config.port: expected an integer, got a string from a variable."
        )
        assert refusal({"sasl": {"mechanism": "${M}"}}, M="hunter2") == (
            "CONFIG_INVALID: config.sasl.mechanism: the variable's value is not one of "
            "plain, scram-sha-256, scram-sha-512."
        )
        assert refusal({"clientId": "${C}", "label": "refuse"}, C="hunter2") == (
            "CONFIG_INVALID: config: label and client_id *** exclude each other."
        )

    def test_a_doubled_dollar_protects_any_text(self) -> None:
        for letters in itertools.product("$\\{A}:-\n", repeat=5):
            text = "".join(letters)
            assert expand(text.replace("$", "$$"), where="x", environ={}) == text


class TestSecrets:
    def test_strings_become_secrets(self) -> None:
        read = config({"token": "hunter2", "url": "redis://u:${P}@h", "keys": {"a": "hunter2"}}, P="hunter2")
        assert read.token == Secret("hunter2")
        assert read.keys["a"].reveal() == "hunter2"
        assert read.url is not None
        assert read.url.reveal() == "redis://u:hunter2@h"
        assert "hunter2" not in repr(read)

    def test_a_secret_is_taken_as_it_is(self) -> None:
        assert config({"token": Secret("x"), "url": Secret("redis://h")}).url == SecretUrl("redis://h")

    def test_errors_beside_them_do_not_show_them(self) -> None:
        refusal({"token": "hunter2", "port": "x"})
        refusal({"sasl": {"mechanism": "x", "password": "hunter2"}})
        refusal({"url": "redis://u:hunter2@h", "client_id": "hunter2", "label": "refuse", "token": "hunter2"})
        refusal({"keys": {"a": "hunter2", "b": 1}})

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("redis://:p/ss@h:1/0", "redis://:***@h:1/0"),
            ("amqp://u:p@ss@h/v", "amqp://u:***@h/v"),
            ("nats://s3cret@h", "nats://***@h"),
            ("kafka://h?a=1&sasl_password=abc&b=2", "kafka://h?a=1&sasl_password=***&b=2"),
            ("redis://h:6379/0?db=1", "redis://h:6379/0?db=1"),
        ],
    )
    def test_a_url_shows_all_but_its_secrets(self, url: str, shown: str) -> None:
        assert repr(SecretUrl(url)) == str(SecretUrl(url)) == repr(shown)
