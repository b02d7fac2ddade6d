"""An adapter around another one: it writes down every call, and lets rules change what happens.

Scenarios look through it at what the kernel does, and inject faults into any adapter; broken adapters are rules on it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec

from ductape.adapter import (
    Adapter,
    AdapterError,
    Annotating,
    Capabilities,
    Channel,
    Connection,
    Delivery,
    Fault,
    Intake,
    Measurable,
    Outgoing,
    Purpose,
    Receiver,
    Removable,
    Seekable,
    Sender,
    Settlement,
    Site,
    Stored,
)

__all__ = ["Call", "Rule", "Tap", "bare", "tapped"]

T = TypeVar("T")


class Call(msgspec.Struct, eq=False):
    """One call of the kernel, before it reaches the adapter."""

    method: str
    target: Any
    """The tapped sender, receiver, connection or adapter."""
    args: tuple[Any, ...]
    at: float
    channel: Channel | None = None
    go: Callable[..., Awaitable[Any]] = None  # type: ignore[assignment]  # always given
    answer: Any = None

    @property
    def purpose(self) -> Purpose | None:
        """What its channel is for."""
        return self.channel.purpose if self.channel is not None else None

    async def proceed(self, *args: Any) -> Any:
        """Let the adapter do it, with other arguments if any are given."""
        return await self.go(*(args or self.args))


Rule = Callable[[Call], Awaitable[Any]]


class Tap(Adapter[Any]):
    """Passes everything on to `inner`."""

    api = 1
    inner: Adapter[Any]

    def __init__(self, inner: Adapter[Any], config: Any = None) -> None:
        """Wrap an adapter; `config` is used in place of what `connect` is given."""
        self.inner, self._config = inner, config
        self.capabilities = inner.capabilities
        self.calls: list[Call] = []
        self.rules: dict[str, Rule] = {}
        self.claims: Callable[[Channel, Capabilities], Capabilities] = lambda channel, can: can
        self.broken: list[str] = []
        """Where the kernel broke the contract: what must never run beside something, and did."""
        self.receivers: list[TapReceiver] = []
        self.connections: list[TapConnection] = []
        self.clock: Any = None

    @property
    def events(self) -> list[TapReceiver]:
        """The receivers of EVENTS that were opened, oldest first."""
        return [one for one in self.receivers if one.channel.purpose is Purpose.EVENTS]

    def of(self, *methods: str, purpose: Purpose | None = None) -> list[Call]:
        """Return the calls of some methods, oldest first."""
        return [one for one in self.calls if one.method in methods and purpose in (None, one.purpose)]

    def lose_answers(self, method: str, times: int) -> Callable[[], int]:
        """Let the work of some calls be done and their answers be lost; returns a count of them."""
        lost: list[Call] = []

        async def rule(call: Call) -> Any:
            answer = await call.proceed()
            if len(lost) < times:
                lost.append(call)
                raise AdapterError(Fault.AMBIGUOUS, "the answer is lost on demand")
            return answer

        self.rules[method] = rule
        return lambda: len(lost)

    async def call(self, method: str, target: Any, go: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Write a call down, and make it."""
        at = self.clock.now() if self.clock is not None else 0.0
        one = Call(method, target, args, at, getattr(target, "channel", None), go)
        if method in ("declare", "sender", "receiver"):
            one.channel = args[0]
        self.calls.append(one)
        rule = self.rules.get(method)
        one.answer = await (rule(one) if rule is not None else go(*args))
        return one.answer

    async def connect(self, config: Any, site: Site) -> Connection:
        """Connect."""
        self.clock = site.clock
        inner = self.inner

        async def go(config: Any, site: Site) -> Connection:
            opened = await inner.connect(config, site)
            made = (_Removable if isinstance(opened, Removable) else TapConnection)(opened, self)
            self.connections.append(made)
            return made

        connection: Connection = await self.call("connect", self, go, self._config or config, site)
        return connection


def tapped(inner: Adapter[Any], config: Any = None) -> Tap:
    """Return a tap with the config type of what it wraps."""
    names = ("config", "channel_field", "group_field")
    made: Tap = type("Tap", (Tap,), {name: getattr(inner, name) for name in names})(inner, config)
    return made


class TapConnection(Connection):
    """A connection, tapped."""

    def __init__(self, inner: Connection, tap: Tap) -> None:
        self.inner, self.tap = inner, tap

    def capabilities(self, channel: Channel) -> Capabilities:
        return self.tap.claims(channel, self.inner.capabilities(channel) or self.tap.inner.capabilities)

    async def declare(self, channel: Channel) -> None:
        await self.tap.call("declare", self, self.inner.declare, channel)

    async def sender(self, channel: Channel) -> Sender:
        async def go(channel: Channel) -> Sender:
            return TapSender(await self.inner.sender(channel), self.tap, channel)

        made: Sender = await self.tap.call("sender", self, go, channel)
        return made

    async def receiver(self, channel: Channel, intake: Intake) -> Receiver:
        async def go(channel: Channel, intake: Intake) -> Receiver:
            inner = await self.inner.receiver(channel, intake)
            made: TapReceiver = _kind(
                isinstance(inner, Measurable), isinstance(inner, Annotating), isinstance(inner, Seekable)
            )(inner, self.tap, channel, intake)
            self.tap.receivers.append(made)
            return made

        made: Receiver = await self.tap.call("receiver", self, go, channel, intake)
        return made

    async def check(self) -> None:
        await self.tap.call("check", self, self.inner.check)

    async def close(self) -> None:
        await self.tap.call("close", self, self.inner.close)

    def unwrap(self, kind: type[T]) -> T:
        return self if isinstance(self, kind) else self.inner.unwrap(kind)


class _Removable(TapConnection, Removable):
    """The same, of a connection that can remove groups."""

    async def remove(self, channel: Channel) -> None:
        inner: Any = self.inner
        await self.tap.call("remove", self, inner.remove, channel)


def bare(connection: Connection) -> Connection:
    """Return the adapter's own connection."""
    while isinstance(connection, TapConnection):
        connection = connection.inner
    return connection


class TapSender(Sender):
    """A sender, tapped."""

    def __init__(self, inner: Sender, tap: Tap, channel: Channel) -> None:
        self.inner, self.tap, self.channel, self.limits = inner, tap, channel, inner.limits

    def lane(self, record: Outgoing) -> Hashable | None:
        return self.inner.lane(record)

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Stored | AdapterError]:
        answers: Sequence[Stored | AdapterError] = await self.tap.call("send", self, self.inner.send, records)
        return answers

    async def close(self) -> None:
        await self.tap.call("close", self, self.inner.close)


class TapReceiver(Receiver):
    """A receiver, tapped: it counts what is out, and notices calls that must not run beside one another."""

    def __init__(self, inner: Receiver, tap: Tap, channel: Channel, intake: Intake) -> None:
        self.inner, self.tap, self.channel, self.intake = inner, tap, channel, intake
        self.out: set[Delivery] = set()
        self.peak = 0
        self.stopped = self.closed = False
        self._busy: dict[str, int] = {"receive": 0, "settle": 0}

    async def _alone(self, method: str, lock: str, go: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        if self._busy[lock]:
            self.tap.broken.append(f"{method} runs beside another call that it must not run beside")
        self._busy[lock] += 1
        try:
            return await self.tap.call(method, self, go, *args)
        finally:
            self._busy[lock] -= 1

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        found: Sequence[Delivery] = await self._alone("receive", "receive", self.inner.receive, limit, wait)
        self.out.update(found)
        self.peak = max(self.peak, len(self.out))
        return found

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[AdapterError | None]:
        if any(one.delivery not in self.out for one in settlements):
            self.tap.broken.append("a delivery was settled with a receiver that did not give it, or twice")
        answers: Sequence[AdapterError | None] = await self._alone("settle", "settle", self.inner.settle, settlements)
        for one, answer in zip(settlements, answers, strict=False):
            if answer is None or answer.fault is Fault.LOST:
                self.out.discard(one.delivery)
        return answers

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[AdapterError | None]:
        answers: Sequence[AdapterError | None] = await self._alone("extend", "settle", self.inner.extend, deliveries)
        return answers

    async def stop(self) -> None:
        self.stopped = True
        await self.tap.call("stop", self, self.inner.stop)

    async def close(self) -> None:
        self.closed = True
        await self.tap.call("close", self, self.inner.close)


class _Measurable(Measurable):
    inner: Any

    async def lag(self) -> int | None:
        lag: int | None = await self.inner.lag()
        return lag

    def dropped(self) -> int:
        dropped: int = self.inner.dropped()
        return dropped


class _Annotating(Annotating):
    inner: Any
    tap: Tap

    async def note(self, deliveries: Sequence[Delivery]) -> None:
        await self.tap.call("note", self, self.inner.note, deliveries)


class _Seekable(Seekable):
    inner: Any

    async def seek(self, start: str) -> None:
        await self.inner.seek(start)


@cache
def _kind(measurable: bool, annotating: bool, seekable: bool) -> Any:
    """Return a class that is what the wrapped receiver is: the kernel asks with `isinstance`."""
    extra = [
        kind for kind, wanted in ((_Measurable, measurable), (_Annotating, annotating), (_Seekable, seekable)) if wanted
    ]
    return type("TapReceiver", (TapReceiver, *extra), {})
