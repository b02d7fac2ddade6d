"""Records to queue entries and back, names of queues, and what an error means. Pure: no client, no I/O.

An entry has the body as its text and each header as an attribute of type String. SQS takes text that XML can hold, ten
attributes and none that is empty: what it does not take is packed as JSON into the attribute `PACKED`, and a body that
is not such text is Base64, which the attribute `ENCODING` tells.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from ductape.adapter import AdapterError, Delivery, Epoch, Fault, Outgoing

from ._shapes import Bad, Entry, Message

__all__ = [
    "BATCH",
    "HALF_DAY",
    "LARGEST",
    "Handle",
    "Target",
    "batches",
    "code_of",
    "dead_name",
    "delivery_of",
    "entry_fault",
    "entry_of",
    "fault_of",
    "queue_name",
]

BATCH: Final = 10
"""Entries of one call (SendMessageBatch and its like, ReceiveMessage)."""
HALF_DAY: Final = 43_200
"""Seconds for which a message may be invisible in all, from when it was received (ChangeMessageVisibility)."""
ATTRIBUTES: Final = 10
LARGEST: Final = 262_144
"""Bytes of a message where the queue does not say: what every queue took before 2025."""
ROOM: Final = 8_192
"""Bytes kept free in a published message, on the wire: what a dead letter of it has more than its original."""
PACKED, ENCODING, KEY = "ductape-headers", "ductape-encoding", "ductape-key"
_APART: Final = "~"
"""How a group id begins that is no key: a message without one is in a group of its own."""

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NAME = re.compile(r"(?!(?i:aws\.|amazon\.))(?!.*\.\.)(?!\.)[A-Za-z0-9_.-]{1,256}(?<!\.)\Z")
_TOKEN = re.compile(r"(?!~)[!-~]{1,128}\Z")
_QUEUE = re.compile(r"[A-Za-z0-9_-]+(\.fifo)?\Z")

# ---------------------------------------------------------------- names


def queue_name(channel: str, *, fifo: bool) -> str:
    """Return the queue of a channel that is named after its topic: SQS has no dots.

    Raises:
        AdapterError: ``CONFIG`` if SQS does not take the name.
    """
    plain = channel.removesuffix(".fifo").replace(".", "_")
    return _named(plain + (".fifo" if fifo or channel.endswith(".fifo") else ""))


def dead_name(queue: str) -> str:
    """Return the queue of the dead letters of a queue that has no redrive target: a standard one, FIFO or not.

    Raises:
        AdapterError: ``CONFIG`` if SQS does not take the name.
    """
    return _named(queue.removesuffix(".fifo") + "-dead")


def _named(name: str) -> str:
    if not _QUEUE.match(name) or len(name) > 80:
        text = f"queue {name!r}: SQS takes 80 letters, digits, '-' and '_'; name it by config.queue or its queue_url"
        raise AdapterError(Fault.CONFIG, text)
    return name


class Handle(NamedTuple):
    """The token of a delivery."""

    receipt: str
    since: float
    """When it was asked for: the half day runs from here at the earliest."""


# ---------------------------------------------------------------- out


class Target(NamedTuple):
    """The queue that records go to, and how."""

    name: str
    largest: int
    """Bytes of one message, and of one call."""
    fifo: bool = False
    ordered: bool = False
    """The order of a key is kept."""
    copies: bool = False
    """It takes copies: dead letters, retries."""


def entry_of(record: Outgoing, target: Target) -> tuple[Entry, int]:
    """Return a record as an entry, and its bytes.

    Raises:
        AdapterError: ``MESSAGE`` if the queue does not take it.
    """
    body, encoding = _text_of(record.body)
    key = record.key
    group: str | None = None
    if target.fifo:
        group = _token(key) if key is not None and (target.ordered or not target.copies) else _apart(record)
    attributes, size = _attributes_of(record.headers, encoding, None if group == key else key)
    size += len(body) if body.isascii() else len(body.encode())
    room = target.largest if target.copies else target.largest - ROOM
    if size > room:
        how = ", in Base64" if encoding else ""
        raise AdapterError(Fault.MESSAGE, f"{target.name}: {size} bytes on the wire{how}; it takes {room}")
    entry = Entry(body, message_attributes=attributes or None)
    if group is not None:
        entry.message_group_id = group
        entry.message_deduplication_id = _token(record.dedup or record.id)
    elif record.delay > 0:
        entry.delay_seconds = math.ceil(record.delay)
    return entry, size


def _text_of(body: bytes) -> tuple[str, str]:
    """Return a body as text, and how it is encoded."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), "base64"
    if not text:
        return "-", "empty"
    if text.isprintable() or _NOT_XML.search(text) is None:  # what is printable is also XML text
        return text, ""
    return base64.b64encode(body).decode(), "base64"


def _attributes_of(
    headers: Mapping[str, str], encoding: str = "", key: str | None = None
) -> tuple[dict[str, dict[str, str]], int]:
    """Return headers as attributes, and the bytes of these."""
    plain: dict[str, str] = {ENCODING: encoding} if encoding else {}
    others: dict[str, str] = {}
    if key is not None:
        headers = {**headers, KEY: key}
    for name, value in headers.items():
        (plain if _fits(name, value) else others)[name] = value
    if others or len(plain) > ATTRIBUTES:
        names = iter(list(plain)[ATTRIBUTES - 1 :])
        others |= {name: plain.pop(name) for name in names}
        plain[PACKED] = json.dumps(others)  # ASCII alone
    attributes: dict[str, dict[str, str]] = {}
    size = 0
    for name, value in plain.items():
        attributes[name] = {"DataType": "String", "StringValue": value}
        size += len(name) + 6 + (len(value) if value.isascii() else len(value.encode()))
    return attributes, size


_names: set[str] = set()
"""Header names seen that are attributes' names too: there are few."""


def _fits(name: str, value: str) -> bool:
    """Tell whether a header can be an attribute as it is."""
    if name not in _names:
        if not _NAME.match(name) or name in (PACKED, ENCODING):
            return False
        if len(_names) < 1000:
            _names.add(name)
    return bool(value) and (value.isprintable() or _NOT_XML.search(value) is None)


def _token(text: str) -> str:
    """Return a text as SQS takes it for groups and deduplication."""
    return text if _TOKEN.match(text) else hashlib.sha256(text.encode()).hexdigest()


def _apart(record: Outgoing) -> str:
    return _APART + _token(record.dedup or record.id)[:127]


def batches(entries: Sequence[tuple[int, Entry, int]], largest: int) -> Iterator[list[tuple[int, Entry]]]:
    """Cut entries, each with its place and its bytes, into calls."""
    batch: list[tuple[int, Entry]] = []
    room = largest
    for place, entry, size in entries:
        if len(batch) == BATCH or (size > room and batch):
            yield batch
            batch, room = [], largest
        entry.id = str(len(batch))
        batch.append((place, entry))
        room -= size
    if batch:
        yield batch


# ---------------------------------------------------------------- in


def delivery_of(message: Message, queue: str, epoch: Epoch, since: float, lease: float) -> Delivery:
    """Return a message as a delivery. What cannot be read gets `Delivery.error`."""
    system = message.attributes
    headers = {
        name: value
        for name, attribute in message.message_attributes.items()
        if (value := attribute.string_value or attribute.binary_value) is not None
    }
    error, encoding = "", headers.pop(ENCODING, "")
    if PACKED in headers:
        try:
            headers |= msgspec.json.decode(headers.pop(PACKED), type=dict[str, str])
        except msgspec.MsgspecError:
            error = f"attribute {PACKED} is not a JSON object of texts"
    try:
        body = _body_of(message.body, encoding)
    except (ValueError, binascii.Error):
        body, error = message.body.encode(errors="replace"), f"the body is not {encoding or 'UTF-8'}"
    group = system.get("MessageGroupId")
    key = headers.pop(KEY, None)
    if key is None and group is not None and not group.startswith(_APART):
        key = group
    sent = system.get("SentTimestamp")
    return Delivery(
        body, headers, epoch, Handle(message.receipt_handle, since), key, None,
        int(system.get("ApproximateReceiveCount", 1)), since + lease, int(sent) / 1000 if sent else None,
        f"{queue}@{message.message_id}", error=error,
    )  # fmt: skip


def _body_of(text: str, encoding: str) -> bytes:
    if not encoding:
        return text.encode()
    if encoding == "empty":
        return b""
    if encoding != "base64":
        raise ValueError(encoding)
    return base64.b64decode(text, validate=True)


# ---------------------------------------------------------------- errors

_CODES: Final = (
    (
        Fault.TRANSIENT,
        "RequestThrottled Throttling ThrottlingException TooManyRequests KmsThrottled OverLimit QueueDeletedRecently",
    ),
    (Fault.AMBIGUOUS, "InternalError InternalFailure ServiceUnavailable RequestTimeout"),
    (
        Fault.MESSAGE,
        "InvalidMessageContents InvalidParameterValue InvalidAttributeValue MissingParameter BatchRequestTooLong",
    ),
    (Fault.LOST, "QueueDoesNotExist NonExistentQueue ReceiptHandleIsInvalid MessageNotInflight InvalidIdFormat"),
)
_FAULTS: Final = {code: fault for fault, codes in _CODES for code in codes.split()}
_ADVICE: Final = (
    (
        "InvalidClientTokenId UnrecognizedClientException InvalidAccessKeyId MissingAuthenticationToken",
        "AWS does not know the access key: correct config.access_key_id, or what the environment says",
    ),
    (
        "SignatureDoesNotMatch InvalidSignatureException IncompleteSignature RequestExpired",
        "config.secret_access_key is wrong, config.region is not the endpoint's, or this machine's clock is off",
    ),
    ("ExpiredToken ExpiredTokenException", "the session token has expired: get new temporary keys"),
    ("AccessDenied AccessDeniedException InvalidSecurity", "allow it to these credentials on this queue"),
    (
        "KmsAccessDenied KmsDisabled KmsNotFound KmsInvalidState KmsInvalidKeyUsage KmsOptInRequired",
        "the queue's KMS key cannot be used: see to its state and its policy",
    ),
    ("InvalidAddress", "the queue URL is of another region or account: correct queue_url"),
    ("QueueAlreadyExists QueueNameExists", "the queue has other attributes: leave them out of the topic's options"),
)
_HINTS: Final = {code: hint for codes, hint in _ADVICE for code in codes.split()}
_STATUS: Final = {403: Fault.CONFIG, 429: Fault.TRANSIENT}


def code_of(text: str) -> str:
    """Return an error's code without what stands before it: SQS, its older protocol and its imitations differ there."""
    return text.rpartition("#")[2].partition(";")[0].rpartition(".")[2]


def fault_of(operation: str, code: str, status: int) -> AdapterError:
    """Return the `AdapterError` for a refused call. Native texts may quote payloads: only codes are told."""
    fault = _FAULTS.get(code)
    if fault is None:
        fault = Fault.CONFIG if code in _HINTS else _STATUS.get(status)
    if fault is None:
        fault = Fault.AMBIGUOUS if status >= 500 else Fault.LOST
    hint = f": {_HINTS[code]}" if code in _HINTS else ""
    told = code or "an answer that is not SQS's"
    return AdapterError(fault, f"{operation}: {told} (HTTP {status}){hint}")


def entry_fault(operation: str, bad: Bad) -> AdapterError:
    """Return the `AdapterError` for one entry of a call."""
    code = code_of(bad.code)
    fault = _FAULTS.get(code) or (Fault.CONFIG if code in _HINTS else None)
    if fault is None:
        fault = Fault.MESSAGE if str(bad.sender_fault).lower() == "true" else Fault.AMBIGUOUS
    hint = f": {_HINTS[code]}" if code in _HINTS else ""
    return AdapterError(fault, f"{operation}: {code or 'no code'}{hint}")
