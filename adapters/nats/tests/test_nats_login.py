"""Users, tokens, credentials, rights and certificates, on servers that require them."""

import asyncio
import base64
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats.errors
import nkeys  # type: ignore[import-untyped]  # it has no annotations
import pytest
import trustme
from nats.aio.client import Client

from ductape.adapter import AdapterError, Channel, Connection, Fault, Outgoing, Secret, Stored
from ductape_nats import NatsAdapter, NatsConfig, Tls
from ductape_nats._login import connect_fault
from tests.brokers.nats import Nats
from tests.brokers.server import Unavailable
from tests.contract import patiently

from .conftest import site

pytestmark = pytest.mark.broker


def running(settings: str) -> Iterator[Nats]:
    server = Nats(settings)
    try:
        server.start()
    except Unavailable as error:
        server.stop()
        pytest.skip(f"no server: nats: {error}")
    yield server
    server.stop()


async def connected(server: Nats, **fields: Any) -> Connection:
    fields = {"servers": server.url, **fields}
    return await NatsAdapter().connect(NatsConfig(**fields), site())


async def works(server: Nats, subject: str = "orders", **fields: Any) -> None:
    """Logs in, and stores a message."""
    connection = await connected(server, **fields)
    try:
        channel = Channel(name=subject)
        await connection.declare(channel)
        [answer] = await (await connection.sender(channel)).send([Outgoing(b"x", {}, os.urandom(4).hex())])
        assert isinstance(answer, Stored)
    finally:
        await connection.close()


async def refused(server: Nats, **fields: Any) -> str:
    """The text of a refusal by configuration, without secrets, at once."""
    began = time.monotonic()
    with pytest.raises(AdapterError) as caught:
        await (await connected(server, **fields)).close()
    assert caught.value.fault is Fault.CONFIG
    assert time.monotonic() - began < 5
    assert "hunter2" not in str(caught.value) + repr(caught.value.__cause__)
    return caught.value.text


# -- users and tokens

USERS = """
authorization { users: [
  { user: app, password: right }
  { user: reader, password: right, permissions: { publish: { deny: ["orders", "$JS.API.STREAM.CREATE.>"] } } }
  { user: boxed, password: right, permissions: { subscribe: ["_BOX.>"] } }
] }
"""


@pytest.fixture(scope="module")
def users() -> Iterator[Nats]:
    yield from running(USERS)


async def test_a_user_logs_in_by_fields_or_by_address(users: Nats) -> None:
    await works(users, user="app", password=Secret("right"))
    await works(users, servers=users.url.replace("//", "//app:right@"))


@pytest.mark.parametrize("fields", [{}, {"user": "app", "password": Secret("hunter2")}, {"token": Secret("hunter2")}])
async def test_a_wrong_login_is_refused_at_once_with_what_to_look_at(users: Nats, fields: dict[str, Any]) -> None:
    text = await refused(users, **fields)
    assert "authorization violation" in text
    assert "config.user" in text


def test_a_server_that_is_full_is_tried_again() -> None:
    error = nats.errors.Error("nats: 'maximum account active connections exceeded'")
    assert connect_fault(error, [error], NatsConfig(servers="nats://127.0.0.1")).fault is Fault.TRANSIENT


async def test_a_server_that_is_no_nats_server_is_named_as_such() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(AdapterError, match=rf"127\.0\.0\.1:{port}: what answers there does not speak NATS"):
            await NatsAdapter().connect(NatsConfig(servers=f"nats://127.0.0.1:{port}"), site())


async def test_a_password_in_an_address_is_not_shown(users: Nats) -> None:
    await refused(users, servers=users.url.replace("//", "//app:hunter2@"))


async def test_a_right_that_is_missing_is_named_with_its_subject(users: Nats) -> None:
    await works(users, user="app", password=Secret("right"))
    connection = await connected(users, user="reader", password=Secret("right"))
    try:
        await connection.declare(Channel(name="orders"))
        [answer] = await (await connection.sender(Channel(name="orders"))).send([Outgoing(b"x", {}, "id")])
        assert isinstance(answer, AdapterError)
        assert answer.fault is Fault.CONFIG
        assert "'orders'" in answer.text
        with pytest.raises(AdapterError, match=r"STREAM\.CREATE") as caught:
            await connection.declare(Channel(name="other"))
        assert caught.value.fault is Fault.CONFIG
        await connection.check()
    finally:
        await connection.close()


async def test_an_inbox_that_is_not_permitted_is_named_with_the_option_for_another(users: Nats) -> None:
    login: dict[str, Any] = {"user": "boxed", "password": Secret("right")}
    assert "inbox_prefix" in await refused(users, **login)
    await works(users, **login, native={"inbox_prefix": "_BOX.app"})


async def test_a_token_logs_in() -> None:
    for server in running("authorization { token: right }\n"):
        await works(server, token=Secret("right"))
        await works(server, servers=server.url.replace("//", "//right@"))
        assert "authorization" in await refused(server, token=Secret("hunter2"))


async def test_a_login_that_is_taken_back_is_told_when_it_connects_again() -> None:
    for server in running("authorization { user: app, password: right }\n"):
        connection = await connected(server, user="app", password=Secret("right"))
        (server.folder / "nats.conf").write_text(
            (server.folder / "nats.conf").read_text().replace("password: right", "password: other")
        )
        server.restart()
        fault: Fault | None = Fault.TRANSIENT
        while fault in (None, Fault.TRANSIENT):
            fault = await checked(connection)
        assert fault is Fault.CONFIG
        await connection.close()


async def checked(connection: Connection) -> Fault | None:
    try:
        await connection.check()
    except AdapterError as error:
        return error.fault
    return None


async def test_a_server_without_jetstream_is_a_matter_of_config_and_serves_core_subjects() -> None:
    server = Nats()
    server.prepare = lambda: (server.folder / "nats.conf").write_text(f"port: {server.port}\n")  # type: ignore[method-assign,assignment]
    server.start()
    try:
        connection = await connected(server)
        with pytest.raises(AdapterError, match="JetStream") as caught:
            await connection.declare(Channel(name="orders"))
        assert caught.value.fault is Fault.CONFIG
        await connection.close()
        await works(server, mode="core")
    finally:
        server.stop()


async def test_options_that_nats_py_does_not_know_are_a_matter_of_config(users: Nats) -> None:
    assert "native" in await refused(users, user="app", password=Secret("right"), native={"no_such": 1})


async def test_the_connection_has_its_name(users: Nats) -> None:
    for name, shown in ((None, "shop-test-orders-"), ("billing-7", "billing-7")):
        connection = await connected(users, user="app", password=Secret("right"), name=name)
        assert str(connection.unwrap(Client).options["name"]).startswith(shown)
        await connection.close()


# -- credentials: an operator, an account and a user, each signed by the one above


def pair(kind: int) -> Any:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))


def token(issuer: Any, subject: str, name: str, nats: dict[str, Any]) -> str:
    def encoded(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    claims = {"iss": issuer.public_key.decode(), "sub": subject, "iat": int(time.time()), "name": name}
    claims |= {"nats": {**nats, "version": 2}}
    claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).rstrip(b"=").decode()
    head = encoded(b'{"typ":"JWT","alg":"ed25519-nkey"}')
    body = encoded(json.dumps(claims).encode())
    return f"{head}.{body}.{encoded(issuer.sign(f'{head}.{body}'.encode()))}"


def credentials(path: Path, account: Any) -> Path:
    """Writes a user's credentials file."""
    user = pair(nkeys.PREFIX_BYTE_USER)
    limits = {"subs": -1, "data": -1, "payload": -1}
    jwt = token(account, user.public_key.decode(), "app", {"pub": {}, "sub": {}, "type": "user", **limits})
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    return path


async def test_credentials_log_in_and_others_are_refused(tmp_path: Path) -> None:
    operator, account, system = (
        pair(kind) for kind in (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_ACCOUNT)
    )
    limits = dict.fromkeys(("subs", "data", "payload", "conn", "leaf", "imports", "exports"), -1)
    stores = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    key, hub = account.public_key.decode(), system.public_key.decode()
    signed = token(operator, key, "app", {"limits": {**limits, **stores, "wildcards": True}, "type": "account"})
    hub_signed = token(operator, hub, "SYS", {"limits": {**limits, "wildcards": True}, "type": "account"})
    top = token(operator, operator.public_key.decode(), "op", {"type": "operator", "system_account": hub})
    settings = (
        f"operator: {top}\nsystem_account: {hub}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {key}: {signed}, {hub}: {hub_signed} }}\n"
    )
    for server in running(settings):
        await works(server, creds=str(credentials(tmp_path / "app.creds", account)))
        foreign = credentials(tmp_path / "foreign.creds", pair(nkeys.PREFIX_BYTE_ACCOUNT))
        assert "authorization" in await refused(server, creds=str(foreign))
        assert "missing.creds" in await refused(server, creds=str(tmp_path / "missing.creds"))
        (tmp_path / "broken.creds").write_text("hunter2\n")
        assert await refused(server, creds=str(tmp_path / "broken.creds"))


# -- certificates


async def test_certificates_are_checked_and_a_client_may_show_its_own(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    ours, client = authority.issue_cert("localhost", "127.0.0.1"), authority.issue_cert("app")
    for name, pem in (
        ("ca.pem", authority.cert_pem), ("other.pem", other.cert_pem), ("key.pem", ours.private_key_pem),
        ("cert.pem", ours.cert_chain_pems[0]), ("app.pem", client.private_key_and_cert_chain_pem),
    ):  # fmt: skip
        pem.write_to_path(tmp_path / name)
    files = f'cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem", ca_file: "{tmp_path}/ca.pem"'
    trusted, shown = str(tmp_path / "ca.pem"), str(tmp_path / "app.pem")
    for server in running(f"tls {{ {files} }}\n"):
        await works(server, tls=Tls(ca=trusted))
        await works(server, tls=Tls(verify=False))
        await works(server, servers=server.url.replace("nats:", "tls:"), tls=Tls(ca=trusted))
        assert "certificate" in await refused(server, tls=Tls(ca=str(tmp_path / "other.pem")))
        assert "certificate" in await refused(server, tls=True)
        assert "missing.pem" in await refused(server, tls=Tls(ca=str(tmp_path / "missing.pem")))
    for server in running(f"tls {{ {files}, verify: true }}\n"):
        await works(server, tls=Tls(ca=trusted, cert=shown))
        connecting = NatsAdapter().connect(NatsConfig(servers=server.url, tls=Tls(ca=trusted)), site())
        with pytest.raises(AdapterError) as caught:
            await connecting
        assert caught.value.fault in (Fault.CONFIG, Fault.TRANSIENT)


async def test_nothing_is_sent_in_the_clear_where_encryption_is_asked_for(users: Nats) -> None:
    login: dict[str, Any] = {"user": "app", "password": Secret("right")}
    assert "no encryption" in await refused(users, **login, tls=True)
    assert "no encryption" in await refused(users, **login, servers=users.url.replace("nats:", "tls:"))


async def test_a_server_that_comes_back_is_logged_in_to_again(users: Nats) -> None:
    connection = await connected(users, user="app", password=Secret("right"))
    users.restart()
    await patiently(connection.check)
    await connection.close()
