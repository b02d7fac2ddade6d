"""``ductape.event``: publish, subscribe, stream, dead letters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from threading import get_ident
from typing import Any, TypeVar, overload

from msgspec.structs import replace

from ._catalog import Catalog
from ._config import snake
from ._dead import IDLE, DeadLetter, dead_letters
from ._engine import Declaration, Engine
from ._event import Receipt
from ._handler import Handler, Signature, read_signature
from ._names import check_group, ids, split_event
from ._options import read_options
from ._publisher import Publisher, SessionLike
from ._stream import Stream
from ._subscription import Subscription
from .errors import ConfigError, HandlerError, StateError, nearest
from .types import PublishRequest, SubscribeRequest

H = TypeVar("H", bound=Callable[..., Any])
T = TypeVar("T")

_PUBLISH = ("event", "message", "env", "product", "session", "key", "headers", "id", "delay", "timeout")
_MISSING: Any = object()


class EventDoor:
    """``ductape.event``: everything that happens to events."""

    def __init__(
        self,
        begin: Callable[[], Engine],
        running: Callable[[], bool],
        catalog: Catalog,
        declarations: list[Declaration],
    ) -> None:
        """Open the door of a client.

        Args:
            begin: Returns what runs, beginning if nothing does.
            running: Tells whether anything does.
            catalog: Refuses another product, and types that payloads cannot be read as.
            declarations: Subscriptions that open with the client.
        """
        self._begin, self._running, self._check_product = begin, running, catalog.check_product
        self._declarations, self._unreadable = declarations, catalog.unreadable
        self._ready: dict[str, Publisher[Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = self._forks = 0
        self._hinted = False

    # -- publish

    @overload
    def publish(self, request: PublishRequest, /) -> Awaitable[Receipt]: ...
    @overload
    def publish(
        self,
        event: str,
        message: object,
        *,
        env: str | None = None,
        product: str | None = None,
        session: SessionLike | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
        delay: float = 0.0,
        timeout: float | None = None,
    ) -> Awaitable[Receipt]: ...
    def publish(self, event: Any, message: Any = _MISSING, **options: Any) -> Awaitable[Receipt]:
        """Publish a message; the result is its receipt, once the broker has stored it.

        Takes keywords, or one mapping with the same keys. A lone message is sent at once; concurrent ones are sent
        together. Transient failures are retried within the deadline, with the same id.

        Args:
            event: ``brokerTag:topicTag``.
            message: The payload; bytes are sent as they are.
            **options: `env`, `product`, and what `Publisher.publish` takes.

        Raises:
            PublishError: It was not confirmed; `stored` says whether it may be stored.
            PayloadError: It cannot be written, or is too large.
            CatalogError: No such event, product or environment.
            StateError: The client is closed, or open on another event loop.
        """
        if type(event) is str and "env" not in options and "product" not in options:
            publisher = self._ready.get(event)
            if publisher is not None and self._here() and message is not _MISSING:
                try:
                    return publisher.publish(message, **options)
                except TypeError:
                    pass  # a wrong option: the long way names it
        return self._publish(event, message, options)

    def _here(self) -> bool:
        """Tell whether this is the loop that publishers are open on; asking for the running one costs a system call."""
        loop = self._loop
        return loop is not None and loop.is_running() and self._thread == get_ident() and self._forks == ids.forks

    async def _publish(self, event: Any, message: Any, options: dict[str, Any]) -> Receipt:
        """The first publish of an event, and every one that names an environment."""
        if isinstance(event, Mapping):
            options = {**{snake(str(name)): value for name, value in event.items()}, **options}
            event, message = options.pop("event", None), options.pop("message", message)
        for name in options:
            if name not in _PUBLISH:
                text = f"publish: no option {name!r}.{nearest(name, _PUBLISH)}"
                raise ConfigError("OPTION_INVALID", text, option=name)
        if message is _MISSING:
            raise ConfigError("OPTION_INVALID", f"publish {event!r}: there is no message.", option="message")
        split_event(event)
        self._check_product(options.pop("product", None))
        env = options.pop("env", None)
        engine = self._to_publish()
        publisher = await engine.publisher(event, env)
        if env is None:
            self._ready[event] = publisher
            self._loop, self._thread, self._forks = engine.loop, get_ident(), ids.forks
        return await publisher.publish(message, **options)

    async def publish_many(
        self,
        event: str,
        messages: Iterable[Any],
        *,
        env: str | None = None,
        product: str | None = None,
        key: Callable[[Any], str | None] | None = None,
        session: SessionLike | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> list[Receipt]:
        """Publish messages in as few calls as the provider needs; see `Publisher.publish_many`."""
        publisher = await self.publisher(event, env=env, product=product)
        return await publisher.publish_many(messages, key=key, session=session, headers=headers, timeout=timeout)

    @overload
    async def publisher(
        self, event: str, *, type: type[T], env: str | None = None, product: str | None = None, codec: str | None = None
    ) -> Publisher[T]: ...
    @overload
    async def publisher(
        self, event: str, *, env: str | None = None, product: str | None = None, codec: str | None = None
    ) -> Publisher[Any]: ...
    async def publisher(
        self,
        event: str,
        *,
        type: Any = None,
        env: str | None = None,
        product: str | None = None,
        codec: str | None = None,
    ) -> Publisher[Any]:
        """Return a publisher that is bound to one event, for hot paths.

        Args:
            event: ``brokerTag:topicTag``.
            type: What it publishes; other payloads are converted to it, or refused.
            env: Another environment than the client's.
            product: The client's product, if it is to be said.
            codec: Content type of another codec than the client's.
        """
        split_event(event)
        self._check_product(product)
        return await self._to_publish().publisher(event, env, codec, type)

    def _to_publish(self) -> Engine:
        """Begin, and say once that this opens no subscription."""
        engine, waiting = self._begin(), len(self._declarations)
        if waiting and not engine.declared and not self._hinted:
            self._hinted = True
            text = "%d declared subscription(s) not open: use `async with ductape:`, `open`, `serve` or `run`"
            logging.getLogger("ductape").warning(text, waiting)
        return engine

    # -- subscribe

    @overload
    def subscribe(self, request: SubscribeRequest, /) -> Awaitable[Subscription]: ...
    @overload
    def subscribe(self, event: str, /, *, callback: Handler, **options: Any) -> Awaitable[Subscription]: ...
    @overload
    def subscribe(self, event: str, /, **options: Any) -> Callable[[H], H]: ...
    def subscribe(self, event: Any, /, *handlers: Any, callback: Handler | None = None, **options: Any) -> Any:
        """Handle an event: as a decorator, or at once with `callback`.

        As a decorator it declares a subscription that opens with the client. With `callback` (or one mapping) the
        result is awaited: it is the `Subscription`, once the group is joined.

        The handler's parameter annotated `Event` gets the envelope, any other the payload, decoded to its annotation.
        To return acknowledges; to raise goes to the retry policy; `Reject` to the dead letters; `RetryLater` asks for a
        time. A plain function runs in a bounded pool of threads.

        Args:
            event: ``brokerTag:topicTag``, or one mapping with all of this.
            *handlers: None: a handler is named, by `callback`.
            callback: The handler.
            **options: ``group, concurrency=8, order, prefetch, retry=Retry(…), on_poison, on_unmatched, batch,
                batch_wait, timeout, start, env, product``.

        Raises:
            HandlerError: The signature cannot be served.
            ConfigError: An option is unknown or wrong.
            CatalogError: No such event, product or environment.
            CapabilityError: The provider cannot do what is asked for.
            OpenError: The group could not be joined.
        """
        if handlers:
            raise ConfigError("OPTION_INVALID", f"subscribe {event!r}: write callback=handler.", option="callback")
        if isinstance(event, Mapping):
            options = {**{snake(str(name)): value for name, value in event.items()}, **options}
            event, callback = options.pop("event", None), options.pop("callback", callback)
            if callback is None:
                wrong = (f"no option {name!r}.{hint}" for name in options if (hint := nearest(name, ("callback",))))
                text = f"subscribe {event!r}: {next(wrong, 'there is no callback.')}"
                raise ConfigError("OPTION_INVALID", text, option="callback")
        if callback is not None:
            return self._open(self._declaration(event, callback, options))

        def decorator(handler: H) -> H:
            if self._running():
                text = f"subscribe {event!r}: the client is open; await event.subscribe(…, callback=…) instead."
                raise StateError("ALREADY_OPEN", text)
            self._declarations.append(self._declaration(event, handler, options))
            return handler

        return decorator

    def _declaration(self, event: Any, handler: Handler, given: dict[str, Any]) -> Declaration:
        split_event(event)
        self._check_product(given.get("product"))
        options = read_options(given, f"subscribe {event!r}")
        signature = read_signature(handler, batch="batch" in given)
        if why := self._unreadable(signature.payload):
            raise HandlerError("HANDLER_INVALID", f"handler {signature.name!r}: {why}", handler=signature.name)
        return Declaration(event=event, handler=handler, signature=signature, options=options)

    async def _open(self, declaration: Declaration) -> Subscription:
        return (await self._begin().subscribe([declaration]))[0]

    def stream(self, event: str, **options: Any) -> Stream[Any]:
        """Receive in a loop of your own, and settle every event yourself.

        Args:
            event: ``brokerTag:topicTag``.
            **options: As in `subscribe`; `concurrency` (here 64) is how many may be out at a time. ``type`` is what
                payloads are decoded to.
        """
        for name in ("batch", "batch_wait"):
            if name in options:
                text = f"stream {event!r}: {name} is for handlers; a stream hands out one event after the other."
                raise ConfigError("OPTION_INVALID", text, option=name)
        kind = options.pop("type", Any)
        options.setdefault("concurrency", min(64, options.get("prefetch") or 64))

        declared = self._declaration(event, _stream, options)
        signature = Signature(name="stream", takes=(True,), payload=kind, batch=False, asynchronous=True)

        def opened(feed: Callable[[Any], Awaitable[None]]) -> Awaitable[Subscription]:
            return self._open(replace(declared, handler=feed, signature=signature))

        return Stream(opened)

    def dead(
        self,
        event: str,
        *,
        group: str | None = None,
        env: str | None = None,
        product: str | None = None,
        limit: int = 1000,
        idle: float = IDLE,
    ) -> AsyncIterator[DeadLetter]:
        """List a group's dead letters: ``async for letter in ductape.event.dead(event, group="billing"): …``.

        What is neither replayed nor dropped stays.

        Args:
            event: ``brokerTag:topicTag``.
            group: Whose; None: the default group's.
            env: Another environment than the client's.
            product: The client's product, if it is to be said.
            limit: How many at most; they are held while the listing lasts.
            idle: Seconds without a further letter that end the listing; where the provider tells that nothing is left,
                it ends after 1 s.

        Raises:
            OpenError: The broker is away, at the beginning or before the end was reached.
            ConfigError: ``OPTION_INVALID``.
        """
        split_event(event)
        self._check_product(product)
        if not idle > 0:
            raise ConfigError("OPTION_INVALID", f"dead {event!r}: idle={idle!r} is seconds, above 0.", option="idle")
        return dead_letters(self._begin(), event, group, env, limit, idle)

    async def remove_group(self, event: str, *, group: str, env: str | None = None, product: str | None = None) -> None:
        """Remove a group for good, with all that only it holds: what it has not handled, its retries, its dead letters.

        For groups that nobody reads any more: a broker keeps messages for them without bound. One that the topic
        declares comes back with the next publish: take it out of the topic's `groups` first.

        Args:
            event: ``brokerTag:topicTag``.
            group: Which one; there is no default.
            env: Another environment than the client's.
            product: The client's product, if it is to be said.

        Raises:
            CapabilityError: The provider's adapter cannot.
            StateError: ``ALREADY_OPEN``: this client has a subscription of it.
            OpenError: The broker refused, or is away.
        """
        split_event(event)
        self._check_product(product)
        await self._begin().remove(event, check_group(group), env)

    def forget(self) -> None:
        """Let go of publishers: the client was closed."""
        self._ready.clear()
        self._loop = None

    def __repr__(self) -> str:
        return f"<events: {len(self._ready)} publishers, {len(self._declarations)} declared subscriptions>"


async def _stream(event: Any) -> None:
    """Stands for a stream's handler until it is entered."""
