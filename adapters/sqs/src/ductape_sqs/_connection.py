"""A live client: one set of connections to SQS for sending, polling and settling."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import cache
from typing import Any, TypeVar

import msgspec
from aiobotocore.config import AioConfig  # type: ignore[import-untyped]  # it has no types
from aiobotocore.session import AioSession  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
from botocore.loaders import create_loader  # type: ignore[import-untyped]

from ductape.adapter import (
    AdapterError,
    Capabilities,
    Channel,
    Connection,
    Fault,
    Intake,
    Order,
    Purpose,
    Receiver,
    Sender,
    Site,
)
from ductape.errors import nearest

from . import SqsAdapter
from ._client import CREDENTIALS, Client, credentials_fault
from ._config import SqsConfig
from ._queues import Queues
from ._receiver import QueueReceiver
from ._sender import QueueSender
from ._wire import Target

__all__ = ["SqsConnection"]

T = TypeVar("T")


class SqsConnection(Connection):
    """Queues of one account in one region."""

    def __init__(self, config: SqsConfig, site: Site, stack: AsyncExitStack, client: Client) -> None:
        """Hold a client that is open.

        Args:
            config: Where the queues are.
            site: Where the adapter finds itself.
            stack: Closes the client.
            client: Makes the calls.
        """
        self._config, self._site, self._stack, self._client = config, site, stack, client
        self._queues = Queues(client, config, site)
        self._receivers: dict[QueueReceiver, Channel] = {}

    @classmethod
    async def open(cls, config: SqsConfig, site: Site) -> SqsConnection:
        """Find credentials and endpoint, and make a round trip.

        Raises:
            AdapterError: ``CONFIG`` or ``TRANSIENT``.
        """
        stack = AsyncExitStack()
        try:
            session = _session(config)
            client = await _client(config, site, session, stack)
            connection = cls(config, site, stack, client)
            try:
                await connection.check()
            except AdapterError as error:
                await _explain(config, session, client, error)
                raise
        except BaseException:
            await stack.aclose()
            raise
        return connection

    def capabilities(self, channel: Channel) -> Capabilities:
        """Return what holds for a channel here."""
        queue = self._queues.guess(channel)
        return msgspec.structs.replace(
            SqsAdapter.capabilities,
            order=Order.KEY if queue.fifo else Order.NONE,
            order_locks=queue.fifo,
            lease=float(self._config.lease),
            send_delay=0.0 if queue.fifo else SqsAdapter.capabilities.send_delay,
            max_body=queue.largest,
            max_message=queue.largest,
        )

    async def declare(self, channel: Channel) -> None:
        """Create the queue where that is allowed, else look for it; its group is itself."""
        if channel.start not in (None, "earliest"):
            text = f"start {channel.start!r}: a queue hands over everything that it holds; leave start out"
            raise AdapterError(Fault.CONFIG, text)
        await self._queues.declare(channel)

    async def sender(self, channel: Channel) -> Sender:
        """Open a sender."""
        self._must_be_open()
        queue = self._queues.of(channel)
        ordered, copies = channel.order is not Order.NONE, channel.purpose is not Purpose.EVENTS
        return QueueSender(self._client, queue.url, Target(queue.name, queue.largest, queue.fifo, ordered, copies))

    async def receiver(self, channel: Channel, intake: Intake) -> Receiver:
        """Open a receiver."""
        self._must_be_open()
        queue = self._queues.of(channel)
        for other, theirs in self._receivers.items():
            if other.queue.url == queue.url and theirs.identity != channel.identity:
                raise AdapterError(
                    Fault.CONFIG,
                    f"queue {queue.name!r} is read as {theirs.name!r} already, and {channel.name!r} would take its "
                    "messages: give both topics one config.queue, so that they share it",
                )
        receiver = QueueReceiver(self._client, self._queues, queue, intake, self._config, self._site, self._left)
        self._receivers[receiver] = channel
        return receiver

    def _left(self, receiver: QueueReceiver) -> None:
        self._receivers.pop(receiver, None)

    def _must_be_open(self) -> None:
        if self._client.closed:
            raise AdapterError(Fault.LOST, "the connection is closed")

    async def check(self) -> None:
        """Ask SQS something that disturbs nothing."""
        await self._queues.ping()

    async def close(self) -> None:
        """Close the receivers, which wait for their polls, then the connections. Idempotent."""
        if not self._client.closed:
            await asyncio.gather(*(receiver.close() for receiver in list(self._receivers)))
            self._client.closed = True
            await self._stack.aclose()

    def unwrap(self, kind: type[T]) -> T:
        """Return aiobotocore's client (`aiobotocore.client.AioBaseClient`) for this account and region."""
        if isinstance(self._client.native, kind):
            return self._client.native
        return super().unwrap(kind)

    def __repr__(self) -> str:
        return f"<SqsConnection {self._client!r} receivers={len(self._receivers)}>"


@cache
def _loader(path: str | None) -> Any:
    """Return what reads AWS's service models, once a process: reading them is nearly all that a client costs."""
    return create_loader(path)


def _session(config: SqsConfig) -> AioSession:
    session = AioSession()
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    if config.access_key_id is not None and config.secret_access_key is not None:
        token = config.session_token.reveal() if config.session_token is not None else None
        session.set_credentials(config.access_key_id, config.secret_access_key.reveal(), token)
    return session


async def _client(config: SqsConfig, site: Site, session: AioSession, stack: AsyncExitStack) -> Client:
    """Make the client; what it refuses is a matter of configuration."""
    options: dict[str, Any] = {
        # What polls must not keep the rest waiting for a connection: how many are open is bounded by our own calls.
        "max_pool_connections": 0, "connect_timeout": 3, "read_timeout": 30, "warm_up_loader_caches": True,
        **config.native,
    }  # fmt: skip
    plain = config.endpoint is not None and config.endpoint.startswith("http://")
    verify = options.pop("verify", False if plain else None)  # certificates are read for nothing where none is shown
    try:
        credentials = await session.get_credentials()
    except CREDENTIALS as error:
        raise credentials_fault(error) from error
    if credentials is None:
        text = "no credentials: set config.access_key_id and config.secret_access_key, or a profile, role or variable"
        raise AdapterError(Fault.CONFIG, f"{text} that AWS's tools look for")
    try:
        making = session.create_client(
            "sqs",
            region_name=config.region,
            endpoint_url=config.endpoint,
            verify=verify,
            config=AioConfig(**options),
        )
        native = await stack.enter_async_context(making)
    except (BotoCoreError, AttributeError, TypeError, ValueError) as error:
        what = "config.region is missing" if config.region is None else "the region, endpoint or native options"
        text = f"config: aiobotocore refuses {what} ({type(error).__name__})"
        raise AdapterError(Fault.CONFIG, text) from error
    return Client(native, credentials, site.clock)


async def _explain(config: SqsConfig, session: AioSession, client: Client, error: AdapterError) -> None:
    """Raise ``CONFIG`` where AWS cannot be reached because its address is made of a region that there is not."""
    region = client.native.meta.region_name
    if error.fault is Fault.TRANSIENT and config.endpoint is None:
        known = [
            name
            for partition in session.get_available_partitions()
            for name in await session.get_available_regions("sqs", partition)
        ]
        if region not in known:
            text = f"config.region: {region!r} is no region of AWS.{nearest(region, known)}"
            raise AdapterError(Fault.CONFIG, text) from error
