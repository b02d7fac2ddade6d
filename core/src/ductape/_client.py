"""The client: what an application declares, opens, and runs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from msgspec.structs import replace

from ._atlas import Settings
from ._catalog import BrokerDoor, Catalog
from ._clock import Clock
from ._codec import Codec, Codecs, JsonCodec
from ._engine import Declaration, Engine
from ._events import EventDoor
from ._handling import Verify
from ._health import Health, health_of
from ._middleware import check_middleware
from ._names import check_tag
from ._outbox import Pressure
from ._publisher import closed
from ._registry import Registry, default_registry
from ._runner import Signals, run
from ._store import Store, open_store
from .adapter import Adapter
from .errors import ConfigError, StateError

T = TypeVar("T")


class Ductape:
    """One API for publishing and consuming events, whatever carries them.

    Use it as ``async with ductape:``, or `serve` it until a signal. It also opens by itself with the first publish.

    Attributes:
        broker: Declares brokers and, at ``broker.topic``, topics.
        event: Publishes and subscribes.
    """

    def __init__(
        self,
        *,
        product: str,
        env: str,
        catalog: str | os.PathLike[str] | Store | None = None,
        middleware: Sequence[object] = (),
        codecs: Iterable[Codec] = (),
        codec: str = JsonCodec.content_type,
        sessions: Mapping[str, Verify] | None = None,
        deadline: float = 30.0,
        grace: float = 20.0,
        max_pending: int = 10_000,
        max_pending_bytes: int = 32 * 1024 * 1024,
        registry: Registry | None = None,
    ) -> None:
        """Describe a client; nothing is opened.

        Args:
            product: Scopes the catalog, and names default groups.
            env: The environment whose providers are used.
            catalog: None keeps declarations in memory; a path names a manifest or a JSON store; or a `Store`.
            middleware: Objects, or names of entry points; the first is the outermost.
            codecs: Further codecs, chosen by content type.
            codec: Content type of the codec that publishes.
            sessions: Checks of sessions by tag, before a handler runs; messages without a session, or with another tag,
                pass.
            deadline: Seconds within which a publish is confirmed or fails.
            grace: Seconds for running handlers when it closes.
            max_pending: Messages a channel may keep waiting before publishing waits.
            max_pending_bytes: Their bytes.
            registry: Adapters to use instead of those that are installed.

        Raises:
            CatalogError: A name cannot be used.
            ConfigError: An option cannot be used.
        """
        self.product, self.env = check_tag(product, "product"), check_tag(env, "env")
        read = Codecs(codecs, codec)
        self._settings = Settings(
            product=self.product,
            env=self.env,
            catalog=Catalog(self.product, open_store(catalog), read.unreadable),
            registry=registry if registry is not None else default_registry(),
            middleware=tuple(middleware),
            codecs=read,
            sessions=dict(sessions or {}),
            deadline=_seconds("deadline", deadline),
            grace=_seconds("grace", grace),
            pressure=Pressure(
                messages=_number("max_pending", max_pending), bytes=_number("max_pending_bytes", max_pending_bytes)
            ),
        )
        self._engine: Engine | None = None
        self._closed = False
        self._stop: asyncio.Future[None] | None = None
        self._declarations: list[Declaration] = []
        declared = self._settings.catalog
        self.event = EventDoor(self._begin, self._running, declared, self._declarations)
        self.broker = BrokerDoor(declared, publish=self.event.publish, subscribe=self.event.subscribe)

    # -- life

    @property
    def engine(self) -> Engine | None:
        """What runs now; None while nothing does. For tests."""
        return self._engine

    def _running(self) -> bool:
        return self._engine is not None and not self._engine.closed

    def _begin(self) -> Engine:
        """Return what runs, beginning if nothing does."""
        engine = self._engine
        if engine is not None and not engine.closed and not engine.loop.is_closed():
            engine.usable()
            return engine
        if self._closed:
            raise closed("ductape")
        self._engine = Engine(replace(self._settings, middleware=[*map(self._resolved, self._settings.middleware)]))
        return self._engine

    def _resolved(self, middleware: object) -> object:
        if isinstance(middleware, str):
            return self._settings.registry.middleware(middleware)
        return check_middleware(middleware)

    async def open(self) -> None:
        """Open every declared subscription; publishers open with their first message.

        Raises:
            OpenError: A group could not be joined.
            DuctapeError: A declaration cannot be served.
        """
        self._closed = False
        engine = self._begin()
        if self._declarations and not engine.declared:
            engine.declared = True
            try:
                await engine.subscribe(self._declarations)
            except BaseException:
                await self.close(0.0)
                raise

    async def close(self, grace: float | None = None) -> None:
        """Stop in order: start nothing more, hand back, let handlers finish, settle, store, disconnect. Idempotent.

        Args:
            grace: Seconds for running handlers, instead of the client's.
        """
        self._closed = True
        self.stop()
        engine = self._engine
        if engine is not None and engine.loop.is_closed():  # it was never closed, and can no longer be
            self._abandon()
            return
        if engine is not None:  # handlers that still run may publish until they are done
            await engine.close(grace)
        if self._engine is engine:
            self._engine = None
            self.event.forget()

    def _abandon(self) -> None:
        """Forget what runs without closing it: its loop is gone, or belongs to the parent of this forked process."""
        self._engine = None
        self.event.forget()

    async def __aenter__(self) -> Ductape:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def serve(self) -> None:
        """Open, run until SIGINT, SIGTERM or `stop`, then close in order. A second signal ends the process at once.

        Raises:
            DuctapeError: A subscription ended by its policy, or gave up reconnecting.
        """
        stop = self._stop = asyncio.get_running_loop().create_future()
        try:
            with Signals(self.stop):
                await self.open()
                engine = self._begin()
                if not engine.groups:
                    logging.getLogger("ductape").warning("%r: nothing is subscribed; it waits for a signal", self)
                failed = engine.failed
                await asyncio.wait({stop, failed}, return_when=asyncio.FIRST_COMPLETED)
                await self.close()
                if failed.done():
                    raise failed.result()
        finally:
            self._stop = None
            await self.close()

    def stop(self) -> None:
        """End `serve`; from the loop's own thread."""
        if self._stop is not None and not self._stop.done():
            self._stop.set_result(None)

    def run(self) -> None:
        """`serve` on a loop of its own: uvloop where it is installed.

        Raises:
            StateError: ``WRONG_LOOP`` inside a running loop: await `serve` there.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            run(self.serve)
        else:
            raise StateError("WRONG_LOOP", "a loop runs here: `await ductape.serve()` instead of `ductape.run()`.")

    # -- look

    async def health(self) -> Health:
        """Tell how every broker and subscription is doing."""
        return await health_of(self._engine)

    def stats(self) -> dict[str, Mapping[str, float]]:
        """Return counters: of each outbox by channel, and of each subscription by ``event/group``."""
        engine = self._engine
        if engine is None:
            return {}
        found: dict[str, Mapping[str, float]] = {}
        for outbox in engine.outboxes.values():
            found[outbox.name] = {
                "stored": outbox.stored,
                "failed": outbox.failed,
                "calls": outbox.keeper.calls,
                "pending": outbox.pending,
            }
        for group in engine.groups.values():
            for each in group.subscriptions.values():
                found[f"{each.event}/{group.name}"] = each.stats()
        return found

    async def native(self, broker: str, kind: type[T], *, env: str | None = None) -> T:
        """Return a broker's native client object; the adapter's page lists the types.

        Raises:
            ConfigError: ``OPTION_INVALID`` if the adapter has no object of this type.
        """
        connection = await (await self._begin().atlas.link(broker, env)).connection()
        try:
            return connection.unwrap(kind)
        except TypeError as error:
            raise ConfigError("OPTION_INVALID", f"broker {broker!r}: {error}.") from error

    @contextmanager
    def override(
        self,
        *,
        adapter: Callable[[str], Adapter[Any]],
        clock: Callable[[], Clock],
        watch: Callable[[Declaration], Declaration] | None = None,
    ) -> Iterator[None]:
        """Use another adapter for every provider, and another clock, while this lasts. For tests.

        Args:
            adapter: Gives the adapter for a provider's name; configs are not read.
            clock: Makes the clock when the client begins.
            watch: Takes every subscription that is opened, and returns what is opened in its place.

        Raises:
            StateError: ``ALREADY_OPEN``.
        """
        if self._engine is not None:
            raise StateError("ALREADY_OPEN", "the client is open: close it before its adapters are overridden.")
        before = self._settings, self._closed
        self._settings, self._closed = replace(self._settings, substitute=adapter, clock=clock, watch=watch), False
        try:
            yield
        finally:
            self._settings, self._closed = before

    def __repr__(self) -> str:
        state = "open" if self._engine is not None else "closed" if self._closed else "not open"
        return f"<Ductape product={self.product!r} env={self.env!r} {state}>"


def _number(name: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ConfigError("OPTION_INVALID", f"Ductape({name}={value!r}): it is a number, at least 1.", option=name)
    return value


def _seconds(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or not value > 0:
        raise ConfigError("OPTION_INVALID", f"Ductape({name}={value!r}): it is seconds, above 0.", option=name)
    return float(value)
