"""Records to files and back, names, and what an error means. Pure: nothing here touches a file.

A message is a file ``<due>~<tries>~<id>`` in its group's directory: from when on it may be taken, in nanoseconds since
1970, and how often it was. Taking it renames it, with a `due` at the end of the lease, so that lease, delay, retry and
recovery after a crash are one thing. A rename succeeds for one member only, and what a member renamed no longer has the
name that another remembers: nobody settles what is not his.

The file is one line of JSON with key and headers, then the body as it is.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from ductape.adapter import Channel, Delivery, Epoch, Fault, Outgoing, Purpose

__all__ = ["LARGEST", "YEAR", "File", "Run", "delivery_of", "directory_of", "fault_of", "file_of", "oversize"]

Run = Callable[..., Awaitable[Any]]
"""Calls a function with arguments, somewhere where it may block."""

YEAR: Final = 365 * 86_400.0
LARGEST: Final = 16 * 1024 * 1024

_FAULTS: Final = {
    Fault.TRANSIENT: "EAGAIN EINTR EIO EBUSY EMFILE ENFILE ENOMEM ENOSPC EDQUOT ETIMEDOUT",
    Fault.CONFIG: "EACCES EPERM EROFS ENOTDIR EISDIR ENAMETOOLONG ELOOP EEXIST",
    Fault.MESSAGE: "EFBIG",
    Fault.LOST: "ENOENT ESTALE",
}
_BY_NUMBER: Final = {getattr(errno, name): fault for fault, names in _FAULTS.items() for name in names.split()}


def fault_of(error: BaseException) -> Fault | None:
    """Return what a native error means; None, which becomes ``LOST``, for what is not known."""
    return _BY_NUMBER.get(error.errno or 0) if isinstance(error, OSError) else None


class File(NamedTuple):
    """The name of a message's file, in its parts."""

    due: int
    tries: int
    id: str
    """``<stored>-<random>``; the same for as long as the message lives."""

    def __str__(self) -> str:
        return f"{self.due:020d}~{self.tries}~{self.id}"

    @classmethod
    def parse(cls, name: str) -> File | None:
        """Return the parts, or None for a file that is no message."""
        match name.split("~"):
            case [due, tries, id] if due.isdecimal() and tries.isdecimal():
                return cls(int(due), int(tries), id)
        return None

    @classmethod
    def new(cls, now: float, delay: float) -> File:
        """Return the name of a new message."""
        return cls(due_at(now, delay), 0, f"{due_at(now, 0.0):020d}-{secrets.token_hex(8)}")

    @property
    def stored_at(self) -> float | None:
        """When it was stored, seconds since 1970."""
        stored = self.id.partition("-")[0]
        return int(stored) / 1e9 if stored.isdecimal() else None


def due_at(now: float, delay: float) -> int:
    """Return an instant as names have it; a delay is rounded up: a clock's last digits are not to be trusted."""
    return int((now + delay) * 1e9) + (1_000_000 if delay > 0 else 0)


def directory_of(channel: Channel) -> str:
    """Return the name of a channel's directory; ``+`` is in no quoted name."""
    parts = (
        [channel.name] if channel.purpose is Purpose.EVENTS else [channel.name, channel.group, channel.purpose.value]
    )
    return "+".join(safe(part) for part in parts)


def safe(name: str) -> str:
    """Return a name that is one level of a path, and not hidden."""
    quoted = quote(name, safe="")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


class _Head(msgspec.Struct):
    key: str | None = None
    headers: dict[str, str] = {}


def oversize(record: Outgoing) -> str:
    """Return why a record can never be stored, or nothing."""
    size = len(record.body) + sum(len(name.encode()) + len(value.encode()) for name, value in record.headers.items())
    return f"{size} bytes of body and headers; a channel takes {LARGEST}" if size > LARGEST else ""


def file_of(record: Outgoing) -> bytes:
    """Return what stands in a record's file."""
    return msgspec.json.encode(_Head(record.key, dict(record.headers))) + b"\n" + record.body


def delivery_of(content: bytes, file: File, epoch: Epoch, group: str) -> Delivery:
    """Return a file as a delivery, without its lease. What cannot be read is handed over as it is, and says why."""
    head, _, body = content.partition(b"\n")
    error = ""
    try:
        known = msgspec.json.decode(head, type=_Head)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        known, body, error = (
            _Head(),
            content,
            f"its first line is no key and headers: {type(problem).__name__}",
        )
    return Delivery(
        body,
        known.headers,
        epoch,
        key=known.key,
        count=file.tries,
        stored_at=file.stored_at,
        position=f"{group}/{file.id}",
        error=error,
    )
