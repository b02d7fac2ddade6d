"""Records to Kafka's and back, names, partitions, and what an error means. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from struct import iter_unpack
from typing import Any, Final, NamedTuple

from aiokafka import errors

from ductape.adapter import AdapterError, Channel, Delivery, Epoch, Fault, Outgoing, Purpose

__all__ = [
    "BATCH_REFUSED",
    "HOUR",
    "OPENING",
    "RECEIVING",
    "SENDING",
    "TIERS",
    "delivery_of",
    "group_of",
    "headers_of",
    "murmur2",
    "partition_of",
    "returned_header",
    "returned_of",
    "text_bytes",
    "texts_of",
    "tier_of",
    "topics_of",
]

HOUR: Final = 3600
TIERS: Final = (0, 10, 60, 600, HOUR)
"""Seconds that messages wait at least in a group's retry topics, one topic each."""

NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
"""What Kafka takes as a topic's name."""

# -- what an error means: the most special first; what is not listed is LOST

_OPERATOR: Final = tuple(
    (kind, Fault.CONFIG)
    for kind in (
        errors.TopicAuthorizationFailedError,
        errors.GroupAuthorizationFailedError,
        errors.ClusterAuthorizationFailedError,
        errors.SaslAuthenticationFailed,
        errors.UnsupportedSaslMechanismError,
        errors.IllegalSaslStateError,
        errors.UnsupportedVersionError,
        errors.IncompatibleBrokerVersion,
        errors.InvalidTopicError,
        errors.InvalidReplicationFactorError,
        errors.InvalidPartitionsError,
        errors.PolicyViolationError,
        errors.InvalidSessionTimeoutError,
        errors.InconsistentGroupProtocolError,
        NotImplementedError,
    )
)
OPENING: Final = (
    *_OPERATOR,
    (errors.KafkaError, Fault.TRANSIENT),
    (TimeoutError, Fault.TRANSIENT),
    (OSError, Fault.TRANSIENT),
)
"""Nothing was sent or taken yet."""
SENDING: Final = (
    *_OPERATOR,
    (errors.MessageSizeTooLargeError, Fault.MESSAGE),
    (errors.RecordListTooLargeError, Fault.MESSAGE),
    (errors.InvalidTimestampError, Fault.MESSAGE),
    (errors.ProducerClosed, Fault.TRANSIENT),
    (errors.NotEnoughReplicasError, Fault.TRANSIENT),
    # Its client gave up, its sequence broke, or it answered what nobody knows: the batch may be stored.
    (errors.KafkaError, Fault.AMBIGUOUS),
    (TimeoutError, Fault.AMBIGUOUS),
    (OSError, Fault.AMBIGUOUS),
)
"""A batch was handed to the client."""
RECEIVING: Final = (
    *_OPERATOR,
    (errors.CorruptRecordException, Fault.CONFIG),
    (errors.CommitFailedError, Fault.LOST),
    (errors.OffsetMetadataTooLargeError, Fault.CONFIG),
    (errors.KafkaError, Fault.TRANSIENT),
    (TimeoutError, Fault.TRANSIENT),
    (OSError, Fault.TRANSIENT),
)
"""A poll or a commit. The assignment lives on through broken connections."""
BATCH_REFUSED: Final = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.InvalidTimestampError,
    errors.UnknownError,
)
"""A broker refuses the whole batch for one record of it; `UnknownError` stands for codes that the client does not know,
such as that for a record without a key on a compacted topic."""

# -- names


def topics_of(channel: Channel) -> tuple[str, ...]:
    """Return the topics of a channel: one, but for RETRY, which has one for each of `TIERS`.

    Raises:
        AdapterError: ``CONFIG`` if Kafka takes no such name.
    """
    name = channel.name
    if channel.purpose is not Purpose.EVENTS:
        name = f"{name}.{_allowed(channel.group)}.{channel.purpose.value}"
    found: tuple[str, ...] = (name,)
    if channel.purpose is Purpose.RETRY:
        found = tuple(f"{name}.{seconds}" if seconds else name for seconds in TIERS)
    for each in found:
        if not NAME.fullmatch(each) or each in (".", ".."):
            text = f"topic {each!r}: a name has 1 to 249 letters, digits, dots, underscores and hyphens"
            raise AdapterError(Fault.CONFIG, text)
    return found


def _allowed(group: str) -> str:
    """Return a group's name as a part of a topic's: a group may be called anything."""
    return re.sub(r"[^A-Za-z0-9.-]", lambda match: f"_{match[0].encode().hex()}" if match[0] != "_" else "_", group)


def group_of(channel: Channel, group: str) -> str:
    """Return the consumer group. The private channels have their own: rebalances of one stop all topics of a group."""
    return group if channel.purpose is Purpose.EVENTS else f"{group}.{channel.purpose.value}"


def tier_of(delay: float) -> int:
    """Return which of `TIERS` keeps a record: the longest that is not longer than its delay.

    Its receiver keeps to the rest. So a record waits for its own time and for those before it, at most until the next
    tier's time would have been over.
    """
    return max(number for number, seconds in enumerate(TIERS) if seconds <= max(delay, 0.0))


# -- partitions

_SEED, _M, _WORD = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Return the hash that Kafka's own clients choose partitions by (murmur2 with Java's seed), unsigned."""
    whole = len(data) & ~3
    result = _SEED ^ len(data)
    for (word,) in iter_unpack("<I", data[:whole]):
        word = word * _M & _WORD
        result = (result * _M & _WORD) ^ ((word ^ word >> 24) * _M & _WORD)
    if rest := data[whole:]:
        result = (result ^ int.from_bytes(rest, "little")) * _M & _WORD
    result = (result ^ result >> 13) * _M & _WORD
    return result ^ result >> 15


def partition_of(key: str, partitions: int) -> int:
    """Return the partition of a key, as Kafka's Java client chooses it."""
    return (murmur2(text_bytes(key)) & 0x7FFFFFFF) % partitions


# -- records


def text_bytes(text: str) -> bytes:
    """Return text as UTF-8; bytes that were none when they were read come out as they were."""
    return text.encode("utf-8", "surrogateescape")


def headers_of(record: Outgoing) -> list[tuple[str, bytes]]:
    """Return a record's headers as Kafka has them."""
    try:
        return [(name, value.encode()) for name, value in record.headers.items()]
    except UnicodeEncodeError:
        return [(name, text_bytes(value)) for name, value in record.headers.items()]


class Returned(NamedTuple):
    """What the last header of a record in a retry topic says."""

    due: float
    """No sooner than this, seconds since 1970."""
    stored_at: float | None
    position: str
    """When and where the original was stored; empty: it is not a copy."""


RETURNED: Final = "_retry"


def returned_header(record: Outgoing, now: float) -> tuple[str, bytes]:
    """Return the header that is last on every record of a retry topic, and that its receiver takes off."""
    origin = record.origin
    stored_at = origin.stored_at if origin is not None and origin.stored_at is not None else ""
    position = origin.position if origin is not None else ""
    return RETURNED, f"{now + record.delay:.3f} {stored_at} {position}".encode()


def returned_of(headers: Sequence[tuple[str, bytes]]) -> Returned | None:
    """Read that header; None if somebody else wrote the record."""
    if not headers or headers[-1][0] != RETURNED:
        return None
    try:
        due, stored_at, position = headers[-1][1].decode().split(" ", 2)
        return Returned(float(due), float(stored_at) if stored_at else None, position)
    except ValueError:
        return None


def delivery_of(record: Any, epoch: Epoch, token: object, position: str) -> Delivery:
    """Return a `ConsumerRecord` as a delivery.

    Headers and keys of other producers may be any bytes: what is not UTF-8 is kept by `surrogateescape`, and written as
    it was. Of headers with one name the last counts.
    """
    key = record.key
    try:
        headers = {name: value.decode() for name, value in record.headers}
        if key is not None:
            key = key.decode()
    except (UnicodeDecodeError, AttributeError):
        headers = texts_of(record.headers)
        key = _text(key) if isinstance(key, bytes) else None if key is None else str(key)
    # Formats before Kafka 0.10 have no time, and a producer of those since may give none: -1.
    stored_at = record.timestamp / 1000 if record.timestamp is not None and record.timestamp >= 0 else None
    return Delivery(record.value or b"", headers, epoch, token, key, None, None, None, stored_at, position)


def texts_of(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    """Return headers of any bytes as text."""
    return {name: _text(value) for name, value in headers}


def _text(value: bytes | None) -> str:
    return value.decode("utf-8", "surrogateescape") if value is not None else ""
