"""What a stored message is, and how a record becomes one. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from ductape.adapter import Capabilities, Channel, Outgoing, Purpose
from ductape.errors import AdapterError, Fault

__all__ = ["Entry", "instant", "limited", "oversize", "pack", "physical", "roughly", "unpack"]

_MAGIC = b"\x93ductape"


class Entry(msgspec.Struct, eq=False, gc=False):
    """One stored message."""

    seq: int
    """Its number on the channel, or in its partition."""
    body: bytes
    headers: Mapping[str, str]
    key: str | None
    stored_at: float
    position: str
    size: int
    due: float = 0.0
    """On the monotonic clock: not delivered before."""
    only: str | None = None
    """The one group that it is for; None: all."""
    refs: int = 0
    """How many groups have not settled it (queues)."""


def physical(channel: Channel) -> str:
    """Return the name of the channel on this broker."""
    if channel.purpose is Purpose.EVENTS:
        return channel.name
    return f"{channel.name}.{channel.group}.{channel.purpose.value}"


def roughly(body: bytes, headers: Mapping[str, str]) -> int:
    """Return about how much memory a message takes."""
    return len(body) + 40 * len(headers) + len("".join(headers.values()))


def pack(headers: Mapping[str, str], body: bytes) -> bytes:
    """Wrap body and headers in one envelope, for a broker that carries no headers."""
    return _MAGIC + msgspec.msgpack.encode((dict(headers), body))


def unpack(body: bytes) -> tuple[bytes, Mapping[str, str], str]:
    """Return body, headers and why they cannot be read; what is no envelope is a foreign body, without headers."""
    if not body.startswith(_MAGIC):
        return body, {}, ""
    try:
        headers, inner = msgspec.msgpack.decode(body[len(_MAGIC) :], type=tuple[dict[str, str], bytes])
    except (msgspec.MsgspecError, ValueError):
        return body, {}, "the envelope is broken"
    return inner, headers, ""


def limited(caps: Capabilities) -> bool:
    """Tell whether records have to be measured before they are stored."""
    return any(size is not None for size in (caps.max_headers, caps.max_header, caps.max_body, caps.max_message))


def oversize(record: Outgoing, caps: Capabilities) -> str:
    """Return why a record can never be stored here, or nothing."""
    headers, body = record.headers, len(record.body)
    if caps.max_body is not None and body > caps.max_body:
        return f"a body of {body} bytes; the channel takes {caps.max_body}"
    if caps.max_headers is not None and len(headers) > caps.max_headers:
        return f"{len(headers)} headers; the channel takes {caps.max_headers}"
    sizes = [len(value.encode()) for value in headers.values()]
    if caps.max_header is not None and max(sizes, default=0) > caps.max_header:
        return f"a header of {max(sizes)} bytes; the channel takes {caps.max_header}"
    whole = body + sum(sizes) + sum(len(name.encode()) for name in headers)
    if caps.max_message is not None and whole > caps.max_message:
        return f"{whole} bytes of body and headers; the channel takes {caps.max_message}"
    return ""


def instant(start: str | None, history: bool) -> float:
    """Return from which instant on a new group gets stored messages: 0 for all of them, infinity for none.

    Raises:
        AdapterError: ``CONFIG`` if `start` is none of ``earliest``, ``latest`` and an RFC 3339 instant.
    """
    if start == "latest" or not history:
        return math.inf
    if start is None or start == "earliest":
        return 0.0
    try:
        moment = datetime.fromisoformat(start)
    except ValueError:
        text = f"start {start!r} is none of earliest, latest and an RFC 3339 instant"
        raise AdapterError(Fault.CONFIG, text) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
