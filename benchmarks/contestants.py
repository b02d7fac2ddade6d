"""Who does the work of a case: the raw client in two or three ways, FastStream, ductape. Each in a fresh process."""

from __future__ import annotations

import abc
import asyncio
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import msgspec

from ductape import Ductape

from .load import BROKER, EVENT, LOADS, PATIENCE, Load, Work, client
from .providers import Provider, Raw

FILLERS = 100
"""Callers that load a backlog where there is no bulk path."""
KEYS = 1000


class Variation(msgspec.Struct, frozen=True, kw_only=True):
    """How a case differs from the plain one."""

    load: str = "order"
    key: bool = False
    order: str = ""
    tracing: bool = False


class Contestant(abc.ABC):
    """A client, and what is done with it. `open`, `fill` and `close` are not measured."""

    def __init__(self, provider: Provider, url: str, variation: Variation) -> None:
        """Take where the server is, and what is sent."""
        self.provider, self.url, self.variation = provider, url, variation
        self.load: Load = LOADS[variation.load]

    alone = False
    """It publishes as one caller, however many there are."""
    measured = True
    """What it does is measured: what a first message loads has to be loaded before."""

    @abc.abstractmethod
    async def open(self, callers: int) -> None:
        """Load the client, connect, and have channel and group."""

    @abc.abstractmethod
    async def caller(self, numbers: Iterator[int]) -> None:
        """Publish, awaiting each, until the numbers, which all callers share, are used up."""

    async def many(self, numbers: Sequence[int]) -> None:
        """Publish by one call, or in batches."""
        raise NotImplementedError

    async def fill(self, messages: int) -> None:
        """Store a backlog."""
        numbers = iter(range(messages))
        await asyncio.gather(*(self.caller(numbers) for _ in range(FILLERS)))

    @abc.abstractmethod
    async def consume(self, work: Work) -> None:
        """Handle and acknowledge the work; what is pending is flushed in the end."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Close everything."""


class RawEach(Contestant):
    """The raw client, used idiomatically."""

    raw: Raw
    encode = msgspec.json.Encoder().encode

    async def open(self, callers: int) -> None:
        """Open it, with channel and group."""
        if self.provider.raw is None:
            raise LookupError("no client of the broker's own")
        self.raw = self.provider.raw(self.url)
        await self.raw.open(max(callers, 2))
        await self.raw.declare()

    async def caller(self, numbers: Iterator[int]) -> None:
        """Await every message."""
        publish, encode, make = self.raw.publish, self.encode, self.load.make
        for number in numbers:
            await publish(encode(make(number)), f"{number:016x}")

    async def fill(self, messages: int) -> None:
        """Store a backlog by the bulk path, where there is one."""
        if self.raw.ways.publish_bulk:
            await self.batches(iter(range(messages)))
        else:
            await super().fill(messages)

    async def batches(self, numbers: Iterator[int]) -> None:
        """Send by the bulk path, one batch after the other."""
        encode, make, size = self.encode, self.load.make, self.raw.bulk
        while batch := [(encode(make(number)), f"{number:016x}") for number in islice(numbers, size)]:
            await self.raw.publish_bulk(batch)

    async def consume(self, work: Work) -> None:
        """Acknowledge every message by itself."""
        await self.raw.consume(work)

    async def close(self) -> None:
        """Close it."""
        await self.raw.close()


class RawBulk(RawEach):
    """The raw client's best bulk path: one caller, who gets one answer a batch."""

    alone = True

    async def caller(self, numbers: Iterator[int]) -> None:
        """Send batches."""
        await self.batches(numbers)

    async def many(self, numbers: Sequence[int]) -> None:
        """Send batches."""
        await self.batches(iter(numbers))

    async def consume(self, work: Work) -> None:
        """Acknowledge many at once."""
        await self.raw.consume_bulk(work)


class RawAwaited(RawEach):
    """The bulk path behind callers who each await their own result, as one would write it by hand for this case."""

    async def open(self, callers: int) -> None:
        """Open it, and start whoever sends what has gathered."""
        await super().open(callers)
        self.waiting: list[tuple[bytes, str]] = []
        self.futures: list[asyncio.Future[None]] = []
        self.task: asyncio.Task[None] | None = None

    async def caller(self, numbers: Iterator[int]) -> None:
        """Await a future a message."""
        encode, make, loop = self.encode, self.load.make, asyncio.get_running_loop()
        for number in numbers:
            future = loop.create_future()
            self.waiting.append((encode(make(number)), f"{number:016x}"))
            self.futures.append(future)
            if self.task is None or self.task.done():
                self.task = asyncio.create_task(self._flush())
            await future

    async def _flush(self) -> None:
        while self.waiting:
            size = self.raw.bulk
            batch, futures = self.waiting[:size], self.futures[:size]
            del self.waiting[:size], self.futures[:size]
            await self.raw.publish_bulk(batch)
            for future in futures:
                future.set_result(None)


class FastStreamBroker(Contestant):
    """FastStream: a typed subscriber, logging off."""

    async def open(self, callers: int) -> None:
        """Connect; the raw client makes channel and group."""
        if self.provider.raw is not None:
            raw = self.provider.raw(self.url)
            await raw.open(2)
            await raw.declare()
            await raw.close()
        self.fast = self.provider.faststream(self.url, callers)
        self.model = _model(self.load)
        await self.fast.broker.connect()

    async def caller(self, numbers: Iterator[int]) -> None:
        """Await every message."""
        publish, options = self.fast.broker.publish, self.fast.publish
        # A dict: what it encodes quickest.
        common = msgspec.to_builtins(self.load.make(0))
        for number in numbers:
            await publish({**common, "number": number}, **options)

    async def consume(self, work: Work) -> None:
        """Subscribe before it starts, as its users do."""
        handle = _annotated(work.handle, self.model)
        self.fast.broker.subscriber(**self.fast.subscribe)(handle)
        await self.fast.broker.start()
        work.joined()
        try:
            await work.finished()
        finally:
            await self.fast.broker.stop()

    async def close(self) -> None:
        """Stop it."""
        await self.fast.broker.stop()


class OfDuctape(Contestant):
    """ductape, as its documentation shows it."""

    options: dict[str, Any]

    def __init__(
        self, provider: Provider, url: str, variation: Variation, options: dict[str, Any] | None = None
    ) -> None:
        """Take options of the subscription too."""
        super().__init__(provider, url, variation)
        self.options = dict(options or {})

    async def open(self, callers: int) -> None:
        """Connect, and load all that a first message loads: one goes through another topic.

        That ends with a subscription, and some providers take seconds to leave.
        """
        topic: dict[str, Any] = {"order": self.variation.order} if self.variation.order else {}
        self.ductape: Ductape = await client(
            {"type": self.provider.type, "config": self.provider.config(self.url)},
            middleware=tracing() if self.variation.tracing else (),
            topic=topic,
        )
        if self.measured:
            await self._warm()
        await self.ductape.event.publisher(EVENT)

    async def _warm(self) -> None:
        name, arrived = f"{BROKER}:warm", asyncio.Event()

        async def handle(message: dict[str, Any]) -> None:
            arrived.set()

        await self.ductape.broker.topic.create(name="Warm", tag=name)
        subscription = await self.ductape.event.subscribe(name, callback=handle)
        await self.ductape.event.publish(name, {})
        await asyncio.wait_for(arrived.wait(), PATIENCE)
        await subscription.close()

    async def caller(self, numbers: Iterator[int]) -> None:
        """Await every message."""
        publish, make = self.ductape.event.publish, self.load.make
        if self.variation.key:
            for number in numbers:
                await publish(EVENT, make(number), key=f"customer-{number % KEYS}")
            return
        for number in numbers:
            await publish(EVENT, make(number))

    async def many(self, numbers: Sequence[int]) -> None:
        """Publish with one call."""
        make = self.load.make
        await self.ductape.event.publish_many(EVENT, (make(number) for number in numbers))

    async def fill(self, messages: int) -> None:
        """Store a backlog; the publisher declares the group."""
        if self.variation.key:
            await super().fill(messages)
            return
        for begin in range(0, messages, 10_000):
            await self.many(range(begin, min(begin + 10_000, messages)))

    async def consume(self, work: Work) -> None:
        """Subscribe, with a typed handler."""
        handle = _annotated(work.handle, work.kind)
        subscription = await self.ductape.event.subscribe(EVENT, callback=handle, **self.options)
        try:
            await work.finished()
        finally:
            await subscription.close()

    async def close(self) -> None:
        """Close the client."""
        await self.ductape.close()


def _annotated(handle: Callable[..., Any], kind: type[Any]) -> Callable[..., Any]:
    """Give a handler the type that its parameter is decoded to: both libraries read it from the signature."""
    handle.__annotations__ = {"message": kind, "return": None}
    return handle


def _model(load: Load) -> Any:
    """Return the pydantic model of an event: what FastStream's users write."""
    import pydantic

    many: Any = list

    def model_of(kind: type[Any]) -> Any:
        fields: dict[str, Any] = {}
        for field in msgspec.structs.fields(kind):
            inner = getattr(field.type, "__args__", ())
            fields[field.name] = (many[model_of(inner[0])] if inner else field.type, ...)
        return pydantic.create_model(kind.__name__, **fields)

    return model_of(load.kind)


def tracing() -> list[object]:
    """Return the OpenTelemetry middleware, its SDK sampling every message and exporting none."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())
    return ["opentelemetry"]


WIDE = {"concurrency": 64, "prefetch": 1000}

CONTESTANTS: dict[str, Callable[[Provider, str, Variation], Contestant]] = {
    "raw": RawEach,
    "raw bulk": RawBulk,
    "raw bulk, awaited": RawAwaited,
    "FastStream": FastStreamBroker,
    "ductape": partial(OfDuctape, options=WIDE),
    "ductape, defaults": OfDuctape,
}


def absent(name: str, provider: Provider, case: str) -> str:
    """Say why a contestant cannot take part in a case, or nothing."""
    if name == "FastStream":
        module = provider.faststream_module
        if not module:
            return "has no broker of this kind"
        try:
            found = importlib.util.find_spec(module.partition(".")[0])
        except ImportError:
            found = None
        return "" if found else "is not installed"
    if name.startswith("raw"):
        if provider.raw is None:
            return "there is no other client"
        ways = provider.raw.ways
        if name.startswith("raw bulk") and not (ways.consume_bulk if case.startswith("consume") else ways.publish_bulk):
            return "the client has no bulk path"
    return ""
