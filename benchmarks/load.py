"""The event that is measured with, a client that knows where it goes, and who counts what arrived."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from ductape import Ductape, Registry

if TYPE_CHECKING:
    import cProfile

BROKER, TOPIC = "bench", "orders"
EVENT = f"{BROKER}:{TOPIC}"
MANY = tuple(f"topic-{number}" for number in range(1000))
"""The topics of the cases that are about many: the first so many of them."""
PATIENCE = 20.0
"""Seconds without a message after which a consumer is taken to have lost the rest."""


class Item(msgspec.Struct):
    """A line of an order."""

    sku: str
    quantity: int
    price: float


class Order(msgspec.Struct):
    """An event of about 230 bytes of JSON; `number` tells a run's messages apart."""

    number: int
    order_id: str
    customer: str
    currency: str
    total: float
    items: list[Item]


class Text(msgspec.Struct):
    """An event of a chosen size."""

    number: int
    text: str


ITEMS = [Item("ABC-000123", 2, 19.99), Item("XYZ-000987", 1, 59.9)]


def order(number: int) -> Order:
    """Return the event of a number."""
    return Order(number, f"order-{number:010d}", "customer-0012345", "EUR", 99.88, ITEMS)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of event."""

    kind: type[Any]
    make: Callable[[int], Any]


def _sized(size: int) -> Load:
    text = "x" * (size - len(msgspec.json.encode(Text(10_000, ""))))
    return Load(kind=Text, make=lambda number: Text(number, text))


LOADS: Mapping[str, Load] = {
    "order": Load(kind=Order, make=order),
    "100 B": _sized(100),
    "1 kB": _sized(1_000),
    "64 kB": _sized(64_000),
}


async def client(
    env: dict[str, Any],
    *,
    registry: Registry | None = None,
    middleware: Sequence[object] = (),
    topic: dict[str, Any] | None = None,
) -> Ductape:
    """Return a client with one broker and one topic.

    Args:
        env: Type and config of the broker's only environment.
        registry: Adapters instead of those that are installed.
        middleware: As of `Ductape`.
        topic: Further options of the topic.
    """
    ductape = Ductape(product="bench", env="dev", registry=registry, middleware=middleware)
    environment: Any = {"slug": "dev", **env}
    await ductape.broker.create(name="Bench", tag=BROKER, envs=[environment])
    request: Any = {"name": "Orders", "tag": EVENT, **(topic or {})}
    await ductape.broker.topic.create(request)
    return ductape


class Ledger:
    """Counts every message of a run: what is missing or came twice is seen."""

    def __init__(self, messages: int) -> None:
        """Expect the numbers below `messages`."""
        self.seen = bytearray(messages)

    @property
    def handled(self) -> int:
        """How many different messages were seen."""
        return len(self.seen) - self.seen.count(0)

    def faults(self) -> list[str]:
        """Return what went wrong, as notes for the report."""
        lost, twice = self.seen.count(0), sum(1 for count in self.seen if count > 1)
        return [text for number, text in ((lost, f"LOST {lost}"), (twice, f"TWICE {twice}")) if number]


class Clock:
    """CPU of this process and time of day, since it was made.

    Attributes:
        profile: What sees exactly what the clock sees, if it is set.
    """

    profile: ClassVar[cProfile.Profile | None] = None

    def __init__(self) -> None:
        """Begin."""
        if self.profile is not None:
            self.profile.clear()
            self.profile.enable()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def passed(self) -> tuple[float, float]:
        """Return seconds of CPU, and of the day."""
        found = time.process_time() - self._cpu, time.perf_counter() - self._wall
        if self.profile is not None:
            self.profile.disable()
        return found


class Work(msgspec.Struct, kw_only=True):
    """What a consumer has to do with each message, and how many there are."""

    messages: int
    """Whoever reads looks at it after each read: it becomes 0 when the run is to end."""
    decode: Callable[[bytes], Any]
    """From the body to the typed event."""
    handle: Callable[[Any], Awaitable[None]]
    """The handler: it counts the event."""
    ledger: Ledger
    done: asyncio.Event
    """Set once so many were handled."""
    kind: type[Any]
    clock: Clock = msgspec.field(default_factory=Clock)

    def joined(self) -> None:
        """Let the clock begin here: the group is joined, and no message was handled yet."""
        if not self.ledger.handled:
            self.clock = Clock()

    async def finished(self) -> None:
        """Wait until all are handled, or nothing comes any more."""
        last, since = -1, time.monotonic()
        while (now := self.ledger.handled) < self.messages and time.monotonic() - since < PATIENCE:
            if now != last:
                last, since = now, time.monotonic()
            # What came twice was counted twice: then the rest is looked for.
            if self.done.is_set():
                await asyncio.sleep(0.05)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.done.wait(), 1.0)

    def end(self) -> None:
        """Let whoever reads return."""
        self.messages = 0
        self.done.set()


def counting(messages: int, load: Load) -> Work:
    """Return work whose handler counts, and does nothing else."""
    ledger, done = Ledger(messages), asyncio.Event()
    seen, rest = ledger.seen, messages

    async def handle(message: Any) -> None:
        nonlocal rest
        seen[message.number] += 1
        rest -= 1
        if not rest:
            done.set()

    decode = msgspec.json.Decoder(load.kind).decode
    return Work(messages=messages, decode=decode, handle=handle, ledger=ledger, done=done, kind=load.kind)
