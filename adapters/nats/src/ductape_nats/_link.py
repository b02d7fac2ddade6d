"""The connection to the servers: opened again when it broke, with one inbox for every answer.

nats-py connects, logs in, encrypts and keeps it alive; it does not reconnect by itself, since what was under way then
has to be decided by those who sent it.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from nats.aio.client import Client

from ductape.adapter import AdapterError, Fault, Site

from ._config import NatsConfig
from ._login import Login, connect_fault, options_of
from ._parser import Reader, Sink
from ._wire import error_fault, status_of

__all__ = ["BOUND", "CONNECT", "Batch", "Link"]

BOUND = 8.0
"""Seconds for a batch or a request, below every bound of the contract that it can be part of."""
CONNECT = 7.0
CLOSING, GONE = 1.0, 0.2


class Batch:
    """Commands that wait for an answer each.

    Attributes:
        answers: What came, by place: the body, or the block of headers of a message without one; None: nothing yet.
        left: How many are missing.
        refused: Why the server takes none of them.
    """

    __slots__ = ("answers", "done", "first", "left", "refused", "subject")

    def __init__(self, number: int, first: int, subject: str) -> None:
        """Expect `number` answers."""
        self.answers: list[bytes | None] = [None] * number
        self.left, self.first, self.subject = number, first, subject
        self.refused: AdapterError | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self, refused: AdapterError | None = None) -> None:
        """Wait no longer."""
        self.refused = self.refused or refused
        if not self.done.done():
            self.done.set_result(None)


class Link:
    """One connection at a time.

    Attributes:
        client: nats-py's client of the last connection.
        number: How many connections there were: what was subscribed on an earlier one has to be subscribed again.
        why: Why the last one ended.
    """

    def __init__(self, config: NatsConfig, site: Site) -> None:
        """Prepare; nothing is connected."""
        self._config, self._site, self._clock = config, site, site.clock
        words = "-".join((site.product, site.env, site.broker, str(os.getpid()), secrets.token_hex(4)))
        self.name = config.name or re.sub(r"[^!-~]", "_", words)
        self.client = Client()
        self.number = 0
        self.why = "not connected"
        self._reader: Reader | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._ended = False
        self._waiting: dict[int, Batch] = {}
        self._tokens = self._sids = 0
        self._inbox = ""
        self._cut = 0
        self._lost: set[Callable[[], object]] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def alive(self) -> bool:
        """Whether it is open."""
        return self._reader is not None

    @property
    def version(self) -> tuple[int, int]:
        """The server's."""
        found = self.client.connected_server_version
        return found.major, found.minor

    @property
    def server(self) -> str:
        """The id of the server process; it is another after a restart."""
        client: Any = self.client
        return str(client._server_info.get("server_id", ""))

    def watch(self, lost: Callable[[], object]) -> Callable[[], None]:
        """Have `lost` called whenever the connection is gone; returns what ends that."""
        self._lost.add(lost)
        return lambda: self._lost.discard(lost)

    # -- life

    async def open(self, bound: float = CONNECT + 1.0) -> float:
        """Connect and log in, unless it is open.

        Args:
            bound: Seconds to wait for it; connecting goes on for those who come later.

        Returns:
            The seconds of `BOUND` that are left, one at least.

        Raises:
            AdapterError: ``CONFIG`` for what only an operator can mend, ``LOST`` after `end`, else ``TRANSIENT``.
        """
        if self._ended:
            raise AdapterError(Fault.LOST, "the connection was closed")
        if self._reader is not None:
            return BOUND
        began = self._clock.now()
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        connecting = self._connecting
        if not await self._within(connecting, bound):
            raise AdapterError(Fault.TRANSIENT, f"no connection within {bound:g} s")
        if connecting.cancelled():
            raise AdapterError(Fault.LOST, "the connection was closed")
        connecting.result()
        return max(1.0, BOUND - (self._clock.now() - began))

    async def _within(self, future: asyncio.Future[Any], bound: float) -> bool:
        """Wait for a future and never cancel it; tell whether it is done."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(bound, over.cancel)
        stop = self.watch(over.cancel)
        try:
            await asyncio.wait({future, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            stop()
            over.cancel()
        return future.done()

    async def _connect(self) -> None:
        client, errors = Login(), list[Exception]()
        client.encrypted = bool(self._config.tls) or any(url.startswith("tls://") for url in self._config.urls())
        reader = Reader(client, self._denied)
        client._ps = reader

        async def failed(error: Exception) -> None:
            errors.append(error)
            del errors[:-3]

        def ended(reading: asyncio.Task[None]) -> None:
            error = None if reading.cancelled() else reading.exception()
            self._broke(reader, errors[-1] if errors else client.last_error or error)

        try:
            options = options_of(self._config, self.name) | {"error_cb": failed}
            async with asyncio.timeout(CONNECT):
                await client.connect(self._config.urls(), **options)
                await self._greet(client, reader)
        except BaseException as error:
            await self._discard(client)
            if isinstance(error, Exception):
                raise connect_fault(error, errors, self._config) from error
            raise
        self.client, self._reader = client, reader
        self.number += 1
        # Its callbacks are not called where closing itself fails; without its reader it is deaf in any case.
        client._reading_task.add_done_callback(ended)
        if self._ended:
            self.drop("closed")
            raise AdapterError(Fault.LOST, "the connection was closed")

    async def _greet(self, client: Any, reader: Reader) -> None:
        """Subscribe the inbox of answers, and see that it is allowed."""
        self._inbox = client.new_inbox() + "."
        self._cut = len(self._inbox)
        self.why = ""
        reader.sinks[b"a"] = self._answered
        await client._send_command(f"SUB {self._inbox}* a\r\n".encode())
        await client._flush_pending()
        await self._pong(client, CONNECT)
        if self.why:
            raise AdapterError(Fault.CONFIG, f"{self.why}; native.inbox_prefix names another one")

    def _broke(self, reader: Reader, error: BaseException | None) -> None:
        """End what waits, and tell those who subscribed."""
        if self._reader is not reader:
            return
        self._reader = None
        self.why = f"the connection broke ({type(error).__name__})" if error is not None else "the connection broke"
        task = asyncio.get_running_loop().create_task(self._discard(self.client))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        waiting, self._waiting = self._waiting, {}
        for batch in set(waiting.values()):
            batch.end()
        for lost in list(self._lost):
            lost()

    def drop(self, why: str) -> None:
        """Close the connection; the next call opens another. Idempotent."""
        reader = self._reader
        if reader is not None:
            self._broke(reader, None)
            self.why = why

    async def end(self) -> None:
        """Close the connection for good. Idempotent."""
        self._ended = True
        self.drop("closed")
        connecting = {self._connecting} if self._connecting is not None and not self._connecting.done() else set()
        for task in connecting:
            task.cancel()
        if tasks := self._closing | connecting:
            await asyncio.wait(tasks)

    async def _discard(self, client: Any) -> None:
        """Close a client, within bounds: what it still has to write may have nobody who reads."""
        await self._bounded(client.close(), CLOSING)
        writer = getattr(client._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
            await self._bounded(writer.wait_closed(), GONE)  # never done where a handshake failed

    async def _bounded(self, call: Coroutine[Any, Any, object], bound: float) -> None:
        """Let a closing call run for so long; its failure changes nothing."""
        task = asyncio.get_running_loop().create_task(call)
        timer = self._clock.call_later(bound, task.cancel)
        await asyncio.gather(task, return_exceptions=True)
        timer.cancel()

    # -- writing and waiting

    async def write(self, data: bytes) -> None:
        """Write commands.

        Raises:
            AdapterError: ``TRANSIENT`` if there is no connection; nothing was written.
        """
        if self._reader is None:
            raise AdapterError(Fault.LOST if self._ended else Fault.TRANSIENT, self.why)
        client: Any = self.client
        await client._send_command(data)
        await client._flush_pending()

    def expect(self, number: int, subject: str = "") -> tuple[Batch, str]:
        """Return a batch of answers, and the inbox for them: their numbers follow, from `Batch.first` on."""
        batch = Batch(number, self._tokens, subject)
        waiting = self._waiting
        for token in range(self._tokens, self._tokens + number):
            waiting[token] = batch
        self._tokens += number
        return batch, self._inbox

    def _answered(self, subject: bytes, reply: bytes, block: bytes, body: bytes) -> None:
        token = int(subject[self._cut :])
        batch = self._waiting.pop(token, None)
        if batch is not None:
            batch.answers[token - batch.first] = body or block
            batch.left -= 1
            if not batch.left:
                batch.end()

    async def wait(self, batch: Batch, bound: float = BOUND) -> None:
        """Wait until all of a batch is answered, the connection breaks, or the time is over."""
        if batch.left:
            timer = self._clock.call_later(bound, batch.end)
            await batch.done
            timer.cancel()
        if None in batch.answers:
            for token in range(batch.first, batch.first + len(batch.answers)):
                self._waiting.pop(token, None)

    async def api(self, call: str, body: object = None, bound: float = 5.0) -> dict[str, Any]:
        """Ask JetStream, and return its answer, an error among them.

        Raises:
            AdapterError: ``CONFIG`` without JetStream or permission, ``TRANSIENT`` without an answer.
        """
        await self.open()
        subject, data = f"$JS.API.{call}", b"" if body is None else msgspec.json.encode(body)
        batch, inbox = self.expect(1, subject)
        await self.write(b"PUB %b %b%d %d\r\n%b\r\n" % (subject.encode(), inbox.encode(), batch.first, len(data), data))
        await self.wait(batch, bound)
        answer = batch.answers[0]
        if answer is None:
            raise batch.refused or AdapterError(Fault.TRANSIENT, self.why or f"no answer within {bound:g} s")
        if answer.startswith(b"NATS/1.0"):
            text = f"JetStream does not answer here (status {status_of(answer).code}); enable it, or use mode 'core'"
            raise AdapterError(Fault.CONFIG, text)
        found: dict[str, Any] = msgspec.json.decode(answer)
        error = found.get("error")
        if error and error.get("err_code") in (10039, 10076):
            raise error_fault(error.get("code", 0), error["err_code"], error.get("description", ""), "JetStream")
        return found

    async def ping(self, bound: float = 4.0) -> None:
        """Make a round trip: all that was written before is read by the server, all that it sent before is here.

        Raises:
            AdapterError: ``TRANSIENT`` without an answer.
        """
        if self._reader is None:
            raise AdapterError(Fault.LOST if self._ended else Fault.TRANSIENT, self.why)
        await self._pong(self.client, bound)

    async def _pong(self, client: Any, bound: float) -> None:
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        client._pongs.append(pong)  # its own ping overtakes what waits to be written
        await client._send_command(b"PING\r\n")
        await client._flush_pending()
        if not await self._within(pong, bound):
            raise AdapterError(Fault.TRANSIENT, self.why or f"no answer within {bound:g} s")

    # -- subscriptions

    async def subscribe(self, subject: str, sink: Sink) -> bytes:
        """Subscribe on the open connection; returns the subscription's id."""
        self._sids += 1
        sid = b"d%d" % self._sids
        await self.write(b"SUB %b %b\r\n" % (subject.encode(), sid))
        assert self._reader is not None  # else write had raised
        self._reader.sinks[sid] = sink
        return sid

    async def unsubscribe(self, sid: bytes, *, forget: bool = True) -> None:
        """End a subscription; what is on its way is still handed over unless it is to be forgotten."""
        if self._reader is not None:
            if forget:
                self.forget(sid)
            await self.write(b"UNSUB %b\r\n" % sid)

    def forget(self, sid: bytes) -> None:
        """Hand over nothing more of a subscription."""
        if self._reader is not None:
            self._reader.sinks.pop(sid, None)

    def _denied(self, what: str, subject: str) -> None:
        """Answer those who wait for what the server does not permit: it tells on the side, and drops the command."""
        verb = "to publish" if what == "publish" else "a subscription"
        text = f"the server does not permit this user {verb} to {subject!r}"
        self.why = text if self._reader is None else self.why
        error = AdapterError(Fault.CONFIG, text)
        for batch in {batch for batch in self._waiting.values() if batch.subject == subject}:
            batch.end(error)
        if what != "publish":
            self._site.log.error("broker %s: %s", self._site.broker, text)

    def __repr__(self) -> str:
        return f"<Link {self.name} {'open' if self.alive else self.why} connections={self.number}>"
