"""What SQS is asked and answers, as its JSON has it; only what is used here."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

__all__ = ["Attribute", "Bad", "Batch", "Changed", "Changes", "Entry", "Good", "Message", "Received", "Sent"]


class Attribute(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """An attribute of a message; binary ones come as Base64."""

    string_value: str | None = None
    data_type: str = "String"
    binary_value: str | None = None


class Entry(msgspec.Struct, rename="pascal", omit_defaults=True):
    """A message that is to be stored."""

    message_body: str
    id: str = ""
    message_attributes: dict[str, dict[str, str]] | None = None
    delay_seconds: int | None = None
    message_group_id: str | None = None
    message_deduplication_id: str | None = None


class Message(msgspec.Struct, frozen=True, rename="pascal"):
    """A message that was received."""

    message_id: str
    receipt_handle: str
    body: str = ""
    attributes: dict[str, str] = {}
    message_attributes: dict[str, Attribute] = {}


class Received(msgspec.Struct, frozen=True, rename="pascal"):
    """The answer of ReceiveMessage; there is no list where there is no message."""

    messages: list[Message] = []


class Good(msgspec.Struct, frozen=True, rename="pascal"):
    """An entry that went well."""

    id: str
    message_id: str = ""
    sequence_number: str = ""


class Bad(msgspec.Struct, frozen=True, rename="pascal"):
    """An entry that did not."""

    id: str
    code: str = ""
    sender_fault: bool | str = False
    """Moto says it in words."""


class Sent(msgspec.Struct, frozen=True, rename="pascal"):
    """The answer of every batch call."""

    successful: list[Good] = []
    failed: list[Bad] = []


class Changed(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """A receipt that is to be deleted, or made visible after so many seconds."""

    id: str
    receipt_handle: str
    visibility_timeout: int | None = None


class Batch(msgspec.Struct, frozen=True, rename="pascal"):
    """Messages for one queue."""

    queue_url: str
    entries: Sequence[Entry]


class Changes(msgspec.Struct, frozen=True, rename="pascal"):
    """Receipts of one queue."""

    queue_url: str
    entries: Sequence[Changed]
