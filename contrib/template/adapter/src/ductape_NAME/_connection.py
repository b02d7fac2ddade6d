"""A live client."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from ductape.adapter import AdapterError, Channel, Connection, Fault, Intake, Site, translate

from ._config import CamelConfig
from ._receiver import CamelReceiver
from ._sender import CamelSender
from ._wire import FAULTS, Message, Server, name_of

__all__ = ["CamelConnection"]

T = TypeVar("T")


class CamelConnection(Connection):
    """Opens senders and receivers, and declares queues."""

    def __init__(self, server: Server, site: Site) -> None:
        """Hold a client that is connected."""
        self._server, self._site = server, site
        self._receivers: list[CamelReceiver] = []
        self._closed = False

    @classmethod
    async def open(cls, config: CamelConfig, site: Site) -> CamelConnection:
        """Connect and authenticate; an absent server is TRANSIENT, a wrong password CONFIG."""
        with translate(FAULTS):
            return cls(Server.at(config.server), site)

    def queue(self, name: str) -> deque[Message]:
        """Return a queue; every call of every object comes through here, so a closed connection is LOST for all."""
        if self._closed:
            raise AdapterError(Fault.LOST, "the connection is closed")
        with translate(FAULTS):
            return self._server.queues[name]

    async def declare(self, channel: Channel) -> None:
        """Create the queue where that is allowed, else look for it."""
        if self._site.create and not self._closed:
            self._server.queues.setdefault(name_of(channel), deque())
        self.queue(name_of(channel))

    async def check(self) -> None:
        """Make one cheap round trip."""
        if self._closed:
            raise AdapterError(Fault.LOST, "the connection is closed")

    async def sender(self, channel: Channel) -> CamelSender:
        """Open a sender."""
        self.queue(name_of(channel))
        return CamelSender(self, name_of(channel))

    async def receiver(self, channel: Channel, intake: Intake) -> CamelReceiver:
        """Open a receiver."""
        self.queue(name_of(channel))
        receiver = CamelReceiver(self, name_of(channel), intake, self._site)
        self._receivers.append(receiver)
        return receiver

    async def close(self) -> None:
        """Close; what was out goes back to its queue."""
        for receiver in self._receivers:
            await receiver.close()
        self._closed = True

    def unwrap(self, kind: type[T]) -> T:
        """Return the server."""
        return self._server if isinstance(self._server, kind) else super().unwrap(kind)
