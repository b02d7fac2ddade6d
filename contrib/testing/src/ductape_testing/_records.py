"""What a bench tells: messages that were stored, calls of handlers, dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ductape.adapter import Outgoing
from ductape.errors import DuctapeError
from ductape_memory import Entry

if TYPE_CHECKING:
    from ductape._codec import Codecs

__all__ = ["Call", "Letter", "Sent", "letter_of", "sent_of"]


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was published, and stored."""

    event: str
    message: Any
    """The payload, read back from the bytes: plain values; bytes where no codec reads them."""
    id: str
    key: str | None
    headers: Mapping[str, str]
    """The publisher's, without ductape's own."""
    delay: float
    at: float
    """Seconds of virtual time since the bench opened."""


class Call(msgspec.Struct, kw_only=True):
    """One call of a handler. Of a batch handler there is one for each message, with the outcome of all."""

    event: str
    group: str
    handler: str
    message: Any
    """The payload as the handler gets it."""
    id: str
    key: str | None
    attempt: int
    at: float
    """When it began, in seconds of virtual time since the bench opened."""
    outcome: str = "running"
    """``running``, ``done`` or ``failed``."""
    error: BaseException | None = None
    """What it raised, or what was raised instead of running it."""


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter, as it is stored now."""

    event: str
    group: str
    id: str
    reason: str
    """``exhausted``, ``rejected``, ``unreadable``, ``crash-loop`` or ``unmatched``."""
    error: str
    """Class and text of the last error."""
    attempts: int
    message: Any
    """The payload as plain values; bytes where no codec reads them."""
    body: bytes
    key: str | None
    headers: Mapping[str, str]
    """The publisher's, without ductape's own."""


def sent_of(record: Outgoing, at: float, codecs: Codecs | None) -> Sent:
    """Read a record that was stored."""
    headers = record.headers
    return Sent(
        event=headers.get("ductape-event", ""),
        message=_payload(record.body, headers, codecs),
        id=record.id,
        key=record.key,
        headers=_plain(headers),
        delay=record.delay,
        at=at,
    )


def letter_of(entry: Entry, event: str, group: str, codecs: Codecs | None) -> Letter:
    """Read a message of a DEAD channel; what carries no event's name is one of `event`."""
    headers = entry.headers
    attempts = headers.get("ductape-dead-attempts", "")
    return Letter(
        event=headers.get("ductape-event", event),
        group=group,
        id=headers.get("ductape-id", entry.position),
        reason=headers.get("ductape-dead-reason", ""),
        error=headers.get("ductape-dead-error", ""),
        attempts=int(attempts) if attempts.isdigit() else 0,
        message=_payload(entry.body, headers, codecs),
        body=entry.body,
        key=entry.key,
        headers=_plain(headers),
    )


def _payload(body: bytes, headers: Mapping[str, str], codecs: Codecs | None) -> Any:
    """Read a payload as plain values; what no codec reads stays bytes."""
    if codecs is None:
        return body
    kind = headers.get("content-type")
    try:
        codec = codecs.find(kind) if kind is not None else codecs.default
        return codec.decoder(Any)(body)
    except (ValueError, TypeError, DuctapeError):
        return body


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if not name.startswith("ductape-")}
