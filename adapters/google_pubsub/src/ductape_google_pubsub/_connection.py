"""A live client: one channel for what is short, and others for the polls that stay open."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

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
    Removable,
    Sender,
    Site,
)

from . import GooglePubSubAdapter
from ._access import Access
from ._api import CALL, CLOSE, Api, Polls, TopicRequest, code_of
from ._config import GooglePubSubConfig
from ._receiver import PullReceiver
from ._sender import TopicSender
from ._topology import Topology
from ._wire import Names

__all__ = ["GooglePubSubConnection"]

T = TypeVar("T")


class GooglePubSubConnection(Connection, Removable):
    """Topics and subscriptions of one project."""

    def __init__(self, config: GooglePubSubConfig, site: Site, access: Access) -> None:
        """Prepare; the channel connects with its first call."""
        self._config, self._site, self._access = config, site, access
        self._names = Names(access.project, config.subscription_name)
        self._channel = access.channel()
        self._api = Api(self._channel, self._alive)
        self._topology = Topology(self._api, self._names, config, site)
        self._polls = Polls(access.channel, self._alive)
        self._closed = False

    @classmethod
    async def open(cls, config: GooglePubSubConfig, site: Site) -> GooglePubSubConnection:
        """Authenticate, connect, and make one round trip.

        Raises:
            AdapterError: ``CONFIG`` or ``TRANSIENT``.
        """
        connection = cls(config, site, await Access.of(config))
        try:
            await connection.check()
        except BaseException:
            await connection.close()
            raise
        return connection

    def _alive(self) -> bool:
        return not self._closed

    def capabilities(self, channel: Channel) -> Capabilities:
        """Return what holds for a channel here."""
        return self._topology.capabilities(channel, GooglePubSubAdapter.capabilities)

    async def declare(self, channel: Channel) -> None:
        """Create the topic and the subscription, or verify them."""
        await self._topology.declare(channel)

    async def remove(self, channel: Channel) -> None:
        """Delete the group's subscription, and its private topics with theirs."""
        await self._topology.remove(channel)

    async def sender(self, channel: Channel) -> Sender:
        """Open a sender; all of them share one channel."""
        self._api.check_open()
        return TopicSender(self._api, self._names.topic(channel), ordered=_ordered(channel), clock=self._site.clock)

    async def receiver(self, channel: Channel, intake: Intake) -> Receiver:
        """Open a receiver: what its group's subscription holds, it polls."""
        self._api.check_open()
        facts = self._topology.facts(channel, intake.group)
        name = self._names.subscription(channel, intake.group)
        return PullReceiver(self._api, self._polls, name, facts, intake.window, config=self._config, site=self._site)

    async def check(self) -> None:
        """Ask for a topic that need not exist: any answer but a refused login is one."""
        name = f"projects/{self._names.project}/topics/ductape-check"
        try:
            await self._api.get_topic(TopicRequest(topic=name), timeout=CALL / 2, where=name)
        except AdapterError as error:
            missing = code_of(error) == "NOT_FOUND" and error.fault is Fault.LOST  # CONFIG: its whole project is
            if not missing and code_of(error) != "PERMISSION_DENIED":  # rights are for those who use them
                raise

    async def close(self) -> None:
        """Close every channel. Idempotent."""
        if not self._closed:
            self._closed = True
            await asyncio.gather(self._polls.close(), self._channel.close(CLOSE), return_exceptions=True)
            self._access.close()

    def unwrap(self, kind: type[T]) -> T:
        """Return the `grpc.aio.Channel`, or the library's asynchronous client, on it."""
        if isinstance(self._channel, kind):
            return self._channel
        from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient

        made: Any = kind
        if made in (PublisherAsyncClient, SubscriberAsyncClient):
            transport = made.get_transport_class("grpc_asyncio")(channel=self._channel)
            return made(transport=transport)  # type: ignore[no-any-return]  # it is of this kind
        return super().unwrap(kind)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<GooglePubSubConnection {self._names.project} at {self._access.target} {state}>"


def _ordered(channel: Channel) -> bool:
    return channel.order is not Order.NONE and channel.purpose is Purpose.EVENTS
