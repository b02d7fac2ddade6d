"""Reads what the server sends, in place of nats-py's own parser.

nats-py's costs three times as much a message, wraps each in a task's queue, and after a cancelled `flush` stops reading
for good while the client looks connected. This one hands the adapter's own subscriptions the bytes as they come, and
everything else to the client as before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

if TYPE_CHECKING:
    from nats.aio.client import Client

__all__ = ["Reader", "Sink"]

Sink = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes a message's subject, reply subject, block of headers and body."""

_DENIED = re.compile(r"'?permissions violation for (publish|subscription) to \"([^\"]*)\"", re.IGNORECASE)
_LINE = 1024 * 1024
"""Bytes that a line has at most: INFO names every server of a cluster."""


class Reader(Parser):
    """The parser of one client.

    Attributes:
        sinks: Who takes the messages of the adapter's own subscriptions, by their ids.
    """

    def __init__(self, client: Client, denied: Callable[[str, str], None]) -> None:
        """Read for a client; `denied` is told what it may not do, and on which subject."""
        super().__init__(client)
        self.sinks: dict[bytes, Sink] = {}
        self._client: Any = client  # the methods below are its own parser's, and not annotated
        self._denied = denied

    def reset(self) -> None:
        """Forget what was read in part."""
        super().reset()
        self._chunks: list[bytes] = []
        self._have, self._need = 0, 0

    async def parse(self, data: bytes = b"") -> None:
        """Take what was read off the socket.

        Raises:
            ProtocolError: The server sent what is not the protocol; the client then closes.
        """
        self._chunks.append(data)
        self._have += len(data)
        if self._have < self._need:
            return
        buffer = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        at = await self._read(buffer)
        rest = buffer[at:]
        self._chunks, self._have = [rest] if rest else [], len(rest)

    async def _read(self, buffer: bytes) -> int:
        """Read whole messages; return where the first begins that is not whole."""
        at, end, sinks = 0, len(buffer), self.sinks
        self._need = 0
        while (line_end := buffer.find(b"\r\n", at)) >= 0:
            words = buffer[at:line_end].split()
            word = words[0].upper() if words else b""
            body = line_end + 2
            if word not in (b"HMSG", b"MSG"):
                await self._control(word, buffer[at:line_end])
                at = body
                continue
            try:
                head = body + int(words[-2]) if word == b"HMSG" else body
                stop = body + int(words[-1])
                reply = words[3] if len(words) == (6 if word == b"HMSG" else 5) else b""
            except (ValueError, IndexError):
                raise ProtocolError("a message's size is no number") from None
            if stop + 2 > end:
                self._need = stop + 2 - at
                return at
            sink = sinks.get(words[2])
            if sink is not None:
                sink(words[1], reply, buffer[body:head], buffer[head:stop])
            elif words[2].isdigit():
                await self._client._process_msg(int(words[2]), words[1], reply, buffer[head:stop], buffer[body:head])
            at = stop + 2
        if end - at > _LINE:
            raise ProtocolError("a line without an end")
        return at

    async def _control(self, word: bytes, line: bytes) -> None:
        client = self._client
        if word == b"PING":
            await client._process_ping()
        elif word == b"PONG":
            if client._pongs and client._pongs[0].done():  # somebody gave up waiting: it is nobody's answer now
                client._pongs.pop(0)
            else:
                await client._process_pong()
        elif word == b"INFO":
            await client._process_info(json.loads(line[5:]))
        elif word == b"-ERR":
            text = line[5:].decode(errors="replace").strip()
            if denied := _DENIED.match(text):
                self._denied(denied[1].lower(), denied[2])
            await client._process_err(text.lower())
        elif word != b"+OK":
            raise ProtocolError("an unknown word")
