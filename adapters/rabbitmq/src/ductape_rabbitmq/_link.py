"""One connection to the server: AMQP 0-9-1 frames in and out, heartbeats, and the channels on it.

aio-pika reads URLs, options and TLS settings, and pamqp the methods that are rare; aio-pika's own connections pay a
task, a lock and a future for every message, and cancel what they do not finish. Here frames are taken as they arrive.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from typing import Any, Final, cast

import msgspec
from pamqp import commands, frame
from pamqp.base import Frame
from pamqp.exceptions import PAMQPException

from ductape.adapter import AdapterError, Fault

from ._channel import Channel
from ._wire import fault_of

__all__ = ["BOUND", "CONNECT", "GOODBYE", "Endpoint", "Link"]


BOUND = 8.0
"""Seconds for one answer, below every bound of the contract that it can be part of."""
CONNECT = 4.0
GOODBYE = 1.0
"""Seconds for the server to answer that a connection is closed."""
UNSENT = 4_000_000
"""Bytes that may wait to be sent before publishing waits for the server to read."""
FRAME_MAX = 131_072
CHANNELS = 2047

_HEAD: Final = struct.Struct(">BHI")
_HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_PROPERTIES: Final = {
    "product": "ductape",
    "capabilities": {
        "publisher_confirms": True, "basic.nack": True, "consumer_cancel_notify": True, "connection.blocked": True,
        "authentication_failure_close": True,
    },
}  # fmt: skip


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is and how one logs in, taken from an aio-pika connection that never connects."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    vhost: str = "/"
    mechanism: str = "PLAIN"
    response: str = ""
    """What the mechanism sends: the credentials."""
    heartbeat: int = 10
    name: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"<Endpoint {self} vhost={self.vhost}>"


class _Wire(asyncio.Protocol):
    """A transport, and what is known of the connection on it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.channels: dict[int, Channel] = {}
        self.version: tuple[int, ...] = ()
        self.frame_max = FRAME_MAX
        self.channel_max = CHANNELS
        self.blocked = ""
        self.error = AdapterError(Fault.LOST, "the connection was closed")
        self.opened = asyncio.get_running_loop().create_future()
        self.closed = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._heard = self._wrote = True
        self._silent = 0
        self._beat: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None

    @property
    def alive(self) -> bool:
        return self._transport is not None

    # -- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class, but has all of it
        self._transport.set_write_buffer_limits(high=UNSENT)
        self._transport.write(b"AMQP\x00\x00\x09\x01")

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._rest:
            data = self._rest + data
        at, end, channels = 0, len(data), self.channels
        head = _HEAD.unpack_from
        while end - at >= 8:
            kind, number, size = head(data, at)
            stop = at + 8 + size
            if stop > end:
                if size > self.frame_max:
                    self.abort(f"{self.endpoint} does not speak AMQP 0-9-1")
                    return
                break
            if data[stop - 1] != 0xCE:
                self.abort(f"{self.endpoint} does not speak AMQP 0-9-1")
                return
            payload = data[at + 7 : stop - 1]
            at = stop
            channel = channels.get(number)
            if channel is not None:
                channel.take(kind, payload)
            elif number == 0 and kind == 1:
                self._control(payload)
                if self._transport is None:
                    return
        self._rest = data[at:]

    def connection_lost(self, error: Exception | None) -> None:
        self._gone(AdapterError(Fault.LOST, f"the connection broke ({type(error).__name__ if error else 'it ended'})"))

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._wrote = True
            self._transport.write(data)

    async def drained(self, seconds: float) -> bool:
        """Wait until the server reads; tell whether it did."""
        if self._drained is not None:
            await asyncio.wait({self._drained}, timeout=seconds)
        return self._drained is None

    def _gone(self, error: AdapterError) -> None:
        if self._transport is None:
            return
        self._transport = None
        self.error = error
        if self._beat is not None:
            self._beat.cancel()
        self.resume_writing()
        for waiting in (self.opened, self.closed):
            if not waiting.done():
                waiting.set_result(None)
        for channel in list(self.channels.values()):
            channel.gone(error)
        self.channels.clear()

    def abort(self, why: str | AdapterError) -> None:
        """Give the connection up."""
        transport = self._transport
        if transport is not None:
            self._gone(why if isinstance(why, AdapterError) else AdapterError(Fault.LOST, why))
            transport.abort()

    # -- channel 0

    def _control(self, payload: bytes) -> None:
        try:
            method = frame.unmarshal(_HEAD.pack(1, 0, len(payload)) + payload + b"\xce")[2]
        except (PAMQPException, ValueError) as error:
            self.abort(f"{self.endpoint} does not speak AMQP 0-9-1 ({type(error).__name__})")
            return
        match method:
            case commands.Connection.Start():
                self._start(method)
            case commands.Connection.Tune():
                self._tune(method)
            case commands.Connection.OpenOk():
                self.opened.set_result(None)
            case commands.Connection.Blocked():
                self.blocked = str(method.reason) or "an alarm"
            case commands.Connection.Unblocked():
                self.blocked = ""
            case commands.Connection.Close():
                self._say(commands.Connection.CloseOk())
                self.abort(fault_of(method.reply_code or 0, str(method.reply_text), repr(self.endpoint)))
            case commands.Connection.CloseOk():
                self.abort("closed")

    def _say(self, method: Frame) -> None:
        self.write(frame.marshal(method, 0))

    def _start(self, start: commands.Connection.Start) -> None:
        endpoint = self.endpoint
        offered = str(start.mechanisms).split()
        if endpoint.mechanism not in offered:
            text = f"{endpoint!r} offers {', '.join(offered)}, not {endpoint.mechanism}; set native.auth"
            self.abort(AdapterError(Fault.CONFIG, text))
            return
        found = (start.server_properties or {}).get("version")
        numbers = str(found or "").split("-")[0].split(".")
        self.version = tuple(int(each) for each in numbers if each.isdigit())
        properties: dict[str, Any] = {**_PROPERTIES, "connection_name": endpoint.name}
        self._say(commands.Connection.StartOk(properties, endpoint.mechanism, endpoint.response, "en_US"))

    def _tune(self, tune: commands.Connection.Tune) -> None:
        self.frame_max = min(tune.frame_max or FRAME_MAX, FRAME_MAX)
        self.channel_max = min(tune.channel_max or CHANNELS, CHANNELS)
        theirs, ours = tune.heartbeat or 0, self.endpoint.heartbeat
        heartbeat = min(theirs, ours) if theirs and ours else max(theirs, ours)
        self._say(commands.Connection.TuneOk(self.channel_max, self.frame_max, heartbeat))
        self._say(commands.Connection.Open(self.endpoint.vhost))
        if heartbeat:
            self._beats(heartbeat / 2)

    def _beats(self, pause: float) -> None:
        """Say something twice in a heartbeat's time; give up a server that said nothing for two of them."""
        if not self._wrote:
            self.write(_HEARTBEAT)
        self._silent = 0 if self._heard else self._silent + 1
        self._heard = self._wrote = False
        if self._silent > 4:
            self.abort(f"{self.endpoint} was silent for {pause * 4:g} s")
            return
        self._beat = asyncio.get_running_loop().call_later(pause, self._beats, pause)

    async def end(self) -> None:
        """Say goodbye, and close; what waits for an answer gets none."""
        if self._transport is not None and self.opened.done():
            self._say(commands.Connection.Close(200, "closed", 0, 0))
            await asyncio.wait({self.closed}, timeout=GOODBYE)
        self.abort("closed")


class Link:
    """A connection that is opened when it is first needed, and again after it broke."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Prepare a link; nothing is opened."""
        self.endpoint = endpoint
        self._wire: _Wire | None = None
        self._lock = asyncio.Lock()
        self._ended = False

    @property
    def alive(self) -> bool:
        """Whether it is open."""
        return self._wire is not None and self._wire.alive

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version, when it was open."""
        return self._wire.version if self._wire is not None else ()

    @property
    def blocked(self) -> str:
        """Why the server takes no messages now; empty while it does."""
        return self._wire.blocked if self._wire is not None else ""

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame."""
        return self._wire.frame_max if self._wire is not None else FRAME_MAX

    async def open(self) -> None:
        """Connect and log in, unless it is open.

        Raises:
            AdapterError: ``CONFIG`` for what only an operator can mend, ``LOST`` after `end`, else ``TRANSIENT``.
        """
        self._must_be_wanted()
        if self.alive:
            return
        async with self._lock:
            if not self.alive:
                await self._connect()
        try:
            self._must_be_wanted()
        except AdapterError:  # it was closed meanwhile
            self.drop()
            raise

    def _must_be_wanted(self) -> None:
        if self._ended:
            raise AdapterError(Fault.LOST, "the connection was closed")

    async def _connect(self) -> None:
        endpoint, wire = self.endpoint, None
        try:
            async with asyncio.timeout(CONNECT):
                loop = asyncio.get_running_loop()
                dialled = await loop.create_connection(
                    lambda: _Wire(endpoint), endpoint.host, endpoint.port, ssl=endpoint.tls
                )
                wire = dialled[1]
                await wire.opened
            if not wire.alive:
                raise wire.error if wire.error.fault is not Fault.LOST else self._away(wire.error.text)
        except AdapterError:
            raise
        except ssl.SSLCertVerificationError as error:
            raise AdapterError(Fault.CONFIG, f"the server's certificate is refused: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise AdapterError(Fault.CONFIG, f"no TLS with {endpoint}: {error.reason}") from error
        except TimeoutError as error:
            raise self._away(f"nothing within {CONNECT:g} s") from error
        except socket.gaierror as error:
            raise self._away(f"{error.strerror}; is config.host right?") from error
        except OSError as error:
            raise self._away(error.strerror or str(error)) from error
        finally:
            if wire is not None and not (wire.opened.done() and not wire.opened.cancelled()):
                wire.abort("the greeting failed")
        self._wire = wire

    def _away(self, why: str) -> AdapterError:
        return AdapterError(Fault.TRANSIENT, f"no connection to {self.endpoint}: {why}")

    async def channel(self) -> Channel:
        """Open a channel, connecting if need be.

        Raises:
            AdapterError: It cannot be opened now.
        """
        await self.open()
        wire = self._wire
        assert wire is not None
        number = next((each for each in range(1, wire.channel_max + 1) if each not in wire.channels), 0)
        if not number:
            raise AdapterError(Fault.TRANSIENT, f"all {wire.channel_max} channels of a connection are in use")
        channel = wire.channels[number] = Channel(number, wire.write)
        channel.left = lambda: wire.channels.pop(number, None)
        try:
            await channel.call(commands.Channel.Open(), BOUND)
        except BaseException:
            await channel.close(0.0)  # the number is free again when the server says so
            raise
        return channel

    async def drained(self, seconds: float) -> bool:
        """Wait until the server reads what was sent; tell whether it did."""
        return self._wire is not None and await self._wire.drained(seconds)

    async def end(self) -> None:
        """Close the connection for good. Idempotent."""
        self._ended = True
        if self._wire is not None:
            await self._wire.end()

    def drop(self) -> None:
        """Break the connection without a word, as the death of this process would."""
        if self._wire is not None:
            self._wire.abort("dropped")

    def __repr__(self) -> str:
        return f"<Link {self.endpoint} {'open' if self.alive else 'closed'}>"
