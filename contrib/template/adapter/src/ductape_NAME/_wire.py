"""Records to the client and back, names, and what an error means. No I/O."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from ductape.adapter import Channel, Delivery, Epoch, Fault, Outgoing, Purpose

__all__ = ["FAULTS", "Message", "Server", "delivery_of", "message_of", "name_of"]

# Every native error, most special first; what is not listed is LOST.
FAULTS: Final = (
    (ConnectionError, Fault.LOST),
    (TimeoutError, Fault.TRANSIENT),
    (LookupError, Fault.CONFIG),
)


class Message(NamedTuple):
    """A message as the server has it."""

    body: bytes
    headers: dict[str, str]
    key: str | None


class Server:
    """Stands for the client library: delete it, and see what no longer type-checks."""

    all: Final[dict[str, Server]] = {}

    def __init__(self) -> None:
        """Begin without queues."""
        self.queues: dict[str, deque[Message]] = {}

    @classmethod
    def at(cls, name: str) -> Server:
        """Return the server of this name."""
        return cls.all.setdefault(name, cls())


def name_of(channel: Channel) -> str:
    """Return the native name of a channel."""
    if channel.purpose is Purpose.EVENTS:
        return channel.name
    return f"{channel.name}.{channel.group}.{channel.purpose.value}"


def message_of(record: Outgoing) -> Message:
    """Return a record as the client takes it; body and headers go in as they are."""
    return Message(record.body, dict(record.headers), record.key)


def delivery_of(message: Message, queue: str, epoch: Epoch) -> Delivery:
    """Return what the client gave as a delivery. The token is what settling needs."""
    return Delivery(message.body, message.headers, epoch, token=message, key=message.key, position=queue)
