"""What a scenario stands on: a server, connections to it, a clock, and a log of all that arrived."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import msgspec

from ductape import Registry
from ductape.adapter import (
    AdapterError,
    Capabilities,
    Channel,
    Clock,
    Connection,
    Fault,
    Site,
)

from ._harness import Harness
from ._shop import Shop

T = TypeVar("T")

__all__ = ["Ground", "Seen", "quietly"]


class Seen(msgspec.Struct, frozen=True):
    """One delivery. The log has every one of them: nothing is ever counted once that came twice."""

    id: str
    member: str
    at: float
    count: int | None


class Ground:
    """One server, and the connections to it.

    Attributes:
        can: What holds for its channel of events.
        log: Every delivery to every member, in order.
    """

    def __init__(self, harness: Harness, clock: Clock) -> None:
        """Lay out a stage; `open` connects."""
        self.harness, self.clock = harness, clock
        self.virtual = harness.clock() is not None
        self.namespace = f"kit{uuid.uuid4().hex[:10]}"
        self.adapter = harness.make()
        self.can = Capabilities()
        self.log: list[Seen] = []
        self.settings: dict[str, Any] = {}
        self.config: Any = None
        self._stack = AsyncExitStack()
        self._main: Connection | None = None

    async def open(self) -> None:
        """Connect, and find out what the channel can do."""
        await self._stack.enter_async_context(self.harness.stack)
        self.settings = dict(await self.harness.config(self.namespace))
        # Through the door that a user's config takes: camelCase, unknown keys and secrets are the kernel's business.
        registry = Registry.of({"KIT": self.adapter})
        self.config = await Shop.read_config(registry, self.settings)
        self._main = await self.connect()
        channel = self.channel()
        await self._main.declare(self.channel(group="scratch", name="scratch"))
        self.can = self._main.capabilities(channel) or self.adapter.capabilities

    async def close(self) -> None:
        """Close everything, whatever state it is in."""
        await self._stack.aclose()

    # -- bounds

    @property
    def soon(self) -> float:
        """Seconds within which what was handed back or lapsed is delivered again."""
        return self.harness.redelivery_bound

    @property
    def patience(self) -> float:
        """Seconds that anything may take."""
        return self.harness.patience

    async def until(self, true: Callable[[], object], within: float = 0.0) -> None:
        """Wait for a fact that no event tells."""
        end = self.clock.now() + (within or self.patience)
        while not true():
            assert self.clock.now() < end, f"it did not come true within {within or self.patience:g} s"
            await self.clock.sleep(0.01)

    # -- connections and channels

    @property
    def main(self) -> Connection:
        """The connection of everybody who has none of his own."""
        assert self._main is not None
        return self._main

    def site(self, create: bool = True) -> Site:
        """Return where the adapter finds itself."""
        log = logging.getLogger("ductape.adapter.kit")
        return Site(product="kit", env="test", broker=self.namespace, clock=self.clock, log=log, create=create)

    async def connect(self, *, create: bool = True) -> Connection:
        """Connect once more."""
        connection = await self.adapter.connect(self.config, self.site(create))
        self._stack.push_async_callback(quietly, connection)
        return connection

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat what may fail while a server or connection comes back, as the kernel does."""
        end = self.clock.now() + self.patience
        while True:
            try:
                return await call()
            except AdapterError as error:
                if error.fault is Fault.CONFIG or self.clock.now() > end:
                    raise
            await self.clock.sleep(0.05)

    def channel(self, group: str = "billing", name: str = "orders", **fields: Any) -> Channel:
        """Return a channel of this scenario."""
        return Channel(name=f"{self.namespace}.{name}", group=group, **fields)


async def quietly(target: Any) -> None:
    """Close something whose server may be gone."""
    try:
        await asyncio.wait_for(target.close(), 5.0)
    except (AdapterError, TimeoutError):
        pass
