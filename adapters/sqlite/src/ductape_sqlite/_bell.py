"""Waking those who wait for a message: in this process at once, in others by a datagram on the loopback interface.

A receiver has a port in the file (`ductape_listener`); who changed a channel sends the channel's number there after the
commit. A datagram that is lost, or a program that knows nothing of it, is made up for by `File`, which looks
four times a second whether the file was changed.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import Callable, Iterable
from typing import Protocol

__all__ = ["AGAIN", "Bell", "enter", "leave"]

STALE = 150_000_000
"""Microseconds after which a port that was not entered again is forgotten: its process is gone."""
AGAIN = 50.0
"""Seconds after which a port is entered again."""


class Rung(Protocol):
    """Whoever waits for a channel."""

    def rung(self) -> None:
        """Look again."""


class Bell(asyncio.DatagramProtocol):
    """The bell of one connection.

    Attributes:
        port: Where it hears; 0: nowhere, there is no loopback interface.
    """

    def __init__(self) -> None:
        """Begin without a port; `open` finds one."""
        self.port = 0
        self._waiting: dict[int, dict[Rung, None]] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self._opening, self._closed = asyncio.Lock(), False
        self._sending: socket.socket | None = None

    async def open(self) -> None:
        """Listen, where that is possible. Idempotent."""
        async with self._opening:
            if self._transport is not None:
                return
            loop = asyncio.get_running_loop()
            try:
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: self, local_addr=("127.0.0.1", 0), family=socket.AF_INET
                )
            except OSError:
                return  # what others store is seen a little later
            if self._closed:  # nobody else would close this one, and uvloop does not end with it open
                transport.close()
                return
            self._transport, self.port = transport, transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Wake those of the channel; for asyncio."""
        if data.isdigit() and len(data) < 20:
            self._wake(int(data))

    def error_received(self, exc: Exception) -> None:
        """Ignore that somebody is not there any more; for asyncio."""

    def add(self, channel: int, who: Rung) -> None:
        """Wake `who` for a channel from now on."""
        self._waiting.setdefault(channel, {})[who] = None

    def remove(self, channel: int, who: Rung) -> bool:
        """Wake `who` no more; return whether nobody else here waits for the channel."""
        left = self._waiting.get(channel, {})
        left.pop(who, None)
        if not left:
            self._waiting.pop(channel, None)
        return not left

    @property
    def empty(self) -> bool:
        """Nobody waits for anything."""
        return not self._waiting

    def ring(self, channel: int, ports: Iterable[int]) -> None:
        """Wake all who wait for a channel, here and elsewhere."""
        self._wake(channel)
        for port in ports:
            if port != self.port:
                self._send(channel, port)

    def ring_all(self) -> None:
        """Wake all who wait here: somebody changed something."""
        for channel in list(self._waiting):
            self._wake(channel)

    def _wake(self, channel: int) -> None:
        for who in list(self._waiting.get(channel, ())):
            who.rung()

    def _send(self, channel: int, port: int) -> None:
        try:
            if self._sending is None:
                self._sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self._sending.setblocking(False)
            self._sending.sendto(b"%d" % channel, ("127.0.0.1", port))
        except OSError:
            pass  # they look by themselves, a little later

    def close(self) -> None:
        """Listen no more; idempotent."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()
        if self._sending is not None:
            self._sending.close()
            self._sending = None


def enter(channel: int, port: int, now: Callable[[], int]) -> Callable[[sqlite3.Connection], None]:
    """Return what enters a port into the file, and forgets those of processes that are gone."""

    def act(db: sqlite3.Connection) -> None:
        seen = now()
        db.execute("INSERT OR REPLACE INTO ductape_listener VALUES (?, ?, ?)", (channel, port, seen))
        db.execute("DELETE FROM ductape_listener WHERE seen < ?", (seen - STALE,))

    return act


def leave(channel: int, port: int) -> Callable[[sqlite3.Connection], None]:
    """Return what takes a port out of the file."""

    def act(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM ductape_listener WHERE channel = ? AND port = ?", (channel, port))

    return act
