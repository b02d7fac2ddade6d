"""Records to stream fields and back, names of keys, and what an error means. Pure: no client, no I/O.

An entry is ``body``, then our own fields (they begin with ``_``), then one field per header, under its own name.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from ductape.adapter import AdapterError, Channel, Delivery, Epoch, Fault, Outgoing, Purpose

__all__ = [
    "Keys",
    "Raw",
    "delivery_of",
    "envelope",
    "fault_of",
    "fields_of",
    "keys_of",
    "milliseconds",
    "opened",
    "start_id",
]

Field = str | bytes
Raw = tuple[bytes, int, list[bytes]]
"""Id, count and fields of an entry."""

BODY, KEY, FAILED, COUNT, ORIGIN = b"body", b"_key", b"_failed", b"_count", b"_origin"

_WORDS: Final = (
    (
        Fault.TRANSIENT,
        "OOM LOADING BUSY MISCONF NOREPLICAS MASTERDOWN CLUSTERDOWN TRYAGAIN READONLY NOSCRIPT",
    ),
    (Fault.LOST, "NOGROUP UNBLOCKED"),
    (Fault.CONFIG, "NOAUTH WRONGPASS NOPERM DENIED WRONGTYPE MOVED ASK CROSSSLOT"),
)
_FAULTS: Final = {word: fault for fault, words in _WORDS for word in words.split()}
REOPEN: Final = ("READONLY", "NOSCRIPT", "NOAUTH", "MASTERDOWN")
"""After these only a new connection helps: it finds the new master, logs in, and loads the scripts."""
_TEXTS: Final = (
    ("ERR max number of clients", Fault.TRANSIENT),
    ("ERR unknown command", Fault.CONFIG),
    ("ERR DB index", Fault.CONFIG),
    ("ERR invalid DB index", Fault.CONFIG),
    ("ERR string exceeds", Fault.MESSAGE),
    ("ERR The ID specified in XADD", Fault.CONFIG),
)


def fault_of(error: BaseException, where: str = "") -> AdapterError:
    """Return the `AdapterError` for an error reply. Redis quotes arguments, or its script, in some: those are cut."""
    text = re.split(" with args beginning with| script: ", str(error), maxsplit=1)[0][:200]
    fault = _FAULTS.get(text.partition(" ")[0].rstrip(":"))
    if fault is None:
        fault = next((fault for start, fault in _TEXTS if text.startswith(start)), Fault.LOST)
    result = AdapterError(fault, f"{where}: {text}" if where else text)
    result.__cause__ = error
    return result


class Keys(NamedTuple):
    """The keys of a channel. All but the stream itself share its hash slot by their ``{}``."""

    stream: str
    due: str
    """Sorted set of what is sent with a delay."""
    back: str
    """The stream on which a group's retried and released messages come back: private to it."""
    back_due: str


def keys_of(channel: Channel, group: str) -> Keys:
    """Return the keys of a channel as `group` uses it."""
    if channel.purpose is Purpose.EVENTS:
        back = f"{{{channel.name}}}:{group}:retry"
        return Keys(channel.name, f"{{{channel.name}}}:due", back, back + ":due")
    own = f"{{{channel.name}}}:{channel.group}:{channel.purpose.value}"
    return Keys(own, own + ":due", own, own + ":due")


def start_id(start: str | None) -> str:
    """Return the id after which a new group begins; unset means all that the stream keeps.

    Raises:
        AdapterError: ``CONFIG`` if it is neither a word nor an RFC 3339 instant with an offset.
    """
    if start is None or start == "earliest":
        return "0"
    if start == "latest":
        return "$"
    try:
        instant = msgspec.convert(start, type=Annotated[datetime, msgspec.Meta(tz=True)])
    except msgspec.ValidationError:
        text = f"start {start!r}: use 'earliest', 'latest' or an RFC 3339 instant such as 2026-11-23T10:00:00Z"
        raise AdapterError(Fault.CONFIG, text) from None
    # The id is the last one that the group does not get: the highest of the millisecond before.
    before = math.ceil(instant.timestamp() * 1000) - 1
    return f"{before}-18446744073709551615" if before >= 0 else "0"


def milliseconds(delay: float) -> int:
    """Return a delay as Redis takes it; never shorter."""
    return math.ceil(delay * 1000)


def fields_of(record: Outgoing, *, keep_origin: bool = False) -> list[Field]:
    """Return the fields of a record. A header that is named like one of our fields gets a ``_`` in front."""
    fields: list[Field] = [BODY, record.body]
    if record.key is not None:
        fields += (KEY, record.key)
    if keep_origin and record.origin is not None and record.origin.position:
        fields += (ORIGIN, record.origin.position)
    for name, value in record.headers.items():
        fields.append("_" + name if name[:1] == "_" or name == "body" else name)
        fields.append(value)
    return fields


def _unescape(name: str) -> str:
    return name[1:] if name.startswith("__") or name == "_body" else name


_names: dict[bytes, str] = {}
"""Header names seen, decoded: there are few, and decoding one is half the cost of a header."""


def delivery_of(stream: str, raw: Raw, epoch: Epoch, token: object, body_field: str | None) -> Delivery:
    """Return an entry as a delivery, without its lease. What cannot be read gets `Delivery.error`."""
    id_, count, fields = raw
    try:
        if fields[0] != BODY:
            return _general(stream, raw, epoch, token, body_field)
        key, first = (fields[3].decode(), 4) if len(fields) > 2 and fields[2] == KEY else (None, 2)
        names = _names
        headers = {
            names[name]: value.decode() for name, value in zip(fields[first::2], fields[first + 1 :: 2], strict=True)
        }
    except (KeyError, ValueError):
        return _general(stream, raw, epoch, token, body_field)
    stored_at = int(id_.partition(b"-")[0]) / 1000
    return Delivery(fields[1], headers, epoch, token, key, None, count, None, stored_at, f"{stream}@{id_.decode()}")


def _general(stream: str, raw: Raw, epoch: Epoch, token: object, body_field: str | None) -> Delivery:
    """Read an entry that came back, has headers not seen before, or is not ours."""
    id_, count, fields = raw
    body = key = origin = None
    failed = 0
    others: dict[bytes, bytes] = {}
    pairs = iter(fields)
    try:
        for name, value in zip(pairs, pairs, strict=True):
            if name == BODY:
                body = value
            elif name == KEY:
                key = value.decode()
            elif name == FAILED:
                failed = int(value)
            elif name == COUNT:
                count += int(value)
            elif name == ORIGIN:
                origin = value.decode()
            else:
                others[name] = value
        if body is None:
            body, headers = _foreign(others, body_field)
        else:
            headers = {_named(name): value.decode() for name, value in others.items()}
    except ValueError:
        return _unreadable(stream, raw, epoch, token, body_field)
    position = origin or f"{stream}@{id_.decode()}"
    stored = position[position.rfind("@") + 1 :].partition("-")[0]
    stored_at = int(stored) / 1000 if stored.isdigit() else None
    return Delivery(body, headers, epoch, token, key, None, count, None, stored_at, position, failed)


def _named(name: bytes) -> str:
    """Return the header that a field is, and remember it."""
    text = _unescape(name.decode())
    if len(_names) < 1000 and len(name) < 100:
        _names[name] = text
    return text


def _foreign(texts: dict[bytes, bytes], body_field: str | None) -> tuple[bytes, dict[str, str]]:
    """Read an entry of a producer that does not use ductape."""
    if body_field is not None:
        body = texts.pop(body_field.encode(), None)
        if body is not None:
            return body, {name.decode(): value.decode() for name, value in texts.items()}
    return msgspec.json.encode({name.decode(): value.decode() for name, value in texts.items()}), {}


def _unreadable(stream: str, raw: Raw, epoch: Epoch, token: object, body_field: str | None) -> Delivery:
    """Hand over what can be read, and say what cannot."""
    id_, count, fields = raw
    named = (BODY, body_field.encode()) if body_field else (BODY,)
    body, bad = b"", []
    headers: dict[str, str] = {}
    for name, value in zip(fields[::2], fields[1::2], strict=False):
        if name in named:
            body = value
            continue
        try:
            headers[_unescape(name.decode())] = value.decode()
        except ValueError:
            bad.append(ascii(name)[:60])
    error = f"fields that are not UTF-8: {', '.join(bad[:5])}" if bad else "a field of ductape's own is no number"
    position = f"{stream}@{id_.decode()}"
    return Delivery(body, headers, epoch, token, count=count, position=position, error=error)


_Envelope = tuple[Literal["ductape/1"], bytes, dict[str, str], str | None]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Envelope).decode
_MARK: Final = b"\x94\xa9ductape/1"
"""How an envelope begins: an array of four whose first is the text ``ductape/1``."""


def envelope(record: Outgoing) -> bytes:
    """Return a record as one pub/sub message: MessagePack of ``["ductape/1", body, headers, key]``."""
    return _encode(("ductape/1", record.body, record.headers, record.key))


def opened(channel: str, data: bytes, epoch: Epoch) -> Delivery:
    """Return a pub/sub message as a delivery; without an envelope it is a foreign body."""
    if not data.startswith(_MARK):
        return Delivery(data, {}, epoch, position=channel)
    try:
        _, body, headers, key = _decode(data)
    except msgspec.MsgspecError:
        return Delivery(data, {}, epoch, position=channel, error="a broken envelope")
    return Delivery(body, headers, epoch, None, key, position=channel)
