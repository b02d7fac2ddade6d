"""A TCP proxy on loopback that does to a connection what networks do: cut, stall, half-open, delay, refuse.

    async with TcpProxy(server.host, server.port) as proxy:
        client = connect(port=proxy.port)
        proxy.stall()

It runs in the loop of the test. Faults set on the proxy hold for all its links, also for those that come later; the
same methods on one `Link` hold for that one.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from typing import Literal, Self

__all__ = ["Link", "TcpProxy", "free_port"]

# Below the range from which systems take the ports of outgoing connections: otherwise a client that reconnects to a
# dead server can be given the server's own port, end up connected to itself, and the server cannot come back.
_PORTS = range(15_000, 32_000)

Direction = Literal["to_server", "to_client"]

_RST_ON_CLOSE = struct.pack("ii", 1, 0)


def free_port() -> int:
    """Find a loopback port that nobody listens on, outside the range of outgoing connections.

    Raises:
        OSError: 200 ports were tried, and all are taken.
    """
    choice = random.SystemRandom()
    for _ in range(200):
        port = choice.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free loopback port among 200 tried in {_PORTS.start}-{_PORTS.stop}")


class _Faults:
    """What is wrong with a link at the moment."""

    def __init__(self) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.swallowed: set[Direction] = set()
        self.delay = 0.0

    def stall(self) -> None:
        """Passes nothing on, in both directions; what arrives waits, as on a link that is full."""
        self.flowing.clear()

    def resume(self) -> None:
        """Ends `stall`, `half_open` and `slow`; what was stalled goes on, what was swallowed stays lost."""
        self.swallowed.clear()
        self.delay = 0.0
        self.flowing.set()

    def half_open(self, direction: Direction = "to_client") -> None:
        """Swallows everything in one direction while the connection stays open.

        Args:
            direction: `to_client` loses answers (the server did the work), `to_server` loses requests.
        """
        self.swallowed.add(direction)

    def slow(self, seconds: float) -> None:
        """Passes every piece on that much later, one after another.

        Args:
            seconds: The delay of a piece of up to 64 KiB; 0 ends it.
        """
        self.delay = seconds


class Link(_Faults):
    """One client's connection through the proxy."""

    def __init__(self, proxy: TcpProxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        super().__init__()
        self._writers = (client, server)
        self._proxy = proxy
        self._ways: list[asyncio.Future[None]] = []

    def cut(self) -> None:
        """Breaks the connection on both sides with a reset, losing what is under way."""
        for writer in self._writers:
            _reset(writer)

    async def _carry(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._proxy.flowing.wait()
            await self.flowing.wait()
            if direction in self.swallowed or direction in self._proxy.swallowed:
                continue
            if delay := self.delay or self._proxy.delay:
                await asyncio.sleep(delay)
            writer.write(data)
            await writer.drain()
        # One side said its last word; the other may still have something to say.
        if not writer.is_closing() and writer.can_write_eof():
            writer.write_eof()

    async def _run(self, client: asyncio.StreamReader, server: asyncio.StreamReader) -> None:
        to_client, to_server = self._writers
        self._ways = [
            asyncio.ensure_future(self._carry("to_server", client, to_server)),
            asyncio.ensure_future(self._carry("to_client", server, to_client)),
        ]
        try:
            # Ends when both ways have, or with the first that breaks: then the other side is cut as well.
            await asyncio.gather(*self._ways)
        except asyncio.CancelledError:
            pass  # the proxy closes
        except (OSError, RuntimeError):  # uvloop's word for a transport that broke a moment ago
            self.cut()
        finally:
            self._end()
            for writer in self._writers:
                writer.transport.abort()
        # A loop that is closed right after the test must find no open transport and no running task.
        await asyncio.gather(*self._ways, *(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    def _end(self) -> None:
        for way in self._ways:
            way.cancel()


class TcpProxy(_Faults):
    """Forwards every connection on its own loopback port to one server, faults on demand.

    Args:
        host: The server's host.
        port: The server's port.

    Attributes:
        port: Where clients connect; the same after `refuse` and `accept`.
        links: The connections that are open now, oldest first.
        accepted: How many connections there were in all.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._target = (host, port)
        self._listener: asyncio.Server | None = None
        self._tasks: dict[asyncio.Task[None], Link | None] = {}
        self.host = "127.0.0.1"
        self.port = 0
        self.links: list[Link] = []
        self.accepted = 0

    def __repr__(self) -> str:
        state = "listening" if self._listener else "refusing"
        target = ":".join(map(str, self._target))
        return f"<TcpProxy {self.host}:{self.port} -> {target} {state}, {len(self.links)} links>"

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        for task, link in self._tasks.items():
            # Never cancel a task that is already tidying up: end what it carries, and wait for it.
            if link is None:
                task.cancel()
            else:
                link._end()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Breaks every open connection with a reset; new ones are accepted."""
        for link in list(self.links):
            link.cut()

    async def refuse(self) -> None:
        """Stops listening: a new connection is refused by the system, open ones stay."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
            # The loop closes the socket on its next turns; `wait_closed` would wait for the open links as well.
            while await _answers(self.host, self.port):  # noqa: ASYNC110 - nothing tells when the system did
                await asyncio.sleep(0.01)

    async def accept(self) -> None:
        """Listens again, on the same port."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accepted, self.host, self.port or free_port())
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = None
        self.accepted += 1
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            link = self._tasks[task] = Link(self, writer, server_writer)
            self.links.append(link)
            try:
                await link._run(reader, server_reader)
            finally:
                self.links.remove(link)
        except (OSError, asyncio.CancelledError):
            # The server is down, or the proxy closes: the client shall see what it would see without us.
            _reset(writer)
        finally:
            del self._tasks[task]


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        # Through a duplicate: uvloop's own socket wrapper has no setsockopt, and the option belongs to the connection.
        with socket.socket(fileno=os.dup(sock.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    writer.transport.abort()


async def _answers(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.transport.abort()
    return True
