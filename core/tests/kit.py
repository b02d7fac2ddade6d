"""What the kernel's tests share: a clock that stands still, a client on it, a log of deliveries, a scripted adapter."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from ductape import Ductape, Event
from ductape.adapter import (
    Adapter,
    Capabilities,
    Purpose,
)
from ductape_memory import MemoryAdapter, MemoryBroker, MemoryConfig

T = TypeVar("T")

EVENT = "orders:new"
GROUP = "shop.new"
CHANNEL = "orders.new"


class Timer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """Time that moves only when a test says so, from one due timer to the next."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._tie = itertools.count()

    def now(self) -> float:
        return self._now

    def time(self) -> float:
        return 1_700_000_000.0 + self._now

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Timer:
        timer = Timer(lambda: callback(*args))
        heapq.heappush(self._timers, (self._now + delay, next(self._tie), timer))
        return timer

    async def sleep(self, delay: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        timer = self.call_later(delay, lambda: woken.done() or woken.set_result(None))
        try:
            await woken
        finally:
            timer.cancel()

    def _fire(self, until: float) -> bool:
        """Move to the next timer that is due by `until`, and run it; False: there is none."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers or self._timers[0][0] > until:
            return False
        due, _, timer = heapq.heappop(self._timers)
        self._now = max(self._now, due)
        assert timer.callback is not None
        timer.callback()
        return True

    async def advance(self, seconds: float) -> None:
        """Move, and run what falls due on the way, in its order."""
        end = self._now + seconds
        await quiet()
        while self._fire(end):
            await quiet()
        self._now = end
        await quiet()

    async def run(self, awaitable: Awaitable[T], within: float = 3600.0) -> T:
        """Await something; time jumps from timer to timer while it waits."""
        task = asyncio.ensure_future(awaitable)
        end = self._now + within
        await quiet()
        while not task.done():
            if not self._fire(end):
                await quiet(500)
                assert task.done() or self._fire(end), f"nothing more happens, and it is not done: {task}"
            await quiet()
        return await task

    async def until(self, condition: Callable[[], object], within: float = 3600.0) -> None:
        """Let time pass until a condition holds."""
        end = self._now + within
        await quiet()
        while not condition():
            if not self._fire(end):
                await quiet(500)
                assert condition() or self._fire(end), f"it did not come to hold within {within} s"
            await quiet()


async def quiet(turns: int = 60) -> None:
    """Let everything run that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)


class Log:
    """Every call of a handler, none left out: what it got, and when."""

    def __init__(self, clock: VirtualClock, act: Callable[[Event[Any]], object] | None = None) -> None:
        self.calls: list[Event[Any]] = []
        self.times: list[float] = []
        self._clock, self._act = clock, act

    async def __call__(self, event: Event[Any]) -> None:
        self.calls.append(event)
        self.times.append(self._clock.now())
        result = self._act(event) if self._act is not None else None
        if isinstance(result, BaseException):
            raise result
        if isinstance(result, Awaitable):
            await result

    @property
    def messages(self) -> list[Any]:
        return [event.message for event in self.calls]

    @property
    def attempts(self) -> list[int]:
        return [event.attempt for event in self.calls]

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in itertools.pairwise(self.times)]


class Shop:
    """A client with one broker, `orders`, on a virtual clock; and short words to use it."""

    def __init__(self, client: Ductape, clock: VirtualClock) -> None:
        self.client, self.clock = client, clock
        self.event, self.run, self.advance, self.until = client.event, clock.run, clock.advance, clock.until

    @property
    def broker(self) -> MemoryBroker:
        return MemoryBroker.of("default")

    async def publish(self, message: Any, event: str = EVENT, **options: Any) -> Any:
        return await self.run(self.event.publish(event, message, **options))

    async def subscribe(self, handler: Any, event: str = EVENT, **options: Any) -> Any:
        return await self.run(self.event.subscribe(event, callback=handler, **options))

    async def dead(self, group: str | None = None, event: str = EVENT) -> list[Any]:
        async def listed() -> list[Any]:
            return [letter async for letter in self.event.dead(event, group=group)]

        return await self.run(listed())

    def left(self, group: str = GROUP, channel: str = CHANNEL) -> int:
        """How many messages the group has not settled, on its way back included."""
        return self.broker.depth(channel, group) + self.broker.depth(channel, group, Purpose.RETRY)

    async def settled(self, group: str = GROUP, channel: str = CHANNEL) -> None:
        await self.until(lambda: self.left(group, channel) == 0)

    async def close(self, grace: float | None = None) -> None:
        await self.run(self.client.close(grace))

    def log(self, act: Callable[[Event[Any]], object] | None = None) -> Log:
        return Log(self.clock, act)


@asynccontextmanager
async def opened(
    adapter: Adapter[Any] | Capabilities | None = None,
    *,
    topics: Mapping[str, Mapping[str, Any]] | None = None,
    clock: VirtualClock | None = None,
    **options: Any,
) -> AsyncIterator[Shop]:
    """A client with topics (by short tag), closed at the end."""
    clock = clock or VirtualClock()
    chosen = adapter if isinstance(adapter, Adapter) else MemoryAdapter(adapter)
    client = Ductape(product="shop", env="dev", **options)
    envs = [{"slug": "dev", "type": "MEMORY"}, {"slug": "prd", "type": "MEMORY"}]
    await client.broker.create(tag="orders", envs=envs)
    for tag, fields in (topics or {"new": {}}).items():
        await client.broker.topic.create(tag=f"orders:{tag}", **fields)
    with client.override(adapter=lambda name: chosen, clock=lambda: clock):
        shop = Shop(client, clock)
        try:
            yield shop
        finally:
            await shop.close()
            await quiet()


class SharedConfig(MemoryConfig, frozen=True, kw_only=True):
    channel: str | None = "shared"


class SharedMemory(MemoryAdapter):
    """The memory adapter with a channel that all topics share."""

    config = SharedConfig


class NamedConfig(SharedConfig, frozen=True, kw_only=True):
    group: str | None = "workers"


class NamedMemory(MemoryAdapter):
    """The same, and its config names the group too."""

    config = NamedConfig
