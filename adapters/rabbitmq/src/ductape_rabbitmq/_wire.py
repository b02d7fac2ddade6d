"""Records to frames and back, and what a reply code means. Pure: no client, no I/O.

A message is a method frame, a header frame with properties and a table of headers, and body frames. What does not
change from message to message is encoded once; tables that hold text only, as ours do, are read and written here, and
everything else that AMQP 0-9-1 allows is left to pamqp.
"""

from __future__ import annotations

import datetime
import math
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
from pamqp import commands, decode, frame

from ductape.adapter import AdapterError, Delivery, Epoch, Fault, Outgoing

__all__ = ["Content", "Extras", "Framer", "ack", "delivery_of", "fault_of", "message_id_of", "nack"]

CONTENT_TYPE, ENCODING, HEADERS, MODE, PRIORITY, CORRELATION, REPLY_TO, EXPIRATION, MESSAGE_ID, TIMESTAMP, TYPE, USER, \
    APP, CLUSTER = (1 << bit for bit in range(15, 1, -1))  # fmt: skip
"""The bits that say which properties follow, in the order in which they follow."""
PLAIN: Final = CONTENT_TYPE | HEADERS | MODE | MESSAGE_ID | TIMESTAMP
"""Messages with other properties take the general way."""
KEPT: Final = ENCODING | PRIORITY | CORRELATION | REPLY_TO | TYPE | APP
"""Properties of foreign messages that their copies keep. (A user must be the one who publishes.)"""

KEY: Final = "ductape-key"
OWN: Final = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
"""Headers that the server adds; they begin with one of these."""
ROUTES: Final = ("CC", "BCC")
"""Headers by which RabbitMQ routes; as text they close the channel, and in copies they would route again."""
YEAR_9999: Final = 253_370_764_800
RESERVE: Final = 16 * 1024
"""Bytes of a frame that messages leave to the headers of their dead letters."""

_FAULTS: Final = {
    312: Fault.CONFIG, 402: Fault.CONFIG, 403: Fault.CONFIG, 404: Fault.CONFIG, 405: Fault.CONFIG, 406: Fault.CONFIG,
    530: Fault.CONFIG, 540: Fault.CONFIG, 311: Fault.MESSAGE, 320: Fault.TRANSIENT, 506: Fault.TRANSIENT,
    541: Fault.TRANSIENT,
}  # fmt: skip
_HINTS: Final = (
    (403, "ACCESS_REFUSED - Login", "check config.username and config.password"),
    (403, "exclusive use", "another consumer has it alone: end that one"),
    (403, "", "grant config.username the permissions configure, write and read"),
    (405, "", "it is exclusive to another connection: end that one, or give config.queue another name"),
    (406, "inequivalent", "it has other arguments: delete it, make it like this one, or set create: false to use it"),
    (530, "limit", "raise the limit of connections or channels"),
    (530, "", "check config.vhost, and that config.username may use it"),
)  # fmt: skip


def fault_of(code: int, text: str, where: str = "") -> AdapterError:
    """Return the `AdapterError` for a reply code, with what to do about it; unlisted ones are ``LOST``."""
    fault = Fault.TRANSIENT if "limit" in text and code == 530 else _FAULTS.get(code, Fault.LOST)
    if code == 404 and ("down" in text or "process" in text):  # a queue whose node or leader is not there now
        fault = Fault.TRANSIENT
    said = f"{where}: {code} {text[:300]}" if where else f"{code} {text[:300]}"
    hint = next((hint for number, part, hint in _HINTS if number == code and part in text), "")
    return AdapterError(fault, f"{said}; {hint}" if hint else said)


class Extras(NamedTuple):
    """What a foreign message has that headers of text cannot say; its copies keep it."""

    properties: Mapping[int, bytes]
    """Encoded properties, by their bit."""
    fields: Mapping[str, tuple[str, bytes]]
    """Headers that are no text: how we show them, and their type and value as they are on the wire."""


# ---------------------------------------------------------------- out

_LENGTH: Final = struct.Struct(">I")
_FRAME: Final = struct.Struct(">BHI")
_CONTENT: Final = struct.Struct(">HHQH")
_STAMP: Final = struct.Struct(">Q")
_ACK: Final = struct.Struct(">BHIHHQBB")

_names: dict[str, bytes] = {}
"""Header names seen, encoded with their length and type: there are few."""


def ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Return the frame that acknowledges a delivery, or all up to it."""
    return _ACK.pack(1, channel, 13, 60, 80, tag, multiple, 0xCE)


def nack(channel: int, tag: int) -> bytes:
    """Return the frame that gives a delivery back to its queue."""
    return _ACK.pack(1, channel, 13, 60, 120, tag, 2, 0xCE)


def _name(name: str) -> bytes:
    if name.startswith(OWN) or name in ROUTES:
        raise ValueError(f"the header {name!r} is RabbitMQ's own")
    encoded = name.encode()
    if len(encoded) > 255:
        raise ValueError("a header's name has more than 255 bytes")
    head = bytes((len(encoded),)) + encoded + b"S"
    if len(_names) < 1000:
        _names[name] = head
    return head


def _short(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > 255:
        raise ValueError("a property has more than 255 bytes")
    return bytes((len(encoded),)) + encoded


class Framer:
    """Makes the frames of the messages that one channel publishes."""

    def __init__(self, channel: int, frame_max: int, *, copies: bool) -> None:
        """Prepare.

        Args:
            channel: The channel's number.
            frame_max: Bytes of the largest frame, its eight own ones included.
            copies: It stores copies of other messages, which have more headers.
        """
        self._channel, self._room, self._copies = channel, frame_max - 8, copies
        self._most = self._room if copies else self._room - RESERVE
        self._methods: dict[tuple[str, str], bytes] = {}

    def method(self, exchange: str, routing_key: str) -> bytes:
        """Return the frame that publishes to a route; what nobody gets comes back."""
        known = self._methods.get((exchange, routing_key))
        if known is None:
            publish = commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
            known = self._methods[exchange, routing_key] = frame.marshal(publish, self._channel)
        return known

    def frames(self, method: bytes, record: Outgoing, id_: bytes, stamp: int) -> bytes:
        """Return all frames of a message.

        Args:
            method: What `method` returned.
            record: The message.
            id_: The ``message_id``.
            stamp: The ``timestamp``, seconds since 1970, for what has none.

        Raises:
            ValueError: It cannot be written; the text holds nothing of it.
        """
        properties = self._properties(record, id_, stamp)
        if len(properties) > self._most - 12:
            raise ValueError(f"its headers have more than the {self._most - 12} bytes that one frame carries")
        body, channel = record.body, self._channel
        parts = [
            method, _FRAME.pack(2, channel, len(properties) + 12), b"\x00\x3c\x00\x00", _STAMP.pack(len(body)),
            properties, b"\xce",
        ]  # fmt: skip
        if len(body) <= self._room:
            if body:
                parts += (_FRAME.pack(3, channel, len(body)), body, b"\xce")
        else:
            for start in range(0, len(body), self._room):
                part = body[start : start + self._room]
                parts += (_FRAME.pack(3, channel, len(part)), part, b"\xce")
        return b"".join(parts)

    def _properties(self, record: Outgoing, id_: bytes, stamp: int) -> bytes:
        extras = None
        if self._copies and record.origin is not None:
            extras = record.origin.token[1]  # type: ignore[index]  # ours: see delivery_of
            stamp = int(record.origin.stored_at or stamp)
        flags = HEADERS | MODE | MESSAGE_ID | TIMESTAMP
        kind = b""
        table: list[bytes] = []
        headers = record.headers
        if self._copies and not headers.keys().isdisjoint(ROUTES):
            headers = {name: value for name, value in headers.items() if name not in ROUTES}
        for name, value in headers.items():
            if name == "content-type":
                flags |= CONTENT_TYPE
                kind = _short(value)
                continue
            if extras is not None and name in extras.fields and extras.fields[name][0] == value:
                table += ((_names.get(name) or _name(name))[:-1], extras.fields[name][1])
                continue
            encoded = value.encode()
            table += (_names.get(name) or _name(name), _LENGTH.pack(len(encoded)), encoded)
        if record.key is not None:
            encoded = record.key.encode()
            table += (b"\x0bductape-keyS", _LENGTH.pack(len(encoded)), encoded)
        encoded = b"".join(table)
        if record.delay <= 0 and extras is None:
            head = (flags.to_bytes(2, "big"), kind, _LENGTH.pack(len(encoded)), encoded, b"\x02")
            return b"".join((*head, bytes((len(id_),)), id_, _STAMP.pack(stamp)))
        found = {HEADERS: _LENGTH.pack(len(encoded)) + encoded, MODE: b"\x02", TIMESTAMP: _STAMP.pack(stamp)}
        found |= {MESSAGE_ID: bytes((len(id_),)) + id_, **({CONTENT_TYPE: kind} if kind else {})}
        if record.delay > 0:
            found[EXPIRATION] = _short(str(math.ceil(record.delay * 1000)))
        found |= extras.properties if extras is not None else {}
        ordered = sorted(found, reverse=True)
        return sum(ordered).to_bytes(2, "big") + b"".join(found[bit] for bit in ordered)


# ---------------------------------------------------------------- in


class Content(NamedTuple):
    """A message as it came."""

    header: bytes
    """The header frame's payload."""
    body: bytes


_seen: dict[bytes, str] = {}
"""Header names seen, decoded."""


def delivery_of(queue: str, tag: int, content: Content, epoch: Epoch, until: float, *, counted: bool) -> Delivery:
    """Return a message as a delivery; its token is the tag and the `Extras`.

    Args:
        queue: Where it came from.
        tag: The channel's number of the delivery.
        content: The message.
        epoch: The channel's.
        until: When its lease ends.
        counted: The queue counts deliveries.
    """
    try:
        return _plain(queue, tag, content, epoch, until, counted=counted) or _general(
            queue, tag, content, epoch, until, counted=counted
        )
    except (ValueError, IndexError, struct.error):
        error = "properties that cannot be read"
        return Delivery(
            content.body, {}, epoch, (tag, None), leased_until=until, position=f"{queue}#{tag}", error=error
        )


def _plain(queue: str, tag: int, content: Content, epoch: Epoch, until: float, *, counted: bool) -> Delivery | None:
    """Read a message like ours; None: it came back, has headers not seen before, or is not ours."""
    header, body = content
    flags = header[12] << 8 | header[13]
    if flags & ~PLAIN:
        return None
    at, headers, key, stored_at = 14, {}, None, None
    try:
        if flags & CONTENT_TYPE:
            end = at + 1 + header[at]
            headers["content-type"] = header[at + 1 : end].decode()
            at = end
        if flags & HEADERS:
            end = at + 4 + int.from_bytes(header[at : at + 4], "big")
            at += 4
            while at < end:
                stop = at + 1 + header[at]
                if header[stop] != 83:  # S, text; anything else takes the general way
                    return None
                name = _seen[header[at + 1 : stop]]
                at = stop + 5 + int.from_bytes(header[stop + 1 : stop + 5], "big")
                headers[name] = header[stop + 5 : at].decode()
            key = headers.pop(KEY, None)
        if flags & MODE:
            at += 1
        position = f"{queue}#{tag}"
        if flags & MESSAGE_ID:
            end = at + 1 + header[at]
            position = f"{queue}@{header[at + 1 : end].decode()}"
            at = end
        if flags & TIMESTAMP:
            stored_at = _instant(header[at : at + 8])
    except (KeyError, UnicodeDecodeError):  # a name seen for the first time, or what is no text
        return None
    count = 1 if counted else None
    return Delivery(body, headers, epoch, (tag, None), key, None, count, until, stored_at, position)


def _general(queue: str, tag: int, content: Content, epoch: Epoch, until: float, *, counted: bool) -> Delivery:
    """Read any message."""
    headers: dict[str, str] = {}
    fields: dict[str, tuple[str, bytes]] = {}
    errors: list[str] = []
    count = 1
    properties = _split(content.header)
    for raw, value, wire in _entries(properties.pop(HEADERS, b"\0\0\0\0")):
        try:
            name = raw.decode()
            text = _text(value)
        except ValueError:
            errors.append(ascii(raw)[:60])
            continue
        if wire[:1] == b"S" and len(_seen) < 1000 and not name.startswith(OWN):
            _seen[raw] = name
        if name == "x-delivery-count":
            count += value if isinstance(value, int) else 0
        elif not name.startswith(OWN):
            headers[name] = text
            if wire[:1] != b"S":
                fields[name] = text, wire
    texts = {
        bit: properties[bit][1:].decode(errors="replace") for bit in (CONTENT_TYPE, MESSAGE_ID) if bit in properties
    }
    if CONTENT_TYPE in texts:
        headers["content-type"] = texts[CONTENT_TYPE]
    stamp = properties.get(TIMESTAMP)
    extras = Extras({bit: value for bit, value in properties.items() if bit & KEPT}, fields)
    return Delivery(
        content.body,
        headers,
        epoch,
        (tag, extras if any(extras) else None),
        headers.pop(KEY, None),
        None,
        count if counted else None,
        until,
        _instant(stamp) if stamp else None,
        f"{queue}@{texts[MESSAGE_ID]}" if MESSAGE_ID in texts else f"{queue}#{tag}",
        error=f"headers that are not UTF-8: {', '.join(errors[:5])}" if errors else "",
    )


def _instant(stamp: bytes) -> float | None:
    """Return a ``timestamp``; None if it is none in seconds: some producers write milliseconds."""
    seconds = int.from_bytes(stamp, "big")
    return float(seconds) if seconds < YEAR_9999 else None


def message_id_of(content: Content) -> str:
    """Return the ``message_id``; empty if there is none."""
    return _split(content.header).get(MESSAGE_ID, b"\0")[1:].decode(errors="replace")


def _split(header: bytes) -> dict[int, bytes]:
    """Return the properties of a header frame, encoded, by their bit."""
    flags, at = header[12] << 8 | header[13], 14
    found: dict[int, bytes] = {}
    for bit in (1 << place for place in range(15, 1, -1)):
        if flags & bit:
            size = 1 + header[at]
            if bit & HEADERS:
                size = 4 + int.from_bytes(header[at : at + 4], "big")
            elif bit & (MODE | PRIORITY):
                size = 1
            elif bit & TIMESTAMP:
                size = 8
            found[bit] = header[at : at + size]
            at += size
    return found


def _entries(table: bytes) -> list[tuple[bytes, object, bytes]]:
    """Return the names, values and encoded values of a table."""
    found: list[tuple[bytes, object, bytes]] = []
    at = 4
    while at < len(table):
        stop = at + 1 + table[at]
        try:
            size, value = decode.embedded_value(table[stop:])
        except (ValueError, struct.error, IndexError):
            found.append((table[at + 1 : stop], b"\xff", b""))  # nothing behind it can be read
            break
        found.append((table[at + 1 : stop], value, table[stop : stop + size]))
        at = stop + size
    return found


def _text(value: object) -> str:
    """Return a header's value as text.

    Raises:
        ValueError: It is bytes that are no UTF-8.
    """
    match value:
        case str():
            return value
        case bytes() | bytearray():
            return value.decode()
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case datetime.datetime():
            return value.isoformat()
        case dict() | list():
            return msgspec.json.encode(value, enc_hook=str).decode()
    return str(value)
