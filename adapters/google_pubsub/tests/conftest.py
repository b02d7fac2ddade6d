"""What the tests of this adapter share: the emulator, a scripted service, and short words for the contract."""

import asyncio
import contextlib
import json
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # grpcio ships no annotations
import grpc.aio  # type: ignore[import-untyped]  # as above
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.protobuf import any_pb2, empty_pb2  # type: ignore[import-untyped]  # as above
from google.pubsub_v1.types import pubsub as types
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # as above

from ductape.adapter import (
    Channel,
    Connection,
    Intake,
    Order,
    Outgoing,
    Purpose,
    Receiver,
    Site,
    Stored,
)
from ductape_google_pubsub import GooglePubSubAdapter, GooglePubSubConfig
from tests.brokers.server import Server
from tests.contract import site_of

METHODS = {
    "Publish": ("Publisher", types.PublishRequest, types.PublishResponse),
    "CreateTopic": ("Publisher", types.Topic, types.Topic),
    "GetTopic": ("Publisher", types.GetTopicRequest, types.Topic),
    "CreateSubscription": ("Subscriber", types.Subscription, types.Subscription),
    "GetSubscription": ("Subscriber", types.GetSubscriptionRequest, types.Subscription),
    "Pull": ("Subscriber", types.PullRequest, types.PullResponse),
    "Acknowledge": ("Subscriber", types.AcknowledgeRequest, None),
    "ModifyAckDeadline": ("Subscriber", types.ModifyAckDeadlineRequest, None),
}
"""What the scripted service serves; a method without a script answers as if all went well."""

PRIVATE = (".retry", ".dead")


class Refusal(Exception):
    """A status that a script answers with; `ids` are those that an exactly-once subscription refuses."""

    def __init__(self, code: str, details: str = "", ids: dict[str, str] | None = None) -> None:
        super().__init__(code)
        self.code, self.details, self.ids = grpc.StatusCode[code], details, ids


Answer = Callable[[Any], Any]


class Fake:
    """A Pub/Sub service that answers by script, for what no emulator does. Every request is kept, by method."""

    def __init__(self, tls: Any = None) -> None:
        """Prepare; `tls` are the server's gRPC credentials, where it has some."""
        self._tls = tls
        self.seen: dict[str, list[Any]] = defaultdict(list)
        self.metadata: list[tuple[str, str]] = []
        self.scripts: dict[str, Answer] = {"Publish": self._published, "Pull": self._pulled}
        self.waiting: deque[Any] = deque()
        self.hold = 0.05
        self.port = 0
        self._number = 0
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])

    async def __aenter__(self) -> "Fake":
        for service in ("Publisher", "Subscriber"):
            handlers = {
                name: grpc.unary_unary_rpc_method_handler(
                    self._handler(name),
                    request_deserializer=request.deserialize,
                    response_serializer=answer.serialize if answer else empty_pb2.Empty.SerializeToString,
                )
                for name, (owner, request, answer) in METHODS.items()
                if owner == service
            }
            generic = grpc.method_handlers_generic_handler(f"google.pubsub.v1.{service}", handlers)
            self._server.add_generic_rpc_handlers((generic,))
        if self._tls is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", self._tls)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    def message(self, body: bytes, **more: Any) -> None:
        """Has the next poll bring a message."""
        self._number += 1
        message = types.PubsubMessage(data=body, message_id=str(self._number), **more)
        self.waiting.append(types.ReceivedMessage(ack_id=f"ack{self._number}", message=message))

    def _handler(self, name: str) -> Callable[[Any, Any], Any]:
        async def handle(request: Any, context: Any) -> Any:
            self.seen[name].append(request)
            self.metadata += [(str(key), str(value)) for key, value in context.invocation_metadata()]
            try:
                answer = self.scripts.get(name, lambda request: _well(name, request))(request)
                return await answer if asyncio.iscoroutine(answer) else answer
            except Refusal as refusal:
                if refusal.ids is not None:
                    info = any_pb2.Any()
                    info.Pack(error_details_pb2.ErrorInfo(reason="EXACTLY_ONCE_ACKID_FAILURE", metadata=refusal.ids))
                    status = status_pb2.Status(code=refusal.code.value[0], details=[info])
                    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
                await context.abort(refusal.code, refusal.details)

        return handle

    def _published(self, request: Any) -> Any:
        self._number += len(request.messages)
        return types.PublishResponse(message_ids=[str(self._number - n) for n in range(len(request.messages))])

    async def _pulled(self, request: Any) -> Any:
        private = request.subscription.endswith(PRIVATE)
        if private or not self.waiting:
            await asyncio.sleep(self.hold)
        number = 0 if private else min(request.max_messages, len(self.waiting))
        return types.PullResponse(received_messages=[self.waiting.popleft() for _ in range(number)])


def _well(name: str, request: Any) -> Any:
    if name == "GetSubscription":
        name = request.subscription.replace("/subscriptions/", "/topics/")
        topic = name if name.endswith(PRIVATE) else name.rpartition(".")[0]
        return types.Subscription(name=request.subscription, topic=topic, ack_deadline_seconds=10)
    if name == "GetTopic":
        return types.Topic(name=request.topic)
    return request if name.startswith("Create") else empty_pb2.Empty()


def refuse(code: str, details: str = "", ids: dict[str, str] | None = None) -> Answer:
    """A script that always refuses."""

    def answer(_: Any) -> Any:
        raise Refusal(code, details, ids)

    return answer


def site(*, create: bool = True) -> Site:
    return site_of("google_pubsub", create=create)


class World:
    """Connections to one address, closed when the test ends; channels are this world's own."""

    def __init__(self, address: str, project: str) -> None:
        self.address, self.project = address, project
        self.stack = contextlib.AsyncExitStack()

    async def connect(self, *, create: bool = True, address: str = "", **fields: Any) -> Connection:
        config = {"project_id": self.project, "emulator_host": address or self.address, "lease": 2, "poll": 0.2}
        adapter = GooglePubSubAdapter()
        connection = await adapter.connect(GooglePubSubConfig(**{**config, **fields}), site(create=create))
        self.stack.push_async_callback(connection.close)
        return connection

    async def receiver(self, connection: Connection, channel: Channel | None = None, window: int = 64) -> Receiver:
        channel = channel or event()
        await connection.declare(channel)
        receiver = await connection.receiver(channel, Intake(group=channel.group, window=window, order=channel.order))
        self.stack.push_async_callback(receiver.close)
        return receiver


@pytest.fixture
async def world(pubsub_server: Server) -> AsyncIterator[World]:
    world = World(pubsub_server.url, f"test{time.time_ns()}")
    try:
        yield world
    finally:
        await world.stack.aclose()


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    async with Fake() as fake:
        yield fake


@pytest.fixture
async def scripted(fake: Fake) -> AsyncIterator[World]:
    """A world on the scripted service."""
    world = World(f"127.0.0.1:{fake.port}", "scripted")
    try:
        yield world
    finally:
        await world.stack.aclose()


def key_file(folder: Path, **more: Any) -> str:
    """Make a service account's key, and return its path."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    info = {
        "type": "service_account",
        "project_id": "shop",
        "private_key_id": "1",
        "private_key": pem,
        "client_email": "ductape@shop.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "http://127.0.0.1:1/token",
    }
    path = folder / "key.json"
    path.write_text(json.dumps({**info, **more}))
    return str(path)


def event(group: str = "billing", **more: Any) -> Channel:
    return Channel(name="orders", group=group, **more)


def ordered(group: str = "billing") -> Channel:
    return event(group, order=Order.KEY)


def dead(group: str = "billing") -> Channel:
    return Channel(name="orders", purpose=Purpose.DEAD, group=group)


async def publish(connection: Connection, *records: Outgoing, channel: Channel | None = None) -> list[Stored]:
    channel = channel or event()
    await connection.declare(channel)
    sender = await connection.sender(channel)
    answers = await sender.send(records)
    assert all(isinstance(answer, Stored) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Stored)]
