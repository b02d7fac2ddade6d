"""Bytes and payloads: codecs by content type, and typed decoding straight from bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from .errors import PayloadError

Decode = Callable[[bytes], object]

_RAW = frozenset((bytes, bytearray, memoryview))
_VALUE = re.compile(r"'[^']*'")
"""msgspec quotes values like this, and names of types and fields otherwise."""


class Codec(Protocol):
    """Turns payloads into bytes and back; chosen by the content type that travels with a message."""

    content_type: str

    def encode(self, payload: object) -> bytes:
        """Return the bytes of a payload; raise `TypeError` or `ValueError` if it has none."""

    def decoder(self, kind: object) -> Decode:
        """Return what reads bytes as `kind` (`typing.Any`: as they are), and raises `ValueError` if it cannot."""


class _Msgspec:
    """What msgspec reads and writes."""

    _format: Any

    def __init__(self) -> None:
        """Build the encoder."""
        self.encode: Callable[[object], bytes] = self._format.Encoder().encode

    def decoder(self, kind: object) -> Decode:
        """Return a compiled decoder for a type."""
        decode: Decode = self._format.Decoder(kind).decode
        return decode


class JsonCodec(_Msgspec):
    """JSON by msgspec: Structs, dataclasses, attrs, TypedDicts, dates, UUIDs, decimals, sets."""

    content_type = "application/json"
    _format = msgspec.json


class MsgpackCodec(_Msgspec):
    """MessagePack by msgspec: smaller and quicker than JSON, for the same types."""

    content_type = "application/msgpack"
    _format = msgspec.msgpack


class RawCodec:
    """Bytes as they are. Bytes payloads use it whatever the default codec is."""

    content_type = "application/octet-stream"

    def encode(self, payload: object) -> bytes:
        """Return a bytes payload itself."""
        if isinstance(payload, (bytes, bytearray, memoryview)):
            return bytes(payload)
        raise TypeError(f"raw payloads are bytes, not {type(payload).__name__}")

    def decoder(self, kind: object) -> Decode:
        """Return a function that hands bytes through, whatever the type: it is the reader's to know."""
        return bytes


class Unreadable(PayloadError):
    """A body that its codec cannot read as the handler's type."""


class Codecs:
    """The codecs of a client, by content type."""

    def __init__(self, extra: Iterable[Codec] = (), default: str = JsonCodec.content_type) -> None:
        self._by_type: dict[str, Codec] = {}
        builtin: tuple[Codec, ...] = (JsonCodec(), MsgpackCodec(), RawCodec())
        for codec in (*builtin, *extra):
            self._by_type[codec.content_type] = codec
        self.default = self.find(default)

    def find(self, content_type: str) -> Codec:
        """Return the codec for a content type, its parameters set aside.

        Raises:
            PayloadError: ``PAYLOAD_INVALID`` if there is none.
        """
        codec = self._by_type.get(content_type) or self._by_type.get(content_type.partition(";")[0].strip().lower())
        if codec is None:
            text = (
                f"no codec for content type {content_type!r}; there are {', '.join(sorted(self._by_type))}. "
                "Pass others as Ductape(codecs=[…])."
            )
            raise PayloadError("PAYLOAD_INVALID", text, content_type=content_type)
        return codec

    def unreadable(self, kind: Any) -> str:
        """Say why the client's codec cannot read a type, and what to do; empty if it can, or if it is not msgspec's."""
        info = None
        with suppress(Exception):  # what cannot be inspected yet, its decoder tells
            info = msgspec.inspect.type_info(kind)
        if kind is object or not (isinstance(info, msgspec.inspect.CustomType) and isinstance(self.default, _Msgspec)):
            return ""
        name, pydantic = info.cls.__name__, hasattr(info.cls, "model_validate")
        what, mend = ("a pydantic model", f" and call `{name}.model_validate(…)`") if pydantic else ("a class", "")
        return f"{name!r} is {what}, which msgspec cannot decode; annotate `dict`{mend}, or use a Struct or dataclass."


class Encoding:
    """How one publisher writes payloads."""

    __slots__ = ("_event", "_kind", "_raw", "codec")

    def __init__(self, codecs: Codecs, event: str, *, content_type: str | None = None, kind: object = None) -> None:
        self.codec = codecs.find(content_type) if content_type else codecs.default
        self._raw = codecs.find(RawCodec.content_type)
        self._event, self._kind = event, kind

    def encode(self, payload: object) -> tuple[bytes, str]:
        """Return body and content type.

        Raises:
            PayloadError: ``PAYLOAD_INVALID``; the text names the type, never the value.
        """
        codec = self.codec
        try:
            if self._kind is not None and type(payload) is not self._kind:
                payload = msgspec.convert(payload, self._kind, from_attributes=False)
            if type(payload) in _RAW:
                codec = self._raw
            return codec.encode(payload), codec.content_type
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            what, why = f"a payload of type {type(payload).__name__}", _clean(error)
            mend = " Publish its model_dump()." if hasattr(payload, "model_dump") else ""
            text = f"event {self._event!r}: {what} cannot be written as {codec.content_type}: {why}.{mend}"
            raise PayloadError("PAYLOAD_INVALID", text, event=self._event) from error


class Decoding:
    """How one subscription reads bodies: one compiled decoder a content type."""

    __slots__ = ("_by_type", "_codecs", "_kind", "default")

    def __init__(self, codecs: Codecs, kind: object) -> None:
        self._codecs, self._kind = codecs, kind
        try:
            default = codecs.find(RawCodec.content_type) if kind is bytes else codecs.default
            self.default = default.decoder(kind)
        except (TypeError, ValueError) as error:
            text = f"payloads cannot be read as {kind!r}: {error}."
            raise PayloadError("PAYLOAD_INVALID", text, type=kind) from error
        self._by_type: dict[str | None, Decode] = {None: self.default, self._codecs.default.content_type: self.default}

    def read(self, body: bytes, content_type: str | None) -> object:
        """Return the payload.

        Raises:
            Unreadable: ``PAYLOAD_UNREADABLE``; the text names the place in the body, never its content.
        """
        try:
            decode = self._by_type.get(content_type)
            if decode is None:
                assert content_type is not None
                codec = self._codecs.find(RawCodec.content_type if self._kind is bytes else content_type)
                decode = self._by_type[content_type] = codec.decoder(self._kind)
            return decode(body)
        except (ValueError, TypeError, RecursionError, msgspec.MsgspecError, PayloadError) as error:
            raise Unreadable("PAYLOAD_UNREADABLE", f"{content_type or 'body'}: {_clean(error)}") from error


def _clean(error: Exception) -> str:
    """A codec's text without values: msgspec names types and paths, other codecs are named by their class."""
    if isinstance(error, (msgspec.MsgspecError, PayloadError)) or type(error) is TypeError:
        return _VALUE.sub("'…'", str(error)).rstrip(".")
    return type(error).__name__
