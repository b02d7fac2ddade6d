"""A client of the kernel on the stage: short words for applications, and a log of every call of a handler."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

from ductape import Ductape, Event, Registry, Subscription
from ductape.adapter import AdapterError, Capabilities, Clock, Fault, Groups

from ._tap import Call, Tap

__all__ = ["Handled", "Handler", "Shop"]


class Handled(NamedTuple):
    """One call of a handler. The log has every one of them."""

    id: str
    attempt: int
    member: str
    at: float
    event: Event[Any]


class Handler:
    """A handler that writes down each call, then does what the scenario says."""

    def __init__(self, clock: Clock, act: Callable[[Event[Any]], Any] | None = None, name: str = "a") -> None:
        """Describe a handler: `act` returns nothing, an exception to raise, or something to await."""
        self.calls: list[Handled] = []
        self.done: list[str] = []
        self.running = self.peak = 0
        self.act, self._clock, self._name = act, clock, name
        self._bells: list[asyncio.Future[None]] = []

    async def __call__(self, event: Event[Any]) -> None:
        """Handle one event."""
        self.calls.append(Handled(event.id, event.attempt, self._name, self._clock.now(), event))
        self.running += 1
        self.peak = max(self.peak, self.running)
        self._ring()
        try:
            result = self.act(event) if self.act is not None else None
            if isinstance(result, Awaitable):
                result = await result
            if isinstance(result, BaseException):
                raise result
            self.done.append(event.id)
        finally:
            self.running -= 1
            self._ring()

    def _ring(self) -> None:
        bells, self._bells = self._bells, []
        for bell in bells:
            if not bell.done():
                bell.set_result(None)

    async def until(self, true: Callable[[], object], within: float) -> None:
        """Wait until something holds that calls bring about."""
        end = self._clock.now() + within
        while not true():
            left = end - self._clock.now()
            assert left > 0, f"within {within:g} s it did not come true; calls: {[one[:3] for one in self.calls][-20:]}"
            bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._bells.append(bell)
            timer = self._clock.call_later(min(left, 0.5), self._ring)
            await bell
            timer.cancel()

    async def handled(self, number: int, within: float) -> None:
        """Wait until so many calls went well."""
        await self.until(lambda: len(self.done) >= number, within)

    async def called(self, number: int, within: float) -> None:
        """Wait until there were so many calls, whatever became of them."""
        await self.until(lambda: len(self.calls) >= number, within)

    @property
    def ids(self) -> list[str]:
        """The ids of all calls, in order."""
        return [one.id for one in self.calls]

    @property
    def attempts(self) -> list[int]:
        """The attempts of all calls, in order."""
        return [one.attempt for one in self.calls]

    @property
    def messages(self) -> list[Any]:
        """The payloads of all calls, in order."""
        return [one.event.message for one in self.calls]

    @property
    def gaps(self) -> list[float]:
        """Seconds between one call and the next."""
        return [after.at - before.at for before, after in itertools.pairwise(self.calls)]


class Footing(Protocol):
    """What a client stands on."""

    namespace: str
    clock: Clock
    virtual: bool
    settings: dict[str, Any]
    can: Capabilities

    @property
    def patience(self) -> float:
        """Seconds that anything may take."""


class Shop:
    """One client with one broker and the topic ``new``."""

    def __init__(
        self, ground: Footing, tap: Tap, *, topic: Mapping[str, Any] | None = None, create: bool = True, **options: Any
    ) -> None:
        """Describe a client; `start` declares its broker and topic."""
        clock, namespace, virtual, config = ground.clock, ground.namespace, ground.virtual, ground.settings
        patience = ground.patience
        self.tap, self.clock, self.patience = tap, clock, patience
        self.name = f"{namespace}:new"
        self.channel = f"{namespace}.new"
        self._namespace, self._config, self._create = namespace, dict(config), create
        self._topic = {"groups": ("billing",), **(topic or {})}
        self.client = Ductape(product="kit", env="test", registry=Registry.of({"KIT": tap}), **options)
        self._stack = ExitStack()
        self._closed = False
        self.grouped = ground.can.groups is not Groups.NONE
        """The channel has groups; without, subscriptions name none."""
        if virtual:
            override = self.client.override(adapter=lambda name: tap, clock=lambda: clock)
            self._stack.enter_context(override)

    async def start(self) -> Shop:
        """Declare the broker and the topic."""
        env: Any = {"slug": "test", "type": "KIT", "config": self._config, "create": self._create}
        await self.client.broker.create(tag=self._namespace, envs=[env])
        await self.client.broker.topic.create(tag=self.name, **self._topic)
        return self

    @staticmethod
    async def read_config(registry: Registry, config: Mapping[str, Any]) -> Any:
        """Return a user's config as the adapter gets it."""
        from ductape._config import read_config  # the one reader that there is

        adapter = registry.adapter("KIT", where="the conformance kit uses 'KIT'")
        return read_config(dict(config), adapter.config, where="the harness's config", environ=os.environ)

    def handler(self, act: Callable[[Event[Any]], Any] | None = None, name: str = "a") -> Handler:
        """Return a handler that logs."""
        return Handler(self.clock, act, name)

    async def publish(self, message: Any = None, **options: Any) -> Any:
        """Publish one message."""
        return await self.client.event.publish(self.name, {} if message is None else message, **options)

    async def many(self, number: int, **options: Any) -> list[str]:
        """Publish ``{"n": 0}`` … together; returns their ids."""
        receipts = await self.client.event.publish_many(self.name, [{"n": n} for n in range(number)], **options)
        return [one.id for one in receipts]

    async def subscribe(self, handler: Any, group: str | None = "billing", **options: Any) -> Subscription:
        """Subscribe a handler."""
        if group is not None and self.grouped:
            options["group"] = group
        subscription: Subscription = await self.client.event.subscribe(self.name, callback=handler, **options)
        return subscription

    async def letters(self, group: str = "billing") -> list[Any]:
        """List the dead letters of a group, as they are."""
        return [one async for one in self.client.event.dead(self.name, group=group)]

    async def replay(self, group: str = "billing") -> int:
        """Replay the dead letters of a group; returns how many there were."""
        number = 0
        async for letter in self.client.event.dead(self.name, group=group):
            await letter.replay()
            number += 1
        return number

    async def until(self, true: Callable[[], object], within: float = 0.0) -> None:
        """Wait for a fact that no event tells."""
        end = self.clock.now() + (within or self.patience)
        while not true():
            assert self.clock.now() < end, f"it did not come true within {within or self.patience:g} s"
            await self.clock.sleep(0.01)

    async def die(self) -> None:
        """Let no call through to the adapter any more."""

        async def gone(call: Call) -> None:
            raise AdapterError(Fault.TRANSIENT, "this process is gone")

        for method in ("connect", "declare", "sender", "receiver", "send", "receive", "settle", "extend", "note"):
            self.tap.rules[method] = gone

    async def close(self, grace: float = 0.5) -> None:
        """Close; idempotent."""
        if not self._closed:
            self._closed = True
            await self.client.close(grace)
            self._stack.close()
