"""One connection to the server: whole batches written at once, answered in order, by one future a batch.

redis-py reads URLs, TLS options and credentials; its own connections pay a timeout and a coroutine chain for every
reply, and discard the replies that they read before a break. Here a batch that broke returns what was answered.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import hiredis
import msgspec

from ductape.adapter import AdapterError, Fault

from ._scripts import ALL, Argument
from ._wire import REOPEN, fault_of

__all__ = ["BOUND", "CONNECT", "Endpoint", "Link", "pack", "reply_fault"]

BOUND = 8.0
"""Seconds for a batch, below every bound of the contract that it can be part of."""
CONNECT = 4.0

_REFUSED = {"WRONGPASS": "the password or user is refused", "NOAUTH": "a password is needed"}

pack = cast(Callable[[tuple[Argument, ...]], bytes], hiredis.pack_command)
"""Its own stub knows tuples of one element only."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is and how one logs in, taken from a redis-py connection that never connects."""

    host: str = ""
    port: int = 0
    path: str = ""
    tls: ssl.SSLContext | None = None
    login: Callable[[], Awaitable[tuple[str, ...]]]
    """Returns the arguments of AUTH; empty: none is needed."""
    db: int = 0
    name: str = ""

    async def dial(self, make: Callable[[], _Wire]) -> _Wire:
        """Open a transport."""
        loop = asyncio.get_running_loop()
        if self.path:
            return (await loop.create_unix_connection(make, self.path))[1]
        return (await loop.create_connection(make, self.host, self.port, ssl=self.tls))[1]

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"<Endpoint {self}/{self.db}>"


class _Batch:
    __slots__ = ("done", "left", "replies", "timer")

    def __init__(self, left: int, done: asyncio.Future[None], timer: asyncio.TimerHandle) -> None:
        self.left, self.done, self.timer = left, done, timer
        self.replies: list[object] = []


class _Wire(asyncio.Protocol):
    """A transport and what it still has to answer."""

    def __init__(self, lost: Callable[[], None] | None) -> None:
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[_Batch] = deque()
        self._lost = lost
        self.push: Callable[[object], None] | None = None
        self.why = "the connection was closed"

    @property
    def alive(self) -> bool:
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class, but has all of it

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if self.push is not None:
                    self.push(reply)
                elif waiting:
                    batch = waiting[0]
                    batch.replies.append(reply)
                    batch.left -= 1
                    if not batch.left:
                        waiting.popleft()
                        _finish(batch)
                else:
                    self.abort("an answer that nobody asked for")
                    return
        except hiredis.ProtocolError:
            self.abort("an answer that is not Redis protocol")

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self.why = f"the connection broke ({type(error).__name__})"
        self._gone()

    def _gone(self) -> None:
        if self._transport is not None:
            self._transport = None
            while self._waiting:
                _finish(self._waiting.popleft())
            if self._lost is not None:
                self._lost()

    def abort(self, why: str) -> None:
        """Give the connection up; what waits ends with the answers that came."""
        transport = self._transport
        if transport is not None:
            self.why = why
            self._gone()
            transport.abort()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    async def many(self, data: bytes, number: int, bound: float) -> list[object]:
        transport = self._transport
        if transport is None:
            return []
        loop = asyncio.get_running_loop()
        timer = loop.call_later(bound, self.abort, f"no answer within {bound:g} s")
        batch = _Batch(number, loop.create_future(), timer)
        self._waiting.append(batch)
        transport.write(data)
        await batch.done
        return batch.replies


def _finish(batch: _Batch) -> None:
    batch.timer.cancel()
    if not batch.done.done():
        batch.done.set_result(None)


class Link:
    """A connection that is opened when it is first needed, and again after it broke.

    Attributes:
        id: The server's number of the open connection.
    """

    def __init__(
        self, endpoint: Endpoint, push: Callable[[object], None] | None = None, lost: Callable[[], None] | None = None
    ) -> None:
        """Prepare a link; nothing is opened.

        Args:
            endpoint: Where to.
            push: Takes every reply, for a connection in subscriber mode.
            lost: Called when the open connection is gone.
        """
        self._endpoint, self._push, self._lost = endpoint, push, lost
        self._wire: _Wire | None = None
        self._lock = asyncio.Lock()
        self._ended = False
        self.id = 0

    @property
    def alive(self) -> bool:
        """Whether it is open."""
        return self._wire is not None and self._wire.alive

    @property
    def why(self) -> str:
        """Why the last connection ended."""
        return self._wire.why if self._wire is not None else "not connected"

    async def open(self) -> None:
        """Connect, log in and load the scripts, unless it is open.

        Raises:
            AdapterError: ``CONFIG`` for what only an operator can mend, ``LOST`` after `end`, else ``TRANSIENT``.
        """
        if self._ended:
            raise AdapterError(Fault.LOST, "the connection was closed")
        if self.alive:
            return
        async with self._lock:
            if not self.alive:
                await self._connect()

    async def _connect(self) -> None:
        wire = None
        try:
            async with asyncio.timeout(CONNECT):
                wire = await self._endpoint.dial(lambda: _Wire(self._lost))
                self.id = await self._greet(wire)
        except AdapterError:
            raise
        except ssl.SSLCertVerificationError as error:
            raise AdapterError(Fault.CONFIG, f"the server's certificate is refused: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise AdapterError(Fault.CONFIG, f"no TLS with {self._endpoint}: {error.reason}") from error
        except TimeoutError as error:
            raise AdapterError(Fault.TRANSIENT, f"no connection to {self._endpoint} within {CONNECT:g} s") from error
        except OSError as error:
            text = f"no connection to {self._endpoint}: {error.strerror or error}"
            raise AdapterError(Fault.TRANSIENT, text) from error
        finally:
            if wire is not None and not self.id:
                wire.abort("the greeting failed")
        wire.push = self._push
        self._wire = wire

    async def _greet(self, wire: _Wire) -> int:
        """Log in; return the server's number of this connection."""
        self.id = 0
        login = await self._endpoint.login()
        commands: list[tuple[Argument, ...]] = [("AUTH", *login)] if login else []
        if self._endpoint.db:
            commands.append(("SELECT", self._endpoint.db))
        must = len(commands)
        commands.append(("CLIENT", "SETNAME", self._endpoint.name))
        commands += [script.load() for script in ALL] if self._push is None else []
        commands.append(("CLIENT", "ID"))
        replies = await wire.many(b"".join(map(pack, commands)), len(commands), CONNECT)
        if len(replies) < len(commands):
            raise AdapterError(Fault.TRANSIENT, f"{self._endpoint}: {wire.why}")
        for place, reply in enumerate(replies):
            if isinstance(reply, hiredis.ReplyError):
                error = fault_of(reply, str(self._endpoint))
                if place < must and (word := str(reply).partition(" ")[0]) in _REFUSED:
                    text = f"{self._endpoint}: {_REFUSED[word]} ({word}): look at config.username, config.password"
                    raise AdapterError(Fault.CONFIG, text) from reply
                if place < must and error.fault is Fault.LOST:
                    raise AdapterError(Fault.CONFIG, str(reply)) from reply  # AUTH or SELECT refused in plain words
                if place < must or commands[place][1] != "SETNAME":
                    raise error
        number = replies[-1]
        return number if isinstance(number, int) else 0

    async def many(self, data: bytes, number: int, bound: float = BOUND) -> list[object]:
        """Write `number` packed commands and return their replies, error replies among them.

        Args:
            data: The commands.
            number: How many they are.
            bound: Seconds after which the connection is given up, opening it included.

        Returns:
            Fewer replies than commands if the connection broke: the others may or may not have been carried out.

        Raises:
            AdapterError: If no connection could be opened; nothing was sent.
        """
        if self._wire is None or not self._wire.alive:
            began = asyncio.get_running_loop().time()
            await self.open()
            bound = max(bound - (asyncio.get_running_loop().time() - began), 1.0)
        wire = self._wire
        assert wire is not None
        return await wire.many(data, number, bound)

    async def calls(self, commands: Sequence[bytes], bound: float = BOUND) -> list[object]:
        """Write packed commands that may be repeated, and return all of their replies.

        Raises:
            AdapterError: ``TRANSIENT`` if not all were answered.
        """
        replies = await self.many(b"".join(commands), len(commands), bound)
        if len(replies) < len(commands):
            raise AdapterError(Fault.TRANSIENT, self.why)
        return replies

    async def call(self, *command: Argument, bound: float = BOUND) -> object:
        """Write one command and return its reply.

        Raises:
            AdapterError: For an error reply, and ``TRANSIENT`` without one.
        """
        [reply] = await self.calls([pack(command)], bound)
        if isinstance(reply, hiredis.ReplyError):
            raise reply_fault(self, reply)
        return reply

    def write(self, data: bytes) -> None:
        """Write without waiting; answers go to `push`."""
        if self._wire is not None:
            self._wire.write(data)

    def end(self) -> None:
        """Close the connection for good. Idempotent."""
        self._ended = True
        self.drop()

    def drop(self, why: str = "closed") -> None:
        """Close the connection; the next call opens another. Idempotent."""
        if self._wire is not None:
            self._wire.abort(why)


def reply_fault(link: Link, error: BaseException, where: str = "") -> AdapterError:
    """Return the `AdapterError` for an error reply, and drop the link where only a new connection helps."""
    if str(error).startswith(REOPEN):
        link.drop(f"the server answered {str(error).partition(' ')[0]}")
    return fault_of(error, where)
