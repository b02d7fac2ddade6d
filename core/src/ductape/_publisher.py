"""Publishing one event: payload to bytes and headers, through middleware, to the channel's outbox."""

from __future__ import annotations

import asyncio
from asyncio import get_running_loop
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from . import _headers as h
from ._capabilities import Capabilities
from ._codec import Encoding
from ._event import Message, Receipt, Session
from ._middleware import Publishing
from ._names import ids
from ._outbox import Outbox
from ._records import Outgoing
from .errors import (
    CapabilityError,
    ConfigError,
    DuctapeError,
    ManyFailed,
    MessageTooLarge,
    PayloadError,
    PublishError,
    StateError,
)

T = TypeVar("T")

OVERHEAD = 160
"""Bytes that ductape's own headers take, about."""
RESERVE = 16 * 1024
"""Bytes kept free below a channel's limit, so that a dead letter's headers always fit."""
MANY = 1000
"""Messages that `publish_many` prepares at a time."""

SessionLike = Session | Mapping[str, str]


class Publisher(Generic[T]):
    """A publisher of one event. ``event.publisher(…)`` gives one for a hot path; `event.publish` keeps one for you."""

    def __init__(
        self,
        event: str,
        encoding: Encoding,
        outbox: Outbox,
        can: Callable[[], Capabilities],
        wrap: Callable[[Publishing], Publishing],
        deadline: float,
        usable: Callable[[], None],
    ) -> None:
        """Assemble a publisher. For the kernel.

        Args:
            event: What it publishes.
            encoding: How.
            outbox: Where to.
            can: What the channel can do; known once the outbox is open.
            wrap: Puts the middleware around what sends.
            deadline: Seconds.
            usable: Raises `StateError` when the client is closed or belongs to another loop.
        """
        self.event = event
        self._encode, self._outbox, self._clock = encoding.encode, outbox, outbox.clock
        self._known, self._usable, self._deadline = can, usable, deadline
        self._loop = get_running_loop()
        chain = wrap(self._send)
        self._chain: Publishing | None = None if chain == self._send else chain
        self._can: Capabilities | None = None
        self._most = 0

    async def publish(
        self,
        message: T,
        *,
        session: SessionLike | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
        delay: float = 0.0,
        timeout: float | None = None,
    ) -> Receipt:
        """Publish a message; return when the broker has stored it.

        A lone message is sent at once; concurrent ones are sent together.

        Args:
            message: The payload.
            session: Who publishes: ``tag`` and ``token``. The token reaches the handler and is shown nowhere.
            key: What order is kept within.
            headers: Text to travel with it.
            id: The message's identity; made if it is None. Give the same one when you publish again.
            delay: Seconds until it may be delivered, where the provider can.
            timeout: Seconds until the publish fails, instead of the client's `deadline`.

        Raises:
            PublishError: It was not confirmed; `stored` says whether it may be stored.
            PayloadError: It cannot be written, or is too large.
            CapabilityError: The provider cannot delay so long.
            StateError: The client is closed.
        """
        deadline = self._clock.now() + (self._deadline if timeout is None else _timeout(self.event, timeout))
        if key is not None and not isinstance(key, str):
            raise _not_text(self.event, "key", key)
        outbox = self._outbox
        if self._can is None or not outbox.open or get_running_loop() is not self._loop:
            await self._admit(deadline)
        body, sent, id, size = self._prepare(message, id, headers, session, delay)
        if self._chain is not None:
            return await self._chain(Message(self.event, message, body, sent, id, key, delay, deadline))
        stored = await outbox.put(Outgoing(body, sent, id, key, delay, id, None, size), deadline)
        return Receipt(self.event, id, stored.position, stored.duplicate)

    def _prepare(
        self, payload: T, id: str | None, headers: Mapping[str, str] | None, session: SessionLike | None, delay: float
    ) -> tuple[bytes, dict[str, str], str, int]:
        """Return body, headers, id and size of a message; raises `PayloadError` or `CapabilityError`."""
        body, content_type = self._encode(payload)
        if id is None:
            id = ids.next()
        elif not _is_line(id):
            raise _not_text(self.event, "id", id)
        sent = {h.EVENT: self.event, h.ID: id, h.CONTENT_TYPE: content_type}
        size = len(body) + OVERHEAD
        if headers is not None or session is not None:
            size += self._add(sent, headers, session)
        if size > self._most or delay:
            self._check(size, len(body), delay)
        return body, sent, id, size

    async def _send(self, message: Message) -> Receipt:
        """The innermost of the middleware, which may have added headers: to the outbox."""
        body, headers, id = message.body, message.headers, message.id
        size = len(body) + 40 * len(headers) + len("".join(headers.values()))
        if size > self._most:
            self._check(size, len(body), 0.0)
        record = Outgoing(body, headers, id, message.key, message.delay, id, None, size)
        stored = await self._outbox.publish(record, message.deadline)
        return Receipt(self.event, id, stored.position, stored.duplicate)

    async def publish_many(
        self,
        messages: Iterable[T],
        *,
        key: Callable[[T], str | None] | None = None,
        session: SessionLike | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> list[Receipt]:
        """Publish messages in as few calls as the provider needs; return when all are stored.

        Args:
            messages: The payloads; taken as there is room, so a generator is welcome.
            key: Gives each message's key.
            session: As in `publish`, for all.
            headers: As in `publish`, for all.
            timeout: As in `publish`, for each.

        Returns:
            A receipt for every message, in order.

        Raises:
            ManyFailed: Some were not confirmed; its `results` has a receipt or an error for every message.
        """
        results: list[Receipt | BaseException] = []
        part: list[tuple[str, asyncio.Future[Any]]] = []
        seconds = self._deadline if timeout is None else _timeout(self.event, timeout)
        away: PublishError | None = None
        try:
            for message in messages:
                deadline = self._clock.now() + seconds
                try:
                    if self._can is None or not self._outbox.open or get_running_loop() is not self._loop:
                        await self._collect(part, results)
                        if away is not None:  # one could not be put: the others do not wait for the same in turn
                            raise away
                        await self._admit(deadline)
                    chosen = key(message) if key is not None else None
                    if chosen is not None and not isinstance(chosen, str):
                        raise _not_text(self.event, "key", chosen)
                    body, sent, id, size = self._prepare(message, None, headers, session, 0.0)
                except (DuctapeError, TypeError, ValueError, LookupError, AttributeError) as error:
                    away = error if isinstance(error, PublishError) else away
                    await self._collect(part, results)
                    results.append(error)
                    continue
                if self._chain is None:
                    record = Outgoing(body, sent, id, chosen, 0.0, id, None, size)
                    sending: asyncio.Future[Any] = self._outbox.put(record, deadline)
                else:
                    out = Message(self.event, message, body, sent, id, chosen, 0.0, deadline)
                    sending = asyncio.ensure_future(self._chain(out))
                part.append((id, sending))
                if len(part) >= MANY:
                    await self._collect(part, results)
            await self._collect(part, results)
        finally:  # of a call that was cancelled, nobody waits for these
            for _, sending in part:
                sending.add_done_callback(lambda done: done.cancelled() or done.exception())
                sending.cancel()
        return self._all_stored(results)

    async def _collect(
        self, part: list[tuple[str, asyncio.Future[Any]]], results: list[Receipt | BaseException]
    ) -> None:
        """Await what was put, and add its results in order."""
        for id, sending in part:
            try:
                answer = await sending
            except Exception as error:
                results.append(error)
            else:
                stored = answer if isinstance(answer, Receipt) else None
                results.append(stored or Receipt(self.event, id, answer.position, answer.duplicate))
        part.clear()

    def _all_stored(self, results: Sequence[Receipt | BaseException]) -> list[Receipt]:
        receipts = [result for result in results if isinstance(result, Receipt)]
        if len(receipts) == len(results):
            return receipts
        errors = [result for result in results if isinstance(result, BaseException)]
        maybe = any(isinstance(error, PublishError) and error.stored == "maybe" for error in errors)
        text = (
            f"{self.event}: {len(errors)} of {len(results)} messages were not confirmed; the first: {errors[0]} "
            "See .results for each."
        )
        raise ManyFailed(text, stored="maybe" if maybe else "no", results=results) from errors[0]

    # -- checks

    async def _admit(self, deadline: float) -> None:
        self._usable()
        await self._outbox.admit(deadline, self.event)
        if self._can is None:
            self._can = can = self._known()
            limits = [limit for limit in (can.max_message, can.max_body) if limit is not None]
            self._most = min((max(limit - RESERVE, limit // 2) for limit in limits), default=1 << 62) - 1024

    def _check(self, size: int, body: int, delay: float) -> None:
        """Refuse what the channel cannot take."""
        can = self._can or Capabilities()
        if not _is_seconds(delay):
            raise ConfigError("OPTION_INVALID", f"{self.event}: delay={delay!r}: it is seconds from now.")
        if delay > can.send_delay:
            longest = f"{can.send_delay:g} s at most" if can.send_delay else "nothing"
            raise CapabilityError(
                "CAPABILITY_MISSING",
                f"{self.event}: the provider delays {longest}, not {delay:g} s. Publish later, or choose another one.",
                capability="send_delay",
            )
        most = None if can.max_message is None else max(can.max_message - RESERVE, can.max_message // 2)
        if can.max_body is not None and body > can.max_body:
            size, most = body, can.max_body
        if most is not None and size > most:
            text = f"{self.event}: {size} bytes, and the channel takes {most}. Publish where the content is stored."
            raise MessageTooLarge("MESSAGE_TOO_LARGE", text, size=size, limit=most)

    def _add(self, sent: dict[str, str], headers: Mapping[str, str] | None, session: SessionLike | None) -> int:
        """Add the application's headers and session; return their bytes."""
        if not isinstance(headers, Mapping | None):
            raise PayloadError("HEADER_INVALID", f"{self.event}: headers are a mapping of names to text.")
        extra: dict[str, Any] = dict(headers or {})
        for name, value in extra.items():
            if not _good_name(name) or not isinstance(value, str) or "\n" in value or "\r" in value or "\0" in value:
                what = "ductape's own names cannot be set" if str(name).startswith("ductape-") else _HEADER_RULE
                raise PayloadError("HEADER_INVALID", f"{self.event}: header {name!r}: {what}.", header=name)
        if session is not None:
            chosen = _session(session, self.event)
            extra[h.SESSION_TAG], extra[h.SESSION_TOKEN] = chosen.tag, chosen.token
        can = self._can or Capabilities()
        for name, value in extra.items():
            if can.max_header is not None and len(value.encode()) > can.max_header:
                text = (
                    f"{self.event}: header {name!r} has more than the {can.max_header} bytes that the provider carries."
                )
                raise PayloadError("HEADER_INVALID", text, header=name)
        number = len(extra) + len(sent) + h.DEAD_HEADERS
        if can.max_headers is not None and number > can.max_headers:
            text = f"{self.event}: {number} headers with a dead letter's; the provider carries {can.max_headers}."
            raise PayloadError("HEADER_INVALID", text)
        sent.update(extra)
        return sum(len(name) + len(value.encode()) for name, value in extra.items())

    def __repr__(self) -> str:
        return f"<Publisher {self.event} stored={self._outbox.stored} pending={self._outbox.pending}>"


_HEADER_RULE = "names are letters, digits, '.', '_' and '-', and values text without line breaks"


def _is_line(text: Any) -> bool:
    return isinstance(text, str) and text != "" and text.isprintable()


def _is_seconds(number: Any) -> bool:
    return isinstance(number, int | float) and number >= 0


def _timeout(event: str, timeout: Any) -> float:
    if not _is_seconds(timeout) or timeout == 0:
        text = f"publish {event!r}: timeout={timeout!r}: it is seconds, above 0."
        raise ConfigError("OPTION_INVALID", text, option="timeout")
    return float(timeout)


def _not_text(event: str, name: str, value: object) -> ConfigError:
    text = f"publish {event!r}: {name} is text on one line, not {type(value).__name__}."
    return ConfigError("OPTION_INVALID", text, option=name)


def _good_name(name: Any) -> bool:
    return (
        isinstance(name, str)
        and name.isascii()
        and name.replace("-", "a").replace("_", "a").replace(".", "a").isalnum()
        and not name.lower().startswith("ductape-")
    )


def _session(session: SessionLike, event: str) -> Session:
    """Read a session; its values are never shown."""
    given: Any = {"tag": session.tag, "token": session.token} if isinstance(session, Session) else session
    if not isinstance(given, Mapping) or not set(given) <= {"tag", "token"}:
        raise PayloadError("HEADER_INVALID", f"{event}: session takes a tag and a token, or a Session.")
    for name in ("tag", "token"):
        value = given.get(name)
        if not isinstance(value, str) or not value or "\n" in value or "\r" in value:
            raise PayloadError("HEADER_INVALID", f"{event}: session.{name} is a text without line breaks.")
    return Session(given["tag"], given["token"])


def closed(what: str) -> StateError:
    """Return the error for a call after close."""
    text = f"{what}: the client is closed. Publish inside `async with ductape:`, or open it again."
    return StateError("CLOSED", text)
