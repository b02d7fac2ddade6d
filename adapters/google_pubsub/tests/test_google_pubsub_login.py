"""The way to Google: TLS, a service account's key, tokens that run out, with a service and a token endpoint of ours."""

import asyncio
import http.server
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # grpcio ships no annotations
import pytest
import trustme
from google.pubsub_v1.types import pubsub as types

from .conftest import Fake, key_file, refuse

PROGRAM = """
import asyncio, importlib, json, logging, os, sys
from ductape import Ductape

logging.basicConfig(stream=sys.stderr)


async def main():
    ductape = Ductape(product="shop", env="prd")
    config = json.loads(sys.argv[1])
    await ductape.broker.create(tag="b", envs=[{"slug": "prd", "type": "GOOGLE_PUBSUB", "config": config}])
    await ductape.broker.topic.create(tag="b:t", groups=["billing"])
    handled = asyncio.Queue()

    async def handle(message: dict):
        await handled.put(message["n"])

    async with ductape:
        await ductape.event.publish("b:t", {"n": 1})
        await ductape.event.subscribe("b:t", callback=handle, group="billing")
        print("handled", await asyncio.wait_for(handled.get(), 20), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        try:
            await ductape.event.publish("b:t", {"n": 2})
            print("published")
        except Exception as error:
            print(type(error).__name__, error)


try:
    importlib.import_module(os.environ["LOOP"]).run(main())
except Exception as error:
    print(type(error).__name__, error)
"""
"""Run in a process of its own: gRPC reads the authorities that it trusts once, when it first uses TLS."""


class Tokens:
    """A token endpoint. It gives a new token each time, which is stale at once, until it is told to refuse.

    Attributes:
        refuses: What it answers instead, as Google does for a key that was deleted.
    """

    def __init__(self) -> None:
        self.given = 0
        self.refuses: dict[str, str] = {}
        tokens = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                status, answer = tokens.answer()
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}/token"

    def answer(self) -> tuple[int, dict[str, Any]]:
        if self.refuses:
            return 400, self.refuses
        self.given += 1
        return 200, {"access_token": f"token-{self.given}", "expires_in": 1, "token_type": "Bearer"}


@pytest.fixture
def tokens() -> Iterator[Tokens]:
    tokens = Tokens()
    thread = threading.Thread(target=tokens.server.serve_forever)
    thread.start()
    yield tokens
    tokens.server.shutdown()
    thread.join()
    tokens.server.server_close()


class Google:
    """A service behind TLS that knows no call without a token, and a key for it.

    Attributes:
        fake: The service.
        key: The path of the key.
        config: What a user would write.
        ca: The file of its authority.
    """

    def __init__(self, fake: Fake, folder: Path, tokens: Tokens) -> None:
        self.fake, self.tokens = fake, tokens
        self.key = key_file(folder, token_uri=tokens.uri)
        self.ca = folder / "ca.pem"
        self.config: dict[str, Any] = {"endpoint": f"localhost:{fake.port}", "poll": 0.2}

    async def run(self, config: dict[str, Any], **environment: str) -> asyncio.subprocess.Process:
        surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("GOOGLE", "PUBSUB"))}
        loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        surroundings |= {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(self.ca), "LOOP": loop, **environment}
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, json.dumps(config), stdin=pipe, stdout=pipe, stderr=pipe, env=surroundings
        )

    def authorizations(self) -> list[str]:
        return [value for name, value in self.fake.metadata if name == "authorization"]


@pytest.fixture
async def google(tmp_path: Path, tokens: Tokens) -> AsyncIterator[Google]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    cert = authority.issue_cert("localhost")
    chain = b"".join(pem.bytes() for pem in cert.cert_chain_pems)
    async with Fake(grpc.ssl_server_credentials([(cert.private_key_pem.bytes(), chain)])) as fake:
        fake.scripts["Publish"] = lambda request: _stored(fake, request)
        yield Google(fake, tmp_path, tokens)


def _stored(fake: Fake, request: Any) -> Any:
    for message in request.messages:
        fake.message(message.data, attributes=dict(message.attributes))
    return types.PublishResponse(message_ids=[str(n) for n in range(len(request.messages))])


async def ended(program: asyncio.subprocess.Process) -> str:
    out, err = await asyncio.wait_for(program.communicate(b"\n"), 60)
    assert b"Traceback" not in err, err.decode()
    return out.decode().strip()


async def begun(program: asyncio.subprocess.Process) -> str:
    assert program.stdout is not None
    return (await asyncio.wait_for(program.stdout.readline(), 60)).decode().strip()


@pytest.mark.parametrize("by", ["key file", "default credentials"])
async def test_tls_and_a_service_account_carry_publishes_and_polls_and_stale_tokens_are_renewed(
    google: Google, by: str
) -> None:
    if by == "key file":
        program = await google.run({**google.config, "keyFilename": google.key})
    else:
        program = await google.run(google.config, GOOGLE_APPLICATION_CREDENTIALS=google.key)
    assert await begun(program) == "handled 1"
    assert await ended(program) == "published"
    seen = google.fake.seen
    assert [len(request.messages) for request in seen["Publish"]] == [1, 1]
    assert seen["Publish"][0].topic == "projects/shop/topics/b.t", "the project is the key's"
    assert seen["Pull"]
    assert seen["Acknowledge"]
    given = google.authorizations()
    assert len(given) == sum(map(len, seen.values())), "every call has its token"
    assert len(set(given)) > 2
    assert set(given) <= {f"Bearer token-{n + 1}" for n in range(google.tokens.given)}


async def test_a_key_that_is_deleted_under_a_client_is_told_with_what_to_do(google: Google) -> None:
    program = await google.run({**google.config, "keyFilename": google.key})
    assert await begun(program) == "handled 1"
    google.tokens.refuses = {"error": "invalid_grant", "error_description": "Invalid JWT Signature: hunter2"}
    told = await ended(program)
    assert told.startswith("PublishError PUBLISH_FAILED: ")
    assert "config.key_filename" in told
    assert "deleted or disabled" in told
    assert "network" not in told
    assert "hunter2" not in told
    assert len(google.fake.seen["Publish"]) == 1


async def test_a_service_whose_certificate_is_not_trusted_is_told_with_what_to_do(
    google: Google, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "stranger.pem")
    config = {**google.config, "keyFilename": google.key}
    program = await google.run(config, GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=str(tmp_path / "stranger.pem"))
    told = await ended(program)
    assert "certificate is not trusted" in told
    assert "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" in told
    assert google.fake.metadata == [], "no token goes to a stranger"


async def test_a_token_that_the_service_refuses_is_told_with_what_to_do(google: Google) -> None:
    google.fake.scripts["GetTopic"] = refuse("UNAUTHENTICATED", "Request had invalid authentication credentials")
    told = await ended(await google.run({**google.config, "keyFilename": google.key}))
    assert "UNAUTHENTICATED" in told
    assert "Check config.key_filename" in told
