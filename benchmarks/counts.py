"""Costs that do not depend on the machine: Python calls a message, memory blocks, calls of the client."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
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
MESSAGES, CALLERS = 10_000, 500


class Profile:
    """Counts the Python frames that are entered while it is, resumptions of coroutines included."""

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

    def calls(self, messages: int) -> Measured:
        """Return what was counted, a message, and the ten most frequent; frames of the benchmark are left out."""
        kernel = {code: number for code, number in self.codes.items() if not code.co_filename.startswith(OURS)}
        named: Counter[str] = Counter()
        for code, number in kernel.items():
            named[f"{Path(code.co_filename).stem}.{code.co_qualname}"] += number
        most = {name: round(number / messages, 3) for name, number in named.most_common(10)}
        return Measured(value=sum(kernel.values()) / messages, extra=most)


# -- publish


async def publish_calls(*, bound: bool = False) -> Measured:
    """Count Python calls of a publish."""
    ductape, adapter = await opened()
    publisher = await ductape.event.publisher(EVENT)
    payload = order(1)

    async def through_door() -> None:
        for _ in range(MESSAGES // CALLERS):
            await ductape.event.publish(EVENT, payload)

    async def through_publisher() -> None:
        for _ in range(MESSAGES // CALLERS):
            await publisher.publish(payload)

    caller = through_publisher if bound else through_door
    with Profile() as profile:
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    await ductape.close()
    assert adapter.records == MESSAGES
    return profile.calls(MESSAGES)


async def publish_client_calls(callers: int) -> Measured:
    """Count the adapter's calls for 1,000 publishes."""
    ductape, adapter = await opened()
    numbers, payload = iter(range(MESSAGES)), order(1)

    async def caller() -> None:
        for _ in numbers:
            await ductape.event.publish(EVENT, payload)

    await asyncio.gather(*(caller() for _ in range(callers)))
    await ductape.close()
    assert adapter.records == MESSAGES
    return Measured(value=1000 * adapter.calls / MESSAGES)


async def publish_many_client_calls() -> Measured:
    """Count the adapter's calls for 1,000 messages of one `publish_many`."""
    ductape, adapter = await opened()
    await ductape.event.publish_many(EVENT, (order(number) for number in range(MESSAGES)))
    await ductape.close()
    assert adapter.records == MESSAGES
    return Measured(value=1000 * adapter.calls / MESSAGES)


async def blocks_of_a_publish() -> Measured:
    """Count the memory blocks that a publish holds until it is answered, those of its caller's task included."""
    ductape, _ = await opened()
    publisher = await ductape.event.publisher(EVENT)
    payload, number, held = order(1), MESSAGES // 2, 0
    for _ in range(2):  # the first round lets every table grow to its size
        before = blocks()
        tasks = [asyncio.ensure_future(publisher.publish(payload)) for _ in range(number)]
        await asyncio.sleep(0)
        held = blocks() - before
        await asyncio.gather(*tasks)
        del tasks
    await ductape.close()
    return Measured(value=held / number)


async def blocks_left() -> Measured:
    """Count the memory blocks that a message leaves behind when it was published and handled."""
    found = []
    for messages in (MESSAGES, MESSAGES, 2 * MESSAGES):  # what is left once is there the second time
        before = blocks()
        adapter = await _through(messages)
        while adapter() is not None:  # a timer of the closed client may hold it for another second
            await asyncio.sleep(0.05)
            gc.collect()
        found.append(blocks() - before)
    return Measured(value=max(0, found[-1] - found[-2]) / MESSAGES)


async def _through(messages: int) -> weakref.ref[object]:
    ductape, adapter = await loaded(messages)

    async def handle(message: Order) -> None:
        pass

    await ductape.event.publish_many(EVENT, (order(number) for number in range(messages)))
    await ductape.event.subscribe(EVENT, callback=handle, **CONSUME)
    await adapter.done.wait()
    await ductape.close(1.0)
    return weakref.ref(adapter)


def blocks() -> int:
    """Return how many memory blocks the interpreter holds, garbage collected before."""
    gc.collect()
    return sys.getallocatedblocks()


# -- consume


async def consume_calls(*, middleware: int = 0) -> Measured:
    """Count Python calls of handling a message of a backlog, its settlement included."""
    ductape, adapter = await loaded(MESSAGES, middleware=middleware)
    seen = 0

    async def handle(message: Order) -> None:
        nonlocal seen
        seen += 1

    with Profile() as profile:
        await ductape.event.subscribe(EVENT, callback=handle, **CONSUME)
        await adapter.done.wait()
    await ductape.close(1.0)
    assert seen == MESSAGES
    return profile.calls(MESSAGES)


async def settle_calls() -> Measured:
    """Count the adapter's calls that acknowledge 1,000 messages."""
    ductape, adapter = await loaded(MESSAGES)

    async def handle(message: Order) -> None:
        pass

    await ductape.event.subscribe(EVENT, callback=handle, **CONSUME)
    await adapter.done.wait()
    await ductape.close(1.0)
    assert adapter.settled == MESSAGES
    return Measured(value=1000 * adapter.settles / MESSAGES)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to count."""

    title: str
    run: Callable[[], Awaitable[Measured]]
    unit: str = "calls"


CASES: dict[str, Case] = {
    "publish": Case(title="Python calls, publish at 500 callers", run=publish_calls),
    "publish-bound": Case(title="Python calls, publish, bound publisher", run=lambda: publish_calls(bound=True)),
    "consume": Case(title="Python calls, consume", run=consume_calls),
    "consume-middleware-3": Case(
        title="Python calls, consume, 3 no-op middleware", run=lambda: consume_calls(middleware=3)
    ),
    "publish-blocks": Case(
        title="memory blocks that a publish holds until it is answered", run=blocks_of_a_publish, unit="blocks"
    ),
    "left-blocks": Case(title="memory blocks that a message leaves behind", run=blocks_left, unit="blocks"),
    "client-calls": Case(
        title="client calls, 1,000 publishes at 500 callers", run=lambda: publish_client_calls(CALLERS)
    ),
    "client-calls-64": Case(title="client calls, 1,000 publishes at 64 callers", run=lambda: publish_client_calls(64)),
    "client-calls-many": Case(title="client calls, publish_many of 1,000", run=publish_many_client_calls),
    "client-calls-settle": Case(title="client calls that acknowledge 1,000 messages", run=settle_calls),
}
