"""Costs that do not depend on the machine: Python calls a message, calls of the client. A gate can hold them."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from .kernel import CONSUME, loaded, opened
from .load import EVENT, Order, order
from .results import Measured

OURS = str(Path(__file__).parent)


class Calls(msgspec.Struct, frozen=True):
    """Python frames entered a message, resumptions of coroutines included; those of the benchmark left out."""

    total: float
    by_function: dict[str, float]
    """The ten most frequent."""
    client_calls_per_1000: float = 0.0


class Profile:
    """Counts frames while it is entered."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.codes: Counter[Any] = Counter()

    def __enter__(self) -> Profile:
        codes = self.codes

        def count(frame: FrameType, event: str, argument: object) -> None:
            if event == "call":
                codes[frame.f_code] += 1

        sys.setprofile(count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def calls(self, messages: int, client_calls: int = 0) -> Calls:
        """Return what was counted, a message."""
        kernel = {code: number for code, number in self.codes.items() if not code.co_filename.startswith(OURS)}
        named: Counter[str] = Counter()
        for code, number in kernel.items():
            named[f"{Path(code.co_filename).stem}.{code.co_qualname}"] += number
        most = {name: round(number / messages, 3) for name, number in named.most_common(10)}
        return Calls(sum(kernel.values()) / messages, most, 1000 * client_calls / messages)


async def publish_calls(callers: int = 500, messages: int = 10_000, *, bound: bool = False) -> Calls:
    """Count publishing."""
    ductape, adapter = await opened()
    publisher = await ductape.event.publisher(EVENT)
    payload = order(1)

    async def through_door() -> None:
        for _ in range(messages // callers):
            await ductape.event.publish(EVENT, payload)

    async def through_publisher() -> None:
        for _ in range(messages // callers):
            await publisher.publish(payload)

    caller = through_publisher if bound else through_door
    with Profile() as profile:
        await asyncio.gather(*(caller() for _ in range(callers)))
    await ductape.close()
    assert adapter.records == messages
    return profile.calls(messages, adapter.calls)


async def consume_calls(messages: int = 10_000, *, middleware: int = 0, **options: Any) -> Calls:
    """Count handling a backlog, its settlements included."""
    ductape, adapter = await loaded(messages, middleware=middleware)
    seen = 0

    async def handle(message: Order) -> None:
        nonlocal seen
        seen += 1

    with Profile() as profile:
        await ductape.event.subscribe(EVENT, callback=handle, **{**CONSUME, **options})
        await adapter.done.wait()
    await ductape.close(1.0)
    assert seen == messages
    return profile.calls(messages)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to count."""

    title: str
    count: Callable[[], Awaitable[Calls]]
    client: bool = False
    """The figure is calls of the client, not Python calls."""

    async def run(self) -> Measured:
        """Count it."""
        calls = await self.count()
        value = calls.client_calls_per_1000 if self.client else calls.total
        return Measured(value=value, extra={} if self.client else calls.by_function)


CASES: dict[str, Case] = {
    "publish": Case(title="Python calls, publish at 500 callers", count=publish_calls),
    "publish-bound": Case(title="Python calls, publish, bound publisher", count=lambda: publish_calls(bound=True)),
    "consume": Case(title="Python calls, consume", count=consume_calls),
    "consume-middleware-3": Case(
        title="Python calls, consume, 3 no-op middleware", count=lambda: consume_calls(middleware=3)
    ),
    "client-calls": Case(title="client calls, 1,000 publishes at 500 callers", count=publish_calls, client=True),
}
