"""What a handler and a middleware see of a message."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Generic, TypeVar

import msgspec

from . import _headers as h
from ._records import Delivery

T_co = TypeVar("T_co", covariant=True)


class Session:
    """Who published: a tag, and a token that is never shown."""

    __slots__ = ("tag", "token")

    def __init__(self, tag: str, token: str) -> None:
        """Name a session."""
        self.tag = tag
        self.token = token

    def __repr__(self) -> str:
        return f"Session(tag={self.tag!r}, token='***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Session) and (other.tag, other.token) == (self.tag, self.token)

    def __hash__(self) -> int:
        return hash((self.tag, self.token))


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """The broker's word that a message is stored."""

    event: str
    id: str
    position: str = ""
    """Where it is, as text for logs."""
    duplicate: bool = False
    """The broker had it already."""

    def __repr__(self) -> str:
        return f"<Receipt {self.event} id={self.id} at {self.position or 'broker'}>"


class Delivered:
    """What every message that was delivered tells about itself."""

    __slots__ = ("_delivery",)

    def __init__(self, delivery: Delivery) -> None:
        """Wrap a delivery. For the kernel."""
        self._delivery = delivery

    @property
    def id(self) -> str:
        """The message's identity: the same in every delivery, retry and replay. Deduplicate by it."""
        return self._delivery.headers.get(h.ID) or self._delivery.position

    @property
    def headers(self) -> Mapping[str, str]:
        """The publisher's headers and the content type, without ductape's own."""
        return {name: value for name, value in self._delivery.headers.items() if not name.startswith("ductape-")}

    @property
    def raw_headers(self) -> Mapping[str, str]:
        """All headers as they arrived, ductape's own and the session's token included: not a copy, and only to read."""
        return self._delivery.headers

    @property
    def session(self) -> Session | None:
        """The publisher's session, if it gave one."""
        tag = self._delivery.headers.get(h.SESSION_TAG)
        return Session(tag, self._delivery.headers.get(h.SESSION_TOKEN, "")) if tag else None

    @property
    def body(self) -> bytes:
        """The bytes as they arrived."""
        return self._delivery.body


class Event(Delivered, Generic[T_co]):
    """One message as its handler receives it. Annotate a parameter ``Event`` or ``Event[Order]`` to get it.

    Attributes:
        name: ``brokerTag:topicTag``.
        message: The decoded payload.
        group: The group whose subscription handles it.
        attempt: Which attempt this is, from 1.
    """

    __slots__ = ("attempt", "group", "message", "name")

    def __init__(self, name: str, group: str, attempt: int, message: T_co, delivery: Delivery) -> None:
        """Wrap a delivery. For the kernel."""
        self.name = name
        self.group = group
        self.attempt = attempt
        self.message = message
        self._delivery = delivery

    @property
    def key(self) -> str | None:
        """What order is kept within."""
        return self._delivery.key

    @property
    def time(self) -> datetime | None:
        """When the broker stored this copy, where it tells."""
        stored = self._delivery.stored_at
        return None if stored is None else datetime.fromtimestamp(stored, UTC)

    @property
    def position(self) -> str:
        """Where the broker keeps it, as text for logs."""
        return self._delivery.position

    def __repr__(self) -> str:
        return f"<Event {self.name} id={self.id} group={self.group} attempt={self.attempt} at {self.position}>"


class Message(msgspec.Struct, eq=False):
    """A message on its way out, as publish middleware sees it. Headers may be added until it is sent.

    Attributes:
        event: ``brokerTag:topicTag``.
        payload: What the application published.
        body: Its bytes.
        headers: What travels with it, ductape's own included.
        id: The message's identity.
        key: What order is kept within.
        delay: Seconds until it may be delivered.
        deadline: On the client's clock, when the publish fails.
    """

    event: str
    payload: object
    body: bytes
    headers: dict[str, str]
    id: str
    key: str | None = None
    delay: float = 0.0
    deadline: float = 0.0

    def __repr__(self) -> str:
        return f"<Message {self.event} id={self.id} {len(self.body)} bytes>"
