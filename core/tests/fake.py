"""An adapter at the kernel's boundary that does what a test's script says: hangs, lies, fails, answers late."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from core.tests.kit import EVENT
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
        self.groups: dict[str, Capabilities] = {}
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
        self.fake.journal.append(("capabilities", (channel.purpose, channel.group)))
        return self.fake.groups.get(channel.group) or self.fake.purposes.get(channel.purpose)

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
        await self.fake.step("close", self, None)
        self.epoch.end()


class OneChannelConfig(FakeConfig, frozen=True, kw_only=True):
    channel: str = "shared"
    group: str | None = None


class OneChannel(Fake):
    """Its config names the channel, so that all topics share it."""

    config = OneChannelConfig
    channel_field = "channel"
    group_field = "group"


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
