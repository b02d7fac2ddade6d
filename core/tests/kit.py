"""What the kernel's tests share: a clock that stands still, a client on it, a log of deliveries, a scripted adapter."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from ductape import Ductape, Event
from ductape.adapter import (
    Adapter,
    AdapterError,
    Capabilities,
    Channel,
    Connection,
    Count,
    Delivery,
    Epoch,
    Fault,
    Intake,
    Limits,
    Outgoing,
    Purpose,
    Receiver,
    Sender,
    Settlement,
    Site,
    Stored,
    Verdict,
)
from ductape_memory import MemoryAdapter, MemoryBroker

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


# ------------------------------------------------------------------ a scripted adapter


class FakeConfig(msgspec.Struct, frozen=True, kw_only=True):
    max_reconnect_attempts: int | None = None


class Fake(Adapter[FakeConfig]):
    """Does what its script says, else works; and keeps a journal of every call.

    `script("send", step, …)` gives the next calls of a method one step each: an exception is raised, a coroutine
    function is awaited with the object and the arguments of the call, anything else is the answer.
    """

    api = 1
    config = FakeConfig
    capabilities = Capabilities(count=Count.EXACT)

    def __init__(self, capabilities: Capabilities | None = None, limits: Limits | None = None) -> None:
        if capabilities is not None:
            self.capabilities = capabilities
        self.purposes: dict[Purpose, Capabilities] = {}
        self.limits = limits or Limits()
        self.journal: list[tuple[str, Any]] = []
        self.scripts: defaultdict[str, deque[Any]] = defaultdict(deque)
        self.always: dict[str, Any] = {}
        self.sent: list[list[Outgoing]] = []
        self.stored: list[Outgoing] = []
        self.settlements: list[tuple[Any, Verdict, float]] = []
        self.extended: list[list[Any]] = []
        self.receivers: list[FakeReceiver] = []
        self.senders: list[FakeSender] = []
        self.connections: list[FakeConnection] = []
        self.inbox: defaultdict[Purpose, deque[dict[str, Any]]] = defaultdict(deque)
        self.clock: Any = None

    def script(self, method: str, *steps: Any) -> None:
        self.scripts[method].extend(steps)

    async def step(self, method: str, target: Any, default: Any, *args: Any) -> Any:
        steps = self.scripts[method]
        step = steps.popleft() if steps else self.always.get(method, default)
        if isinstance(step, BaseException):
            raise step
        return await step(target, *args) if callable(step) else step

    def names(self, *wanted: str) -> list[str]:
        return [name for name, _ in self.journal if not wanted or name in wanted]

    def feed(self, *bodies: bytes, purpose: Purpose = Purpose.EVENTS, **fields: Any) -> None:
        """Have messages delivered."""
        for body in bodies:
            headers = {"ductape-event": EVENT, "ductape-id": body.decode("latin-1"), **fields.get("headers", {})}
            self.inbox[purpose].append({**fields, "body": body, "headers": headers})
        for receiver in self.receivers:
            receiver.ring()

    @property
    def receiver(self) -> FakeReceiver:
        """The receiver of EVENTS that was opened last."""
        return [each for each in self.receivers if each.channel.purpose is Purpose.EVENTS][-1]

    async def connect(self, config: FakeConfig, site: Site) -> FakeConnection:
        self.journal.append(("connect", None))
        self.clock = site.clock

        async def default(_: object) -> FakeConnection:
            return FakeConnection(self)

        made: FakeConnection = await self.step("connect", self, default)
        self.connections.append(made)
        return made


class FakeConnection(Connection):
    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.closed = False

    def capabilities(self, channel: Channel) -> Capabilities | None:
        self.fake.journal.append(("capabilities", channel.purpose))
        return self.fake.purposes.get(channel.purpose)

    async def declare(self, channel: Channel) -> None:
        self.fake.journal.append(("declare", (channel.purpose, channel.group)))
        await self.fake.step("declare", self, None, channel)

    async def sender(self, channel: Channel) -> FakeSender:
        self.fake.journal.append(("sender", channel.purpose))

        async def default(_: object, channel: Channel) -> FakeSender:
            return self.make_sender(channel)

        made: FakeSender = await self.fake.step("sender", self, default, channel)
        return made

    def make_sender(self, channel: Channel) -> FakeSender:
        return FakeSender(self.fake, channel)

    async def receiver(self, channel: Channel, intake: Intake) -> FakeReceiver:
        self.fake.journal.append(("receiver", (channel.purpose, intake)))

        async def default(_: object, channel: Channel, intake: Intake) -> FakeReceiver:
            return FakeReceiver(self.fake, channel, intake)

        step = "receiver" if channel.purpose is Purpose.EVENTS else "receiver of " + channel.purpose.value
        made: FakeReceiver = await self.fake.step(step, self, default, channel, intake)
        return made

    async def close(self) -> None:
        self.fake.journal.append(("close connection", self))
        self.closed = True
        await self.fake.step("close", self, None)


class FakeSender(Sender):
    def __init__(self, fake: Fake, channel: Channel) -> None:
        self.fake, self.channel, self.limits = fake, channel, fake.limits
        self.closed = False
        fake.senders.append(self)

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Stored | AdapterError]:
        self.fake.journal.append(("send", (self, [record.id for record in records])))
        self.fake.sent.append(list(records))
        step = "send" if self.channel.purpose is Purpose.EVENTS else "send to " + self.channel.purpose.value
        answers: Sequence[Stored | AdapterError] = await self.fake.step(step, self, FakeSender.store, records)
        return answers

    async def store(self, records: Sequence[Outgoing]) -> Sequence[Stored | AdapterError]:
        self.fake.stored.extend(records)
        return [Stored(f"{self.channel.name}@{record.id}") for record in records]

    async def close(self) -> None:
        self.fake.journal.append(("close sender", self))
        self.closed = True
        await self.fake.step("close", self, None)


class FakeReceiver(Receiver):
    def __init__(self, fake: Fake, channel: Channel, intake: Intake) -> None:
        self.fake, self.channel, self.intake = fake, channel, intake
        self.epoch = Epoch("fake", fake.clock)
        self.closed = self.stopped = False
        self.delivered: list[Delivery] = []
        self._bell: asyncio.Future[None] | None = None
        fake.receivers.append(self)

    def ring(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        purpose = self.channel.purpose
        step = "receive" if purpose is Purpose.EVENTS else "receive of " + purpose.value
        if purpose is Purpose.EVENTS:
            self.fake.journal.append(("receive", (limit, wait)))
        found: Sequence[Delivery] = await self.fake.step(step, self, FakeReceiver.take, limit, wait)
        return found

    async def take(self, limit: int, wait: float) -> list[Delivery]:
        inbox = self.fake.inbox[self.channel.purpose]
        await asyncio.sleep(0)
        if not inbox and wait > 0 and not self.stopped:
            self._bell = asyncio.get_running_loop().create_future()
            timer = self.fake.clock.call_later(wait, self.ring)
            await self._bell
            timer.cancel()
        taken = [self.deliver(**inbox.popleft()) for _ in range(min(limit, len(inbox)))]
        return taken if not self.stopped else []

    def deliver(self, **fields: Any) -> Delivery:
        lease = self.fake.capabilities.lease
        until = None if lease is None else self.fake.clock.now() + lease
        made = Delivery(**{"epoch": self.epoch, "leased_until": until, "count": None, "position": "x", **fields})
        self.delivered.append(made)
        return made

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[AdapterError | None]:
        shown = [(each.delivery.body.decode("latin-1"), each.verdict, round(each.delay, 3)) for each in settlements]
        self.fake.journal.append(("settle", shown))
        answers: Sequence[AdapterError | None] = await self.fake.step("settle", self, FakeReceiver.accept, settlements)
        return answers

    async def accept(self, settlements: Sequence[Settlement]) -> list[AdapterError | None]:
        self.fake.settlements += [
            (each.delivery.body.decode("latin-1"), each.verdict, round(each.delay, 3)) for each in settlements
        ]
        return [None] * len(settlements)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[AdapterError | None]:
        self.fake.journal.append(("extend", [each.body for each in deliveries]))
        answers: Sequence[AdapterError | None] = await self.fake.step("extend", self, FakeReceiver.renew, deliveries)
        return answers

    async def renew(self, deliveries: Sequence[Delivery]) -> list[AdapterError | None]:
        for each in deliveries:
            each.leased_until = self.fake.clock.now() + (self.fake.capabilities.lease or 0.0)
        return [None] * len(deliveries)

    async def stop(self) -> None:
        if self.channel.purpose is Purpose.EVENTS:
            self.fake.journal.append(("stop", self))
        self.stopped = True
        self.ring()
        await self.fake.step("stop", self, None)

    async def close(self) -> None:
        self.fake.journal.append(("close receiver", self))
        self.closed = True
        self.ring()
        self.epoch.end()
        await self.fake.step("close", self, None)


async def never(*_: Any) -> Any:
    """A step: a call that does not return, and that nobody may cancel."""
    await asyncio.get_running_loop().create_future()


def answered(fault: Fault) -> Callable[..., Awaitable[list[AdapterError]]]:
    """A step: every item is answered with this fault."""

    async def answer(_: object, items: Sequence[object]) -> list[AdapterError]:
        return [AdapterError(fault, "on demand") for _ in items]

    return answer


def failing(fault: Fault) -> AdapterError:
    return AdapterError(fault, "on demand")


def same(first: float, second: float) -> bool:
    return abs(first - second) < 1e-6
