"""A live client: declares, opens, and tells what the servers are able to do."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from ductape.adapter import (
    AdapterError,
    Capabilities,
    Channel,
    Connection,
    Count,
    Durability,
    Fault,
    Groups,
    Intake,
    Order,
    Purpose,
    Receiver,
    Removable,
    Sender,
    Site,
)

from . import NatsAdapter
from ._config import NatsConfig
from ._core import SubjectReceiver
from ._link import Link
from ._receiver import StreamReceiver
from ._sender import StreamSender, SubjectSender
from ._streams import PINNING, Streams
from ._wire import names_of

__all__ = ["NatsConnection"]

CHECK = 4.5
"""Seconds for a look at the connection, below the bound of the contract."""

T = TypeVar("T")


class NatsConnection(Connection, Removable):
    """Streams and core subjects of one NATS system."""

    def __init__(self, config: NatsConfig, site: Site) -> None:
        """Prepare; nothing is connected."""
        self._config, self._site = config, site
        self._link = Link(config, site)
        self._streams = Streams(self._link, config, create=site.create, log=site.log)

    @classmethod
    async def open(cls, config: NatsConfig, site: Site) -> NatsConnection:
        """Connect and authenticate.

        Raises:
            AdapterError: ``CONFIG`` or ``TRANSIENT``.
        """
        connection = cls(config, site)
        try:
            await connection._link.open()
        except BaseException:
            await connection.close()
            raise
        return connection

    def capabilities(self, channel: Channel) -> Capabilities:
        """Return what holds for a channel here."""
        most = self._link.client.max_payload
        if self._lossy(channel):
            return Capabilities(
                durability=Durability.NONE, groups=Groups.NONE, count=Count.NONE, confirmed_ack=False, max_message=most
            )
        stream = self._streams.known.get(names_of(channel).subject)
        if stream is not None and stream.max_size is not None:
            most = min(most, stream.max_size)
        return msgspec.structs.replace(
            NatsAdapter.capabilities,
            durability=stream.durability if stream is not None else Durability.STORED,
            order=Order.TOTAL if self._link.version >= PINNING else Order.NONE,
            lease=self._config.lease,
            max_message=most,
        )

    def _lossy(self, channel: Channel) -> bool:
        """Whether the channel is a core subject: a topic may differ from its broker."""
        mode = channel.options.get("mode", self._config.mode)
        if mode not in ("jetstream", "core"):
            raise AdapterError(Fault.CONFIG, f"options.mode: {mode!r} is not one of jetstream, core")
        return mode == "core" and channel.purpose is Purpose.EVENTS

    async def declare(self, channel: Channel) -> None:
        """Create the stream and the group's consumer, or verify them."""
        if self._lossy(channel):
            names_of(channel)
            await self._link.open()
            return
        await self._streams.stream(channel)
        if channel.group and channel.purpose is Purpose.EVENTS:
            await self._streams.group(channel, channel.group, channel.order, channel.start)

    async def sender(self, channel: Channel) -> Sender:
        """Open a sender; all of them share one connection."""
        await self._link.open()
        subject = names_of(channel).subject
        if self._lossy(channel):
            return SubjectSender(self._link, subject)
        stream = self._streams.known.get(subject) or await self._streams.stream(channel)
        return StreamSender(self._link, subject, stream.max_size, ordered=channel.order is not Order.NONE)

    async def receiver(self, channel: Channel, intake: Intake) -> Receiver:
        """Open a receiver and join the group."""
        clock, log = self._site.clock, self._site.log
        if self._lossy(channel):
            listener = SubjectReceiver(self._link, names_of(channel).subject, intake.window, clock)
            return await _opened(listener)
        start = intake.start if intake.start is not None else channel.start
        group = await self._streams.group(channel, intake.group, intake.order, start)
        return await _opened(StreamReceiver(self._link, group, intake.window, clock, log))

    async def remove(self, channel: Channel) -> None:
        """Delete the group's consumer, and its private streams."""
        if not self._lossy(channel):
            await self._streams.remove(channel)

    async def check(self) -> None:
        """Make a round trip."""
        end = self._site.clock.now() + CHECK
        await self._link.open(CHECK - 1.0)
        await self._link.ping(end - self._site.clock.now())

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        await self._link.end()

    def unwrap(self, kind: type[T]) -> T:
        """Return the connected `nats.aio.client.Client`; after a broken connection it is another one."""
        client = self._link.client
        return client if isinstance(client, kind) else super().unwrap(kind)

    def __repr__(self) -> str:
        return f"<NatsConnection {self._link!r} streams={len(self._streams.known)}>"


async def _opened(receiver: SubjectReceiver | StreamReceiver) -> Receiver:
    """Open a receiver, or close it: it watches the connection."""
    try:
        await receiver.open()
    except BaseException:
        await receiver.close()
        raise
    return receiver
