"""The bench: a client of the application's own, on brokers in memory, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ductape import Ductape
from ductape.adapter import Capabilities, Outgoing, Purpose
from ductape.errors import CatalogError, ConfigError, StateError, nearest
from ductape_memory import MemoryBroker

from ._brokers import BenchAdapter, Brokers, capabilities_of
from ._clock import VirtualClock
from ._failing import Cause, Failing, Handler, Watch, same
from ._look import explain, look, running, waits
from ._pace import Pace
from ._records import Call, Letter, Sent, letter_of, sent_of

if TYPE_CHECKING:
    from ductape._codec import Codecs
    from ductape._engine import Engine

__all__ = ["Bench", "bench"]

_NAP = 0.002
_HANDLERS = 0.1
"""Real seconds for which handlers that still run are waited for when the client closes, before grace time passes."""


def bench(client: Ductape, *, imitate: str | Capabilities | None = None) -> Bench:
    """Put a client on the bench, with ``async with``.

    Inside, the client is open, every environment's broker is one in memory, empty at first, whatever its provider, and
    time stands still until `Bench.settled` or `Bench.advance` moves it. Adapters of providers need not be installed,
    and their configs are not read.

    Args:
        client: The application's; it must not be open.
        imitate: What the brokers can do: ``"kafka"`` (what that installed adapter declares), ``"queue"``, ``"log"``,
            ``"stream"``, ``"lossy"``, or `Capabilities`. Unset: everything, so that nothing is refused.

    Raises:
        AdapterNotUsable: The adapter to imitate is not installed.
        ConfigError: ``OPTION_INVALID``.
    """
    if not isinstance(client, Ductape):
        raise ConfigError("OPTION_INVALID", f"bench({client!r}): give it the application's Ductape.", option="client")
    return Bench(client, capabilities_of(imitate))


class Bench:
    """What a test sees of its client. Made by `bench`; what it recorded can still be read after it was left."""

    def __init__(self, client: Ductape, capabilities: Capabilities) -> None:
        """Describe a bench; entering it opens the client."""
        self._client = client
        self._brokers = Brokers(capabilities, self._seen)
        self._watch = Watch(self._now)
        self._sent: list[Sent] = []
        self._events: set[str] = set()
        self._tags: set[str] = set()
        self._groups: dict[str, set[str]] = {}
        self._clock: VirtualClock | None = None
        self._engine: Engine | None = None
        self._pace: Pace | None = None
        self._impatient = 0.0
        self._stack = contextlib.AsyncExitStack()
        self._open = False

    # -- life

    async def __aenter__(self) -> Bench:
        if self._clock is not None:
            raise StateError("ALREADY_OPEN", "this bench was used: make another with bench(client).")
        client = self._client
        async with self._stack:
            clock = VirtualClock()
            self._stack.enter_context(
                client.override(
                    adapter=lambda _: BenchAdapter(self._brokers), clock=lambda: clock, watch=self._watch.around
                )
            )
            self._clock = clock
            self._pace = Pace(clock, self._waits, self._patient)
            self._stack.push_async_callback(self._end, self._pace)
            await client.open()
            await self._learn()
            self._open = True
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _end(self, pace: Pace) -> None:
        """Close the client. Time runs meanwhile: that a client closes is what the pace waits for, too."""
        self._remember()
        self._open = False
        try:
            await self._client.close()
        finally:
            await pace.stop()
            await self._virtual.quiet()  # tasks that were told to end do so in the next turns

    # -- time

    @property
    def elapsed(self) -> float:
        """Seconds of virtual time since the bench opened."""
        return self._now()

    @property
    def clock(self) -> VirtualClock:
        """The clock of client and brokers."""
        return self._virtual

    async def settled(self, *, within: float = 86_400.0, patience: float = 10.0) -> None:
        """Wait until nothing is queued, running, parked, being moved or settled; time jumps to each next due moment.

        A handler that runs is waited for in real time. What a paused subscription holds is not waited for.

        Args:
            within: Seconds of virtual time that may pass.
            patience: Seconds of real time that may pass.

        Raises:
            AssertionError: Something is left then; the text says what, and why.
            StateError: ``CLOSED``: outside of the bench.
        """
        pace, clock = self._opened("settled"), self._virtual
        loop = asyncio.get_running_loop()
        end, give_up = clock.now() + within, loop.time() + patience
        with pace.held():
            await self._learn()
            while True:
                calm = await clock.quiet(give_up)
                self._remember()
                left = look(self._client.engine, self._brokers)
                if calm and not left.any:
                    return
                due = clock.due
                if loop.time() > give_up:
                    why = "handlers still run" if left.running else "there is always something to do"
                    raise self._unsettled(f"after {patience:g} s of real time {why}")
                if left.running and not left.calling:
                    await asyncio.sleep(_NAP)
                elif due is None:
                    raise self._unsettled("nothing is due any more")
                elif due > end:
                    raise self._unsettled(f"{within:g} s of virtual time are not enough")
                else:
                    clock.jump()

    async def advance(self, seconds: float) -> None:
        """Move time by hand, and run what falls due on the way. Handlers that run are not waited for.

        Args:
            seconds: How far, in virtual time.

        Raises:
            ValueError: It is negative.
            StateError: ``CLOSED``: outside of the bench.
        """
        with self._opened("advance").held():
            await self._virtual.advance(seconds)
            self._remember()

    # -- failing

    def fail(
        self,
        handler: Handler,
        error: Cause,
        *,
        times: int | None = 1,
        when: Callable[[Any], object] | None = None,
    ) -> Failing:
        """Let a handler raise instead of running.

        Args:
            handler: A function that is subscribed, with the decorator or as a callback.
            error: A class of exceptions, an exception, or a function that returns one.
            times: How many calls fail; None: every one.
            when: Takes the `Event` (a batch handler's list of them): only calls for which it is true fail.

        Returns:
            What can `end` it.

        Raises:
            ConfigError: ``OPTION_INVALID``: the handler is not subscribed, or this cannot be raised.
        """
        self._check_handler(handler, "fail")
        failing = Failing(handler, error, times, when)
        self._watch.failing.append(failing)
        return failing

    # -- looking

    def published(self, event: str) -> list[Sent]:
        """Return what was published, in the order in which it was stored.

        Raises:
            CatalogError: ``TOPIC_NOT_FOUND``.
        """
        self._check_event(event, "published")
        return [sent for sent in self._sent if sent.event == event]

    def handled(self, what: str | Handler, *, group: str | None = None) -> list[Call]:
        """Return the calls of a handler, or of every handler of an event, in the order in which they began.

        Args:
            what: An event, or a function that is subscribed.
            group: Only this group's.

        Raises:
            CatalogError: ``TOPIC_NOT_FOUND``.
            ConfigError: ``OPTION_INVALID``: the handler is not subscribed, or no such group.
        """
        if isinstance(what, str):
            self._check_event(what, "handled")
        else:
            self._check_handler(what, "handled")
        if group is not None:
            self._remember()
            self._check_group(group, "handled", set().union(*self._groups.values()))
        return [
            call
            for handler, call in self._watch.calls
            if (call.event == what if isinstance(what, str) else same(handler, what)) and group in (None, call.group)
        ]

    def dead(self, event: str, *, group: str | None = None, env: str | None = None) -> list[Letter]:
        """Return the dead letters that are stored now, the oldest first.

        Args:
            event: ``brokerTag:topicTag``.
            group: Whose; None: every group's.
            env: Another environment than the client's.

        Raises:
            CatalogError: ``TOPIC_NOT_FOUND``.
            ConfigError: ``OPTION_INVALID``: no such group subscribed.
        """
        self._check_event(event, "dead")
        self._remember()
        channel = _channel(event)
        broker = self._brokers.get(event.partition(":")[0], env or self._client.env)
        known = {name for at, purpose, name in broker.state.stores if (at, purpose) == (channel, Purpose.DEAD)}
        if group is not None and group not in known:
            self._check_group(group, "dead", self._groups.get(channel, set()))
        names = sorted(known) if group is None else [group]
        return [
            letter_of(entry, event, name, self._codecs)
            for name in names
            for entry in broker.messages(channel, name, Purpose.DEAD)
        ]

    def broker(self, tag: str, *, env: str | None = None) -> MemoryBroker:
        """Return a broker, to look inside or to let it fail: ``bench.broker("order-events").faults.restart(away=5)``.

        Args:
            tag: The broker's.
            env: Another environment than the client's.

        Raises:
            CatalogError: ``BROKER_NOT_FOUND``.
        """
        if tag not in self._tags:
            raise CatalogError(
                "BROKER_NOT_FOUND", f"bench.broker: no broker {tag!r}.{_hint(tag, self._tags)}", broker=tag
            )
        return self._brokers.get(tag, env or self._client.env)

    def __repr__(self) -> str:
        state = f"at {self.elapsed:g} s" if self._open else "not open"
        return f"<Bench of {self._client!r} {state}>"

    # -- inside

    @property
    def _virtual(self) -> VirtualClock:
        if self._clock is None:
            raise StateError("CLOSED", "the bench is not open: `async with bench(client) as b: …`.")
        return self._clock

    def _now(self) -> float:
        return self._clock.now() if self._clock is not None else 0.0

    def _opened(self, what: str) -> Pace:
        if self._pace is None or not self._open:
            raise StateError("CLOSED", f"bench.{what}: the bench is not open: `async with bench(client) as b: …`.")
        return self._pace

    def _waits(self) -> bool:
        engine = self._client.engine
        if engine is None:  # the client is closing, or was closed
            return True
        self._engine, self._impatient = engine, 0.0
        return waits(engine) or self._brokers.listing

    def _patient(self) -> bool:
        """While the client closes, handlers that run get a moment of real time; then their grace passes."""
        if self._client.engine is not None or self._engine is None or not running(self._engine):
            return False
        now = asyncio.get_running_loop().time()
        self._impatient = self._impatient or now + _HANDLERS
        return now < self._impatient

    def _unsettled(self, why: str) -> AssertionError:
        lines = [f"not settled: {why} (virtual time: {self.elapsed:g} s). Left:"]
        lines += [f"  - {line}" for line in explain(self._client.engine, self._brokers)]
        if "handlers" in why:
            lines.append("A handler that hangs ends with its timeout after bench.advance(…).")
        return AssertionError("\n".join(lines))

    async def _learn(self) -> None:
        """Read from the catalog what there is, so that a misspelt name is not taken for an empty list."""
        client = self._client
        self._tags = {broker.tag for broker in await client.broker.fetch_all()}
        self._events = {topic.tag for topic in await client.broker.topic.fetch_all()}

    def _remember(self) -> None:
        """Keep what is gone once the client closed."""
        engine = self._client.engine
        if engine is not None:
            self._engine = engine
            for _, channel, group in engine.groups:
                self._groups.setdefault(channel, set()).add(group)

    def _check_event(self, event: str, what: str) -> None:
        if event not in self._events:
            text = f"bench.{what}: no event {event!r}.{_hint(event, self._events)}"
            raise CatalogError("TOPIC_NOT_FOUND", text, event=event)

    @staticmethod
    def _check_group(group: str, what: str, known: set[str]) -> None:
        if group not in known:
            text = f"bench.{what}: no group {group!r} subscribes to it.{_hint(group, known)}"
            raise ConfigError("OPTION_INVALID", text, option="group")

    def _check_handler(self, handler: object, what: str) -> None:
        known = [*self._watch.handlers, *(each.handler for each in self._client._declarations)]
        if not callable(handler) or not any(same(handler, each) for each in known):
            names = ", ".join(dict.fromkeys(getattr(each, "__qualname__", repr(each)) for each in known)) or "none"
            text = f"bench.{what}: {handler!r} is not subscribed. Those are: {names}."
            raise ConfigError("OPTION_INVALID", text, option="handler")

    def _seen(self, record: Outgoing) -> None:
        sent = sent_of(record, self.elapsed, self._codecs)
        self._events.add(sent.event)
        self._sent.append(sent)

    @property
    def _codecs(self) -> Codecs | None:
        engine = self._client.engine or self._engine
        return engine.settings.codecs if engine is not None else None


def _channel(event: str) -> str:
    """The channel of an event. Configs are not read, so it is always the derived one."""
    return event.replace(":", ".", 1)


def _hint(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    return nearest(name, names) or f" There is {', '.join(map(repr, names)) or 'none'}."
