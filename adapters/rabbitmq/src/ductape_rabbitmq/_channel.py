"""One channel of a connection: calls with their answers, and messages put together from their frames."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from pamqp import commands, frame
from pamqp.base import Frame
from pamqp.exceptions import PAMQPException

from ductape.adapter import AdapterError, Fault

from ._wire import Content, fault_of

__all__ = ["Channel", "Ears"]

DELIVER: Final = b"\x00\x3c\x00\x3c"
RETURN: Final = b"\x00\x3c\x00\x32"
ACK: Final = b"\x00\x3c\x00\x50"
NACK: Final = b"\x00\x3c\x00\x78"

_TAG: Final = struct.Struct(">QB")


class Ears:
    """Whoever is told what arrives on a channel. Nothing here may wait or raise."""

    def delivered(self, tag: int, content: Content) -> None:
        """A consumer is given a message."""

    def returned(self, code: int, text: str, content: Content) -> None:
        """A published message has nobody who gets it."""

    def confirmed(self, tag: int, *, multiple: bool, stored: bool) -> None:
        """A published message, or all up to it, are stored or refused."""

    def lost(self, error: AdapterError) -> None:
        """The channel is closed, or its consumer was ended by the server."""


class Channel:
    """An open channel.

    Attributes:
        number: Its number on the connection.
        error: Why it is closed; None while it is open.
        left: Called when the server has forgotten it.
    """

    def __init__(self, number: int, write: Callable[[bytes], None]) -> None:
        """Begin; `Link.channel` opens it."""
        self.number, self._write = number, write
        self.ears = Ears()
        self.error: AdapterError | None = None
        self.left: Callable[[], object] = lambda: None
        self._waiting: deque[asyncio.Future[Frame]] = deque()
        self._method = b""
        self._header = b""
        self._missing = 0
        self._parts: list[bytes] = []

    # -- in

    def take(self, kind: int, payload: bytes) -> None:
        """Take a frame. For the connection."""
        if kind == 3:
            self._body(payload)
        elif kind == 2:
            self._header = payload
            self._missing = int.from_bytes(payload[4:12], "big")
            if not self._missing:
                self._whole(b"")
        elif kind == 1:
            which = payload[:4]
            if which in (DELIVER, RETURN):
                self._method = payload
            elif which in (ACK, NACK):
                tag, flags = _TAG.unpack_from(payload, 4)
                self.ears.confirmed(tag, multiple=bool(flags & 1), stored=which == ACK)
            else:
                self._other(payload)

    def _body(self, payload: bytes) -> None:
        self._missing -= len(payload)
        if self._missing > 0:
            self._parts.append(payload)
        elif self._parts:
            parts, self._parts = self._parts, []
            self._whole(b"".join((*parts, payload)))
        else:
            self._whole(payload)

    def _whole(self, body: bytes) -> None:
        method, content = self._method, Content(self._header, body)
        if method[3] == 60:
            self.ears.delivered(int.from_bytes(method[5 + method[4] : 13 + method[4]], "big"), content)
        else:
            text = method[7 : 7 + method[6]].decode(errors="replace")
            self.ears.returned(method[4] << 8 | method[5], text, content)

    def _other(self, payload: bytes) -> None:
        try:
            head = struct.pack(">BHI", 1, self.number, len(payload))
            method = cast(Frame, frame.unmarshal(head + payload + b"\xce")[2])
        except (PAMQPException, ValueError) as error:
            self.gone(AdapterError(Fault.LOST, f"a method that is not known ({type(error).__name__})"))
            return
        match method:
            case commands.Channel.Close():
                self._say(commands.Channel.CloseOk())
                self.left()
                self.gone(fault_of(method.reply_code or 0, str(method.reply_text)))
            case commands.Basic.Cancel():
                self.ears.lost(AdapterError(Fault.LOST, "the server ended the consumer: its queue is gone or moved"))
            case commands.Channel.Flow():
                self._say(commands.Channel.FlowOk(method.active))
            case _:
                if isinstance(method, commands.Channel.CloseOk):
                    self.left()
                if self._waiting and not (waiter := self._waiting.popleft()).done():
                    waiter.set_result(method)

    def gone(self, error: AdapterError) -> None:
        """It is closed; everybody who waits is told. Idempotent."""
        if self.error is not None:
            return
        self.error = error
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(error)
        self.ears.lost(error)

    # -- out

    def write(self, data: bytes) -> None:
        """Send frames; they are dropped when it is closed: its number may be another channel's by now."""
        if self.error is None:
            self._write(data)

    def _say(self, method: Frame) -> None:
        self._write(frame.marshal(method, self.number))

    async def call(self, method: Frame, seconds: float) -> Any:
        """Say something, and return the answer.

        Raises:
            AdapterError: The channel closed, ``TRANSIENT`` if there is no answer in time.
        """
        if self.error is not None:
            raise AdapterError(self.error.fault, self.error.text)
        waiter: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._say(method)
        await asyncio.wait({waiter}, timeout=seconds)
        if not waiter.done():
            waiter.cancel()  # its answer, should it come, is nobody's
            raise AdapterError(Fault.TRANSIENT, f"no answer to {method.name} within {seconds:g} s")
        return waiter.result()

    async def close(self, seconds: float) -> None:
        """Close it: what was said before is done then. Idempotent; never raises."""
        if self.error is None:
            closing = self.call(commands.Channel.Close(200, "closed", 0, 0), seconds)
            self.ears = Ears()
            try:
                await closing
            except AdapterError:
                pass
            self.gone(AdapterError(Fault.LOST, "the channel was closed"))

    def __repr__(self) -> str:
        return f"<Channel {self.number} {self.error.text if self.error else 'open'}>"
