"""Records to the protocol and back, names of streams and consumers, and what an error means. Pure: no client, no I/O.

A message is ``HPUB subject reply sizes``, a block of headers, and the body as it is. nats-py strips header values and
copies the block once a header; here the bytes are made and read in one piece.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

from ductape.adapter import AdapterError, Channel, Delivery, Epoch, Fault, Outgoing, Purpose

__all__ = [
    "Names",
    "Refusal",
    "Status",
    "Token",
    "ack_command",
    "delivery_of",
    "error_fault",
    "names_of",
    "publish_command",
    "status_of",
    "stored_of",
]

KEY, MESSAGE_ID, PIN, OURS = "ductape-key", "Nats-Msg-Id", "Nats-Pin-Id", "Nats-"
"""Headers that are taken off when a message arrives, and the beginning of those on which the server acts."""
_HEAD: Final = "NATS/1.0\r\n"
_ACKED: Final = b"$JS.ACK."
_NAME: Final = re.compile(r"[!-9;-~]+\Z")
"""A header's name: printable, no colon."""
_TOKENS: Final = re.compile(r"[^\s.*>\x00-\x1f]+(\.[^\s.*>\x00-\x1f]+)*\Z")
"""A subject without wildcards."""


# -- names


class Names(NamedTuple):
    """What a channel is called on the server."""

    stream: str
    """Of a stream that is made for it; one that exists may have another name."""
    subject: str


def names_of(channel: Channel) -> Names:
    """Return the names of a channel. Derived channels have subjects beside, not below, the channel's own.

    A stream that someone made for ``orders.>`` would otherwise take in a group's dead letters.

    Raises:
        AdapterError: ``CONFIG`` if the channel's name is no subject.
    """
    name = channel.name
    if not _TOKENS.match(name) or name.startswith("$"):
        text = f"subject {name!r}: use tokens joined by dots, without spaces, '*' and '>', and not beginning with '$'"
        raise AdapterError(Fault.CONFIG, text)
    if channel.purpose is Purpose.EVENTS:
        return Names(safe(name), name)
    kind = channel.purpose.value
    # A group is one token, and '/' is in no group's name: no two channels share a subject.
    return Names(safe(f"{name}_{channel.group}_{kind}"), f"ductape.{kind}.{channel.group.replace('.', '/')}.{name}")


def safe(name: str) -> str:
    """Return a name as streams and consumers may be called."""
    return re.sub(r"[.*>/\\\s]", "_", name)


# -- out


_good: set[str] = set()
"""Header names seen and found right: there are few."""


class Refusal(ValueError):
    """A record cannot be written; the text names no value."""


def publish_command(start: bytes, reply: str, record: Outgoing, *, stored: bool = True) -> bytes:
    """Return the command that publishes a record.

    Args:
        start: ``HPUB subject``, and a space.
        reply: Where the server's answer goes, and a space; may be empty.
        record: What is published.
        stored: It goes to a stream: name it for deduplication.

    Raises:
        Refusal: A header cannot be written.
    """
    lines = [_HEAD]
    if stored:
        lines.append(f"{MESSAGE_ID}: {record.dedup or record.id}\r\n")
    if record.key is not None:
        lines.append(f"{KEY}: {record.key}\r\n")
    for name, value in record.headers.items():
        if name not in _good and not _check_name(name, copy=record.origin is not None):
            continue
        lines.append(f"{name}: {value}\r\n")
    text = "".join(lines)
    if text.count("\n") != len(lines) or text.count("\r") != len(lines):
        raise Refusal("a header's value has a line break")
    head = text.encode()
    body = record.body
    size = len(head) + 2
    return b"%b%b%d %d\r\n%b\r\n%b\r\n" % (start, reply.encode(), size, size + len(body), head, body)


def _check_name(name: str, *, copy: bool) -> bool:
    """Tell whether a header is written; a copy leaves out what its original told the server to do."""
    if name.startswith(OURS):
        if copy:
            return False
        raise Refusal(f"header {name!r}: the server acts on names that begin with 'Nats-'; use the native client")
    if not _NAME.match(name):
        raise Refusal(f"header {ascii(name)[:60]}: a name is printable ASCII without spaces and colons")
    if len(_good) < 1000:
        _good.add(name)
    return True


def ack_command(reply: bytes, word: bytes, answer: bytes = b"") -> bytes:
    """Return the command that settles a delivery; `answer` is where the server confirms it."""
    return b"PUB %b %b %d\r\n%b\r\n" % (reply, answer, len(word), word)


# -- in


class Token(NamedTuple):
    """What settling a delivery needs."""

    reply: bytes
    sequence: int
    """Of the message in its stream."""
    number: int
    """Of the delivery, among all of its consumer."""


class Status(NamedTuple):
    """A message of the server itself."""

    code: int
    text: str
    pending: int | None
    """How many messages of an ended pull request did not come."""


def status_of(block: bytes) -> Status:
    """Return the status that a message without a body carries: ``NATS/1.0 408 Request Timeout``."""
    first, *rest = block.decode(errors="replace").split("\r\n")
    words = first.split(" ", 2)
    pending = next((line.partition(":")[2].strip() for line in rest if line.startswith("Nats-Pending-Messages:")), "")
    code = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return Status(code, words[2] if len(words) > 2 else "", int(pending) if pending.isdigit() else None)


def headers_of(block: bytes) -> dict[str, str]:
    """Return the headers of a message.

    Raises:
        UnicodeDecodeError: They are not UTF-8.
    """
    headers: dict[str, str] = {}
    for line in block.decode().split("\r\n")[1:-2]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name] = value[1:] if value[:1] == " " else value
    return headers


def delivery_of(stream: str, reply: bytes, block: bytes, body: bytes, epoch: Epoch, until: float) -> Delivery:
    """Return a message of a stream as a delivery. What cannot be read gets `Delivery.error`."""
    fields = reply.split(b".")
    # $JS.ACK.<stream>.<consumer>.<count>.<sequence>.<consumer sequence>.<time>.<pending>, or with domain and account.
    at = 4 if len(fields) == 9 else 6
    sequence = int(fields[at + 1])
    error, key = "", None
    headers: dict[str, str] = {}
    if block:
        try:
            headers = headers_of(block)
        except UnicodeDecodeError:
            error = "a header is not UTF-8"
        headers.pop(MESSAGE_ID, None)
        key = headers.pop(KEY, None)
    return Delivery(
        body, headers, epoch, Token(reply, sequence, int(fields[at + 2])), key, None, int(fields[at]), until,
        int(fields[at + 3]) / 1e9, f"{stream}@{sequence}", 0, None, error,
    )  # fmt: skip


def heard_of(subject: str, block: bytes, body: bytes, epoch: Epoch) -> Delivery:
    """Return a message of a core subject as a delivery."""
    try:
        headers = headers_of(block) if block else {}
    except UnicodeDecodeError:
        return Delivery(body, {}, epoch, position=subject, error="a header is not UTF-8")
    return Delivery(body, headers, epoch, None, headers.pop(KEY, None), position=subject)


# -- answers


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


_ack = msgspec.json.Decoder(_Ack).decode

_CODES: Final = {
    Fault.MESSAGE: (10054,),
    Fault.LOST: (10014, 10059),
    Fault.TRANSIENT: (10008, 10009, 10023, 10047, 10074, 10077, 10086, 10118),
    Fault.CONFIG: (10002, 10013, 10025, 10026, 10028, 10035, 10039, 10052, 10058, 10065, 10076, 10100),
}
_FAULTS: Final = {code: fault for fault, codes in _CODES.items() for code in codes}


def error_fault(code: int, err_code: int, description: str, where: str) -> AdapterError:
    """Return the `AdapterError` for an error that JetStream answered; its texts hold no payload."""
    fault = _FAULTS.get(err_code)
    if fault is None:
        fault = Fault.TRANSIENT if code >= 500 else Fault.CONFIG
    return AdapterError(fault, f"{where}: {description} (JetStream error {err_code or code})")


def stored_of(answer: bytes, where: str) -> tuple[str, bool] | AdapterError:
    """Return where a record was stored and whether it was there already, or what the server says is wrong."""
    if answer.startswith(b"NATS/1.0"):
        return AdapterError(Fault.LOST, f"no stream takes {where} (status {status_of(answer).code})")
    try:
        ack = _ack(answer)
    except msgspec.MsgspecError:
        return AdapterError(Fault.AMBIGUOUS, f"{where}: an answer that is no acknowledgement")
    if ack.error is not None:
        return error_fault(ack.error.code, ack.error.err_code, ack.error.description, where)
    return f"{ack.stream}@{ack.seq}", ack.duplicate
