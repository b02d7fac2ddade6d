"""A clock that stands still until it is told to move, and a world of short words around one broker.

Tests are loaded by themselves, so what they share stands on the fixture.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ductape.adapter import (
    AdapterError,
    Capabilities,
    Channel,
    Delivery,
    Fault,
    Intake,
    Outgoing,
    Settlement,
    Site,
    Verdict,
)
from ductape_memory import MemoryAdapter, MemoryBroker, MemoryConfig, MemoryConnection
from ductape_memory._receiver import MemoryReceiver


class Timer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
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
        woken = asyncio.Event()
        self.call_later(delay, woken.set)
        await woken.wait()

    async def advance(self, seconds: float) -> None:
        """Move, and run what falls due on the way, in its order."""
        end = self._now + seconds
        await settle_down()
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            if timer.callback is not None:
                timer.callback()
                await settle_down()
        self._now = end
        await settle_down()


async def settle_down() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class World:
    """One broker, and words to use it with."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.connections: list[MemoryConnection] = []

    @property
    def broker(self) -> MemoryBroker:
        return MemoryBroker.of("test")

    def site(self, create: bool = True) -> Site:
        return Site(
            product="shop", env="dev", broker="events", clock=self.clock, log=logging.getLogger("test"), create=create
        )

    async def connect(
        self, caps: Capabilities | None = None, *, create: bool = True, **config: Any
    ) -> MemoryConnection:
        connection = await MemoryAdapter(caps).connect(MemoryConfig(name="test", **config), self.site(create))
        self.connections.append(connection)
        return connection

    def channel(self, group: str = "billing", **fields: Any) -> Channel:
        return Channel(name="orders", group=group, **fields)

    async def send(self, connection: MemoryConnection, *records: Outgoing | str, **fields: Any) -> Sequence[Any]:
        channel = self.channel(**fields)
        await connection.declare(channel)
        sender = await connection.sender(channel)
        return await sender.send([self.record(one) if isinstance(one, str) else one for one in records])

    async def receiver(
        self, connection: MemoryConnection, group: str = "billing", *, channel: Channel | None = None, **intake: Any
    ) -> MemoryReceiver:
        intake.setdefault("window", 100)
        return await connection.receiver(channel or self.channel(group), Intake(group=group, **intake))

    @staticmethod
    def record(id: str, key: str | None = None, **fields: Any) -> Outgoing:
        return Outgoing(id.encode(), {"ductape-id": id}, id, key, **fields)

    @staticmethod
    def bodies(deliveries: Sequence[Delivery]) -> list[str]:
        return [one.body.decode() for one in deliveries]

    @staticmethod
    async def settle(
        receiver: MemoryReceiver, verdict: Verdict, *deliveries: Delivery, delay: float = 0.0
    ) -> list[Any]:
        answers = await receiver.settle([Settlement(one, verdict, delay) for one in deliveries])
        return [answer and answer.fault for answer in answers]

    @staticmethod
    async def ack(receiver: MemoryReceiver, *deliveries: Delivery) -> list[Any]:
        return await World.settle(receiver, Verdict.ACK, *deliveries)

    @staticmethod
    async def retry(receiver: MemoryReceiver, *deliveries: Delivery, delay: float = 0.0) -> list[Any]:
        return await World.settle(receiver, Verdict.RETRY, *deliveries, delay=delay)

    @staticmethod
    async def release(receiver: MemoryReceiver, *deliveries: Delivery) -> list[Any]:
        return await World.settle(receiver, Verdict.RELEASE, *deliveries)

    @staticmethod
    def faults(answers: Sequence[Any]) -> list[Fault | None]:
        return [answer.fault if isinstance(answer, AdapterError) else None for answer in answers]


@pytest.fixture
def world() -> World:
    return World()
