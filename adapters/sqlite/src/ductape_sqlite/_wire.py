"""Records to rows and back, names, instants, and what an error means. Pure: no file, no thread."""

from __future__ import annotations

import math
import sqlite3
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

from ductape.adapter import AdapterError, Channel, Delivery, Epoch, Fault, Outgoing, Purpose

__all__ = [
    "LARGEST",
    "begins_at",
    "delivery_of",
    "fault_of",
    "microseconds",
    "oversize",
    "place_of",
    "row_of",
    "shown",
]

Row = tuple[int, str | None, str, bytes, str | None]
"""When it was stored, key, headers as JSON, body, where the original was stored."""

LARGEST: Final = 64 * 1024 * 1024
"""Bytes of body and headers of one message: it passes through memory several times."""
FOREVER: Final = 1 << 61
"""An instant that never comes, in microseconds since 1970."""

# By primary result code; see https://sqlite.org/rescode.html
_FAULTS: Final = {
    sqlite3.SQLITE_BUSY: (Fault.TRANSIENT, "another process has the file locked"),
    sqlite3.SQLITE_LOCKED: (Fault.TRANSIENT, "another connection has a table locked"),
    sqlite3.SQLITE_PROTOCOL: (Fault.TRANSIENT, "other processes lock the file too often"),
    sqlite3.SQLITE_INTERRUPT: (Fault.TRANSIENT, "the call was interrupted"),
    sqlite3.SQLITE_NOMEM: (Fault.TRANSIENT, "there is not enough memory"),
    sqlite3.SQLITE_FULL: (Fault.TRANSIENT, "the disk or the file's max_page_count is full: make room"),
    sqlite3.SQLITE_TOOBIG: (Fault.MESSAGE, "the message is too large"),
    sqlite3.SQLITE_READONLY: (Fault.CONFIG, "the file or its folder may not be written: give this process the right"),
    sqlite3.SQLITE_PERM: (Fault.CONFIG, "the file may not be used: give this process the right"),
    sqlite3.SQLITE_AUTH: (Fault.CONFIG, "the file may not be used: give this process the right"),
    sqlite3.SQLITE_CANTOPEN: (Fault.CONFIG, "the file cannot be opened: look at its folder and the rights to it"),
    sqlite3.SQLITE_NOTADB: (Fault.CONFIG, "this is no SQLite file, or its head is damaged: restore or remove it"),
    sqlite3.SQLITE_CORRUPT: (Fault.CONFIG, "the file is damaged: save what `.recover` of the sqlite3 shell finds"),
    sqlite3.SQLITE_NOLFS: (Fault.CONFIG, "the file system allows no file of this size"),
}


def fault_of(error: BaseException, where: str = "", *, committing: bool = False) -> AdapterError:
    """Return the `AdapterError` for a native error; its text holds no values, since all of them are bound.

    Args:
        error: What sqlite3 or the file system raised.
        where: The file.
        committing: It was raised by COMMIT: what fails there otherwise than for want of room may be stored.
    """
    if isinstance(error, AdapterError):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    fault, text = _FAULTS.get(code & 0xFF if code is not None else -1, (Fault.LOST, ""))
    if isinstance(error, OSError):
        fault, text = Fault.CONFIG, error.strerror or "the file cannot be used"
    elif isinstance(error, UnicodeEncodeError | OverflowError):
        fault, text = Fault.MESSAGE, "it cannot be written as text"
    if committing and fault not in (Fault.TRANSIENT, Fault.CONFIG):
        fault = Fault.AMBIGUOUS
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    detail = text or (str(error) if isinstance(error, sqlite3.Error) else "")
    result = AdapterError(fault, ": ".join(part for part in (where, name, detail) if part))
    result.__cause__ = error
    return result


def place_of(channel: Channel) -> tuple[str, str, str]:
    """Return name, purpose and owner: what a channel is found by. Only private ones have an owner."""
    return channel.identity


def shown(channel: Channel) -> str:
    """Return the name of a channel, for positions and texts."""
    if channel.purpose is Purpose.EVENTS:
        return channel.name
    return f"{channel.name}.{channel.group}.{channel.purpose.value}"


def microseconds(seconds: float, delay: float = 0.0) -> int:
    """Return an instant as the file has it. A delay gets a millisecond more: clocks differ a little."""
    instant = seconds + delay
    if instant * 1e6 >= FOREVER:
        return FOREVER
    return math.ceil(instant * 1e6) + (1000 if delay > 0 else 0)


def begins_at(start: str | None) -> float | None:
    """Return from which instant on a new group gets messages: 0 for all that is kept, None for none of it.

    Raises:
        AdapterError: ``CONFIG`` if it is neither a word nor an RFC 3339 instant with an offset.
    """
    if start is None or start == "earliest":
        return 0.0
    if start == "latest":
        return None
    try:
        instant = msgspec.convert(start, type=Annotated[datetime, msgspec.Meta(tz=True)])
    except msgspec.ValidationError:
        text = f"start {start!r}: use 'earliest', 'latest' or an RFC 3339 instant such as 2026-11-23T10:00:00Z"
        raise AdapterError(Fault.CONFIG, text) from None
    moment: float = instant.timestamp()
    return moment


def oversize(record: Outgoing) -> str:
    """Return why a record can never be stored, or nothing."""
    if record.size <= LARGEST // 4 and len(record.body) <= LARGEST // 4:
        return ""  # what the kernel counted roughly is far away from the limit
    size = len(record.body) + sum(len(name.encode()) + len(text.encode()) for name, text in record.headers.items())
    return f"{size} bytes of body and headers; a message takes {LARGEST}" if size > LARGEST else ""


_headers_of: Final = msgspec.json.Decoder(dict[str, str]).decode
_text_of: Final = msgspec.json.Encoder().encode


def row_of(record: Outgoing, now: int, *, keep_origin: bool = False) -> Row:
    """Return a record as a row. Copies on RETRY keep when and where their original was stored."""
    headers = _text_of(dict(record.headers)).decode()
    origin = None
    if keep_origin and record.origin is not None:
        origin = record.origin.position or None
        now = microseconds(record.origin.stored_at) if record.origin.stored_at is not None else now
    if record.key is not None:
        record.key.encode()  # what is no text is refused here, alone
    return now, record.key, headers, record.body, origin


def delivery_of(row: tuple[Any, ...], number: int, place: str, epoch: Epoch, tries: int) -> Delivery:
    """Return a row, its texts as bytes, as a delivery without its lease.

    What another program wrote in a way that cannot be read gets `Delivery.error`.
    """
    stored_at, key, text, body, origin = row
    error, headers = "", {}
    try:
        if text is not None:
            headers = _headers_of(text)
        if key is not None:
            key = key.decode()
    except (msgspec.MsgspecError, ValueError) as problem:
        error, key = f"its key or headers are no text: {type(problem).__name__}", None
    position = origin.decode(errors="replace") if origin else f"{place}@{number}"
    return Delivery(body, headers, epoch, number, key, None, tries, None, stored_at / 1e6, position, 0, None, error)
