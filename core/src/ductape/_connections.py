"""Connections that are kept: made when they are needed, dropped when they broke, their channels declared first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from ._bounds import CHECK, CONNECT, DECLARE, RECEIVER, SENDER, Backoff, Bounds, Call
from ._capabilities import Capabilities
from ._intake import Opened
from ._records import Channel, Intake, Purpose
from .adapter import Adapter, Connection, Removable, Sender, Site
from .errors import AdapterError, CapabilityError, Fault

T = TypeVar("T")


class Link:
    """The connection to one broker in one environment."""

    def __init__(
        self, provider: str, adapter: Adapter[Any], config: msgspec.Struct, site: Site, bounds: Bounds
    ) -> None:
        """Describe a link; it connects when something is opened on it."""
        self.provider, self.adapter, self.config, self.site = provider, adapter, config, site
        self.error: AdapterError | None = None
        """Why the last attempt to connect failed; None once one went well."""
        self.known: dict[tuple[str, str, str], Capabilities] = {}
        """What the channels that were opened here can do, by their identity."""
        self._bounds = bounds
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._closed = False

    def backoff(self) -> Backoff:
        """Return the pace of reopening: ``max_reconnect_attempts`` and ``reconnect_time_wait`` (ms) of the config."""
        tries = getattr(self.config, "max_reconnect_attempts", None)
        wait = getattr(self.config, "reconnect_time_wait", None)
        return Backoff(wait / 1000 if wait else 0.05, tries=tries if tries is not None and tries >= 0 else None)

    @property
    def connected(self) -> bool:
        """There is a connection."""
        return self._connection is not None

    async def connection(self) -> Connection:
        """Return the live connection, connecting if there is none.

        Raises:
            AdapterError: It cannot be made now.
        """
        if self._connection is not None:
            return self._connection
        if self._closed:
            raise AdapterError(Fault.CONFIG, "the client is closed")
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> Connection:
        try:
            connection = await self._bounds.call(
                self.adapter.connect(self.config, self.site), CONNECT, late=self._bounds.close
            )
        except AdapterError as error:
            self.error = error
            raise
        if self._closed:
            self._bounds.background(self._bounds.close(connection))
            raise AdapterError(Fault.LOST, "closed")
        self._connection, self.error = connection, None
        return connection

    def discard(self, connection: Connection, error: AdapterError) -> None:
        """Close a connection that broke; the next opening makes another."""
        if self._connection is connection:
            self._connection, self.error = None, error
            self._bounds.background(self._bounds.close(connection))

    async def prepare(
        self, channel: Channel, groups: Sequence[str], group: str = "", start: str | None = None
    ) -> tuple[Connection, Capabilities]:
        """Declare a channel with every group of its topic; tell what it can do here, for the group that is joined.

        Args:
            channel: The channel.
            groups: All that are declared with it.
            group: The one of them that is joined, if one is.
            start: Where that one begins.
        """
        connection = await self.connection()
        declared = [channel]
        if channel.purpose is Purpose.EVENTS and groups:
            replace = msgspec.structs.replace
            declared = [replace(channel, group=each, start=start if each == group else None) for each in groups]
        for one in declared:
            await self._on(connection, connection.declare(one), DECLARE)
        asked = msgspec.structs.replace(channel, group=group or channel.group)
        can = connection.capabilities(asked) or self.adapter.capabilities
        self.known[channel.identity] = can
        return connection, can

    async def _on(
        self, connection: Connection, call: Call[T], seconds: float, late: Callable[[T], Call[object]] | None = None
    ) -> T:
        """Make a call that opens something; a connection on which it is ``LOST`` is given up."""
        try:
            return await self._bounds.call(call, seconds, late)
        except AdapterError as error:
            if error.fault is Fault.LOST:
                self.discard(connection, error)
            raise

    async def open_sender(self, channel: Channel, groups: Sequence[str]) -> Sender:
        """Declare, then open a sender."""
        connection, _ = await self.prepare(channel, groups)
        return await self._on(connection, connection.sender(channel), SENDER, self._bounds.close)

    async def open_receiver(self, channel: Channel, groups: Sequence[str], intake: Intake) -> Opened:
        """Declare, then open a receiver and join the group."""
        connection, can = await self.prepare(channel, groups, intake.group, intake.start)
        return await self._on(connection, connection.receiver(channel, intake), RECEIVER, self._bounds.close), can

    async def remove(self, channel: Channel) -> None:
        """Remove a channel's group; raises `AdapterError`, or `CapabilityError` where the adapter cannot."""
        connection = await self.connection()
        if not isinstance(connection, Removable):
            text = f"{self.provider} cannot remove groups. Remove it with the provider's own tools."
            raise CapabilityError("CAPABILITY_MISSING", text, capability="remove")
        await self._on(connection, connection.remove(channel), DECLARE)

    async def check(self) -> None:
        """Make one round trip; raises `AdapterError`."""
        await self._bounds.call((await self.connection()).check(), CHECK)

    async def close(self) -> None:
        """Close the connection; one that is being made is closed when it is there."""
        self._closed = True
        if self._connecting is not None:
            self._bounds.keep(self._connecting)
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._bounds.close(connection)

    def __repr__(self) -> str:
        state = "connected" if self._connection else f"failing ({self.error})" if self.error else "not connected"
        return f"<Link {self.site.broker} env={self.site.env} {self.provider} {state}>"
