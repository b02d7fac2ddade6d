"""A live connection to one server: what it can do, declaring, and opening senders and receivers."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import ssl
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import unquote

import aio_pika
import msgspec
from aio_pika.connection import make_url
from pamqp import commands
from yarl import URL

from ductape.adapter import (
    AdapterError,
    Capabilities,
    Channel,
    Connection,
    Count,
    Fault,
    Intake,
    Purpose,
    Receiver,
    Removable,
    Sender,
    Site,
    Tls,
)

from . import RabbitMQAdapter
from ._config import RabbitMQConfig
from ._link import BOUND, CONNECT, GOODBYE, Endpoint, Link
from ._receiver import RabbitMQReceiver
from ._sender import RabbitMQSender
from ._topology import Topology

__all__ = ["RabbitMQConnection"]

T = TypeVar("T")

HEARTBEAT = 10
"""Seconds; half as often as many clients: twice this is how long a frozen server stays unnoticed."""
SIZES = ((4, 16 * 1024 * 1024), (0, 128 * 1024 * 1024))
"""From which version on how many bytes a body may have, unless the server's ``max_message_size`` says otherwise."""


class RabbitMQConnection(Connection, Removable):
    """An exchange and its queues, through two connections: a server that takes no messages stops reading one whole."""

    def __init__(self, config: RabbitMQConfig, site: Site, client: aio_pika.Connection, endpoint: Endpoint) -> None:
        """Prepare; nothing is connected."""
        self._config, self._site, self._client = config, site, client
        self._publish, self._consume = Link(endpoint), Link(endpoint)
        self._topology = Topology(config, site, self._consume)
        self._max_body = config.max_message_size or 0

    @classmethod
    async def open(cls, config: RabbitMQConfig, site: Site) -> RabbitMQConnection:
        """Connect and log in.

        Raises:
            AdapterError: ``CONFIG`` or ``TRANSIENT``.
        """
        try:
            url = _url(config)
            context = _context(config.tls, url.query) if url.scheme == "amqps" else None
            endpoint = _endpoint(url, context, site)
            client = aio_pika.Connection(url, ssl_context=context)
        except (TypeError, ValueError) as error:  # the text may quote the URL
            text = f"config: aio-pika refuses the url or the native options ({type(error).__name__})"
            raise AdapterError(Fault.CONFIG, text) from None
        connection = cls(config, site, client, endpoint)
        try:
            await connection._consume.open()
        except BaseException:
            await client.close()
            raise
        if not connection._max_body:
            major = (connection._consume.version or (0,))[0]
            connection._max_body = next(size for version, size in SIZES if major >= version)
        return connection

    def capabilities(self, channel: Channel) -> Capabilities:
        """Return what holds for a channel here."""
        lease = self._config.consumer_timeout
        can = msgspec.structs.replace(
            RabbitMQAdapter.capabilities, lease=lease, lease_total=lease, max_body=self._max_body
        )
        if self._config.queue_type == "classic":
            can = msgspec.structs.replace(can, count=Count.NONE)
        if channel.purpose is Purpose.DEAD:
            can = msgspec.structs.replace(can, send_delay=0.0)
        return can

    async def declare(self, channel: Channel) -> None:
        """Create the exchange, the group's queue and its binding, or verify them."""
        await self._topology.declare(channel)

    async def sender(self, channel: Channel) -> Sender:
        """Open a sender, on a channel of its own."""
        wire = await self._publish.channel()
        try:
            await wire.call(commands.Confirm.Select(), BOUND)
        except AdapterError:
            await wire.close(GOODBYE)
            raise
        return RabbitMQSender(
            self._publish, wire, self._topology, channel, self._site.clock,
            most=lambda: self._max_body, learned=self._smaller,
        )  # fmt: skip

    def _smaller(self, size: int) -> None:
        self._max_body = min(self._max_body, size)
        self._site.log.warning(
            "broker %s: RabbitMQ takes bodies of up to %d bytes; say so in max_message_size", self._site.broker, size
        )

    async def receiver(self, channel: Channel, intake: Intake) -> Receiver:
        """Open a receiver and join the group."""
        if channel.purpose is Purpose.EVENTS:
            await self._topology.declare(channel, intake.group)
        queue = self._topology.queue(channel, intake.group if channel.purpose is Purpose.EVENTS else "")
        wire = await self._consume.channel()
        receiver = RabbitMQReceiver(
            wire, queue, intake, self._site.clock, self._config.consumer_timeout,
            counted=self._config.queue_type == "quorum", depth=self._topology.depth,
        )  # fmt: skip
        try:
            await receiver.begin()
        except BaseException:
            await receiver.close()
            raise
        return receiver

    async def remove(self, channel: Channel) -> None:
        """Delete the group's queue, and those of its retries and dead letters."""
        await self._topology.remove(channel)

    async def check(self) -> None:
        """Open a channel, and close it."""
        channel = await self._consume.channel()
        await channel.close(CONNECT)

    async def close(self) -> None:
        """Close both connections. Idempotent."""
        await asyncio.gather(self._publish.end(), self._consume.end())
        try:
            async with asyncio.timeout(GOODBYE):
                await self._client.close()
        except TimeoutError:
            self._site.log.debug("the native connection did not close within %g s", GOODBYE)

    def unwrap(self, kind: type[T]) -> T:
        """Return the `aio_pika.Connection` to this server; it is connected by its own ``connect``."""
        if isinstance(self._client, kind):
            return self._client
        return super().unwrap(kind)

    def __repr__(self) -> str:
        return f"<RabbitMQConnection {self._consume!r} {self._publish!r}>"


def _url(config: RabbitMQConfig) -> URL:
    """Return the address, the user and the options as aio-pika has them."""
    options: dict[str, Any] = {"heartbeat": HEARTBEAT, **config.native}
    if config.url is not None:
        url = make_url(config.url.reveal(), **options)
        if config.username is not None:
            url = url.with_user(config.username)
        if config.password is not None:
            url = url.with_password(config.password.reveal())
        return url
    return make_url(
        host=config.host,
        port=config.port or (5671 if config.tls else 5672),
        ssl=bool(config.tls),
        virtualhost=config.vhost,
        login=config.username or "guest",
        password=config.password.reveal() if config.password else "guest",
        **options,
    )


def _context(tls: bool | Tls, query: Mapping[str, str]) -> ssl.SSLContext:
    """Make the TLS context of `Tls`, or of the options that aio-pika has in a URL."""
    if not isinstance(tls, Tls):
        ca, cert, key = query.get("cafile"), query.get("certfile"), query.get("keyfile")
        tls = Tls(ca=ca, cert=cert, key=key, verify=query.get("no_verify_ssl", "0") == "0")
    context = tls.context()
    if "capath" in query:
        context.load_verify_locations(capath=query["capath"])
    return context


def _endpoint(url: URL, context: ssl.SSLContext | None, site: Site) -> Endpoint:
    """Return where and how to connect."""
    words = "-".join((site.product, site.env, site.broker, str(os.getpid()), secrets.token_hex(4)))
    external = str(url.query.get("auth", "plain")).upper() == "EXTERNAL"
    return Endpoint(
        host=url.host or "localhost",
        port=url.port or (5671 if context else 5672),
        tls=context,
        vhost=unquote(url.raw_path[1:]) or "/",
        mechanism="EXTERNAL" if external else "PLAIN",
        response="" if external else f"\0{url.user or 'guest'}\0{url.password or 'guest'}",
        heartbeat=int(url.query.get("heartbeat", HEARTBEAT)),
        name=str(url.query.get("name") or re.sub(r"[^!-~]", "_", words)),
    )
