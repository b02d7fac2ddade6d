"""The same words, blocking: for Django, scripts and notebooks. Publishing and the catalog only.

One loop in one background thread serves all threads of a process, so concurrent calls are sent together. A forked child
begins its own.

    from ductape.sync import Ductape

    ductape = Ductape(product="my-product", env="dev", catalog="ductape.toml")
    ductape.event.publish("order-events:new-orders", {"orderId": "12345"})
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from ._client import Ductape as _Client
from .errors import StateError

__all__ = ["Ductape"]

P = ParamSpec("P")
R = TypeVar("R")

CLOSE_WITHIN = 10.0


class _Portal:
    """A loop in a daemon thread, begun with the first call of each process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self.forked: Callable[[], None] | None = None
        if hasattr(os, "register_at_fork"):  # a lock that another thread held at the fork would stay locked
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def call(self, call: Callable[[], Coroutine[Any, Any, R]], timeout: float | None = None) -> R:
        """Run a coroutine on the portal's loop, and wait for its result."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            text = "an event loop runs in this thread: use `ductape.Ductape` and await it, or call from a thread."
            raise StateError("WRONG_LOOP", text)
        return asyncio.run_coroutine_threadsafe(call(), self._running()).result(timeout)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                if self._loop is not None and self.forked is not None:
                    self.forked()
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=self._loop.run_forever, name="ductape", daemon=True).start()
            return self._loop

    def stop(self) -> None:
        """End the loop and its thread."""
        with self._lock:
            if self._loop is not None and self._pid == os.getpid():
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None


class _EventDoor:
    """``ductape.event``, blocking."""

    def __init__(self, client: _Client, portal: _Portal) -> None:
        self.publish = _blocking(client.event.publish, portal)
        self.publish_many = _blocking(client.event.publish_many, portal)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no {name!r}: ductape.sync publishes only; consume with ductape.Ductape")


class _TopicDoor:
    """``ductape.broker.topic``, blocking."""

    def __init__(self, client: _Client, portal: _Portal) -> None:
        door = client.broker.topic
        self.create = _blocking(door.create, portal)
        self.update = _blocking(door.update, portal)
        self.fetch = _blocking(door.fetch, portal)
        self.fetch_all = self.fetchAll = _blocking(door.fetch_all, portal)
        self.delete = _blocking(door.delete, portal)


class _BrokerDoor:
    """``ductape.broker``, blocking."""

    def __init__(self, client: _Client, portal: _Portal) -> None:
        door = client.broker
        self.topic = _TopicDoor(client, portal)
        self.create = _blocking(door.create, portal)
        self.update = _blocking(door.update, portal)
        self.fetch = _blocking(door.fetch, portal)
        self.fetch_all = self.fetchAll = _blocking(door.fetch_all, portal)
        self.delete = _blocking(door.delete, portal)
        self.publish = _blocking(client.event.publish, portal)


class Ductape:
    """A client whose calls block. Takes what `ductape.Ductape` takes. Thread-safe and fork-safe.

    Attributes:
        broker: Declares brokers and topics.
        event: Publishes.
    """

    def __init__(self, **options: Any) -> None:
        """Describe a client; nothing is opened before the first publish.

        Args:
            **options: As for `ductape.Ductape`.
        """
        self._portal = _Portal()
        self._client = _Client(**options)
        self._portal.forked = self._client._abandon
        self.event = _EventDoor(self._client, self._portal)
        self.broker = _BrokerDoor(self._client, self._portal)
        atexit.register(self.close)

    def close(self) -> None:
        """Store what was published, and disconnect. Idempotent; called at the end of the process too."""
        atexit.unregister(self.close)
        try:
            if self._client.engine is not None:
                self._portal.call(lambda: self._client.close(CLOSE_WITHIN / 2), CLOSE_WITHIN)
        finally:
            self._portal.stop()

    def __enter__(self) -> Ductape:
        self._portal.call(self._client.open)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<sync {self._client!r}>"


def _blocking(method: Callable[P, Awaitable[R]], portal: _Portal) -> Callable[P, R]:
    """Return a method that waits for what an asynchronous one returns."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        async def run() -> R:
            return await method(*args, **kwargs)

        return portal.call(run)

    call.__doc__ = method.__doc__
    return call
