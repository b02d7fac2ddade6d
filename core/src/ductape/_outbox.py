"""Publishing to one channel: records wait in lanes, and leave together while a call is under way.

A lone record leaves in the same turn of the loop; while its call is in flight others gather, and leave with the next.
A key always takes the same lane, and a lane makes one call at a time: so order, resends in place and coalescing are one
structure.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from itertools import islice
from math import inf

import msgspec

from ._bounds import Backoff, Bounds, wait_until
from ._headers import EVENT
from ._records import Outgoing, Stored
from ._sending import LONGEST_BACKOFF, Answers, Keeper, Lane, Pending
from .adapter import Sender
from .errors import AdapterError, Fault, Overloaded, PublishError

log = logging.getLogger("ductape.outbox")

SWEEP = 1.0
"""Seconds between looks at deadlines; nearer ones get a timer of their own."""


class Pressure(msgspec.Struct, frozen=True, kw_only=True):
    """How much may wait to be stored on one channel before publishing waits."""

    messages: int = 10_000
    bytes: int = 32 * 1024 * 1024


class Outbox:
    """Stores records on one channel, through a sender that is opened again when it breaks."""

    def __init__(
        self,
        name: str,
        open_sender: Callable[[], Awaitable[Sender]],
        declare: Callable[[], Awaitable[object]],
        bounds: Bounds,
        pressure: Pressure,
    ) -> None:
        self.name = name
        self.keeper = Keeper(open_sender, declare, bounds)
        self.clock = bounds.clock
        self.stored = self.failed = self.pending = self.pending_bytes = 0
        self.error: AdapterError | None = None
        """Why the last call failed; None once one went well."""
        self._loop = asyncio.get_running_loop()
        self._new_future = partial(asyncio.Future, loop=self._loop)  # `create_future` without its frame
        self._pressure = pressure
        self._lanes: list[Lane] = []
        self._calls = 1
        """The first so many lanes are for keys; the others are the broker's own."""
        self._own: dict[Hashable, Lane] | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._entering = 0
        """Callers that are being admitted."""
        self._emptied: asyncio.Future[None] | None = None
        self._closed = False
        self.open = False
        """A record can be put at once."""
        self._only: Lane | None = None
        self._swept = inf
        """When the sweep after the next is; infinite while nothing waits."""

    async def publish(self, record: Outgoing, deadline: float) -> Stored:
        """Store a record before `deadline`.

        Raises:
            PublishError: It was not confirmed; `stored` says whether it may be stored.
            Overloaded: It found no room before its deadline.
        """
        if not self.open:
            await self.admit(deadline, record.headers.get(EVENT, self.name))
        return await self.put(record, deadline)

    async def admit(self, deadline: float, event: str) -> None:
        """Wait until a record may be put: the sender is open, and there is room. Errors name the event."""
        self._entering += 1
        try:
            if not self._lanes:
                await self._open(deadline, event)
            if self._waiters or self._full:
                await self._room(deadline, event)
        finally:
            self._entering -= 1
            self._loop.call_soon(self._let_in)  # a caller that does not put after all leaves its place to the next

    def put(self, record: Outgoing, deadline: float) -> asyncio.Future[Stored]:
        """Queue a record that was admitted; the future brings the broker's answer, or a `PublishError`."""
        lane = self._only if self._only is not None else self._choose(record)
        future: asyncio.Future[Stored] = self._new_future()
        item = Pending(record, future, deadline)
        self.pending += 1
        self.pending_bytes += record.size
        if self.pending >= self._pressure.messages or self.pending_bytes >= self._pressure.bytes:  # `_full`
            self.open = False
        lane.queue.append(item)
        if not lane.busy:
            lane.kick()
        if deadline < self._swept:  # before the sweep after the next
            self._attend(item)
        return future

    def _attend(self, item: Pending) -> None:
        """See that a record's deadline is looked at: by the sweep, and by a timer of its own if it is near."""
        now = self.clock.now()
        if self._swept == inf:
            self._swept = now + 2 * SWEEP
            self.clock.call_later(SWEEP, self._sweep)
        if item.deadline < self._swept:
            self.clock.call_later(item.deadline - now, self._expire_one, item)

    def _choose(self, record: Outgoing) -> Lane:
        if self._own is not None and self.keeper.last is not None:
            own = self.keeper.last.lane(record)
            if own is not None:
                lane = self._own.get(own)
                if lane is None:
                    lane = self._own[own] = self._lane()
                    self._lanes.append(lane)
                return lane
        if record.key is not None:
            return self._lanes[hash(record.key) % self._calls]
        full, first = self.keeper.limits.records, self._lanes[0]
        if len(first.queue) < full:  # keyless records fill one batch after the other: calls cost more
            return first
        return next((lane for lane in self._lanes[1 : self._calls] if len(lane.queue) < full), first)

    def _lane(self) -> Lane:
        return Lane(self.keeper, self._resolve, lambda item: self._left(1, item.record.size))

    # -- pressure

    @property
    def _full(self) -> bool:
        return self.pending >= self._pressure.messages or self.pending_bytes >= self._pressure.bytes

    async def _room(self, deadline: float, event: str) -> None:
        """Wait for room, first come first served: nobody overtakes a caller that was let in and has not put yet."""
        waiter: asyncio.Future[None] = self._new_future()
        self._waiters.append(waiter)
        self.open = False
        try:
            while (in_time := await wait_until(waiter, self.clock, deadline)) and self._full and not self._closed:
                place = self._waiters.index(waiter)  # those before it filled the room: it keeps its place
                waiter = self._waiters[place] = self._new_future()
        finally:
            self._waiters.remove(waiter)
        if self._closed:
            raise self._not_open("PUBLISH_FAILED", event, None)
        if in_time:
            return
        self.failed += 1
        last = f" The last answer was: {self.error.text}." if self.error is not None else ""
        text = (
            f"{event}: {self.pending} messages ({self.pending_bytes} bytes) wait to be stored, and none left in "
            f"time.{last} Publish less at a time, or give Ductape(max_pending=…) a higher bound."
        )
        raise Overloaded("OVERLOADED", text, stored="no")

    def _left(self, number: int, size: int) -> None:
        """Count items off, and let callers in."""
        self.pending -= number
        self.pending_bytes -= size
        self._let_in(number)

    def _let_in(self, number: int = 1) -> None:
        """Let in so many of those that wait for room, if there is any, first come first; see whether all is done."""
        if self._waiters and not self._full:
            for waiter in islice(self._waiters, min(number, self._pressure.messages - self.pending)):
                if not waiter.done():
                    waiter.set_result(None)
        self.open = bool(self._lanes) and not self._waiters and not self._full
        if self._emptied is not None and not (self.pending or self._entering) and not self._emptied.done():
            self._emptied.set_result(None)

    # -- answers: what lanes call, once a batch

    def _resolve(self, batch: Sequence[Pending], answers: Answers) -> list[Pending]:
        """Answer the callers; return what is to be sent again."""
        again: list[Pending] = []
        size = refused = 0
        error: AdapterError | None = None
        for item, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Stored):
                if not item.future.done():
                    item.future.set_result(answer)
            else:
                item.error = answer
                error = answer if answer.fault is not Fault.MESSAGE else error  # the record's fault, not the channel's
                if answer.fault in (Fault.MESSAGE, Fault.CONFIG):
                    refused += 1
                    self._fail(item, "PUBLISH_FAILED", "the broker refused it")
                else:
                    item.ambiguous |= answer.fault is Fault.AMBIGUOUS
                    again.append(item)
                    continue
            size += item.record.size
        self.error = error
        self.stored += len(batch) - len(again) - refused
        self._left(len(batch) - len(again), size)
        return again

    def _fail(self, item: Pending, code: str, why: str) -> None:
        """Tell a caller that its message is not confirmed."""
        if item.future.done():
            return
        self.failed += 1
        stored, hint = "no", "It is not stored."
        if item.ambiguous:
            stored, hint = "maybe", f"It may be stored: publish it again with id={item.record.id!r}."
        cause = f": {item.error.text}" if item.error is not None else ""
        event = item.record.headers.get(EVENT, self.name)
        error = PublishError(code, f"{event}: {why}{cause}. {hint}", stored=stored, id=item.record.id)
        error.__cause__ = item.error
        item.future.set_exception(error)

    # -- deadlines

    def _sweep(self) -> None:
        now = self.clock.now()
        for lane in self._lanes:
            for item in lane.flight:
                if item.deadline <= now:
                    self._expire(item, lane.calling)
            for item in lane.queue:
                if item.deadline <= now:
                    self._expire(item, False)
        self._swept = inf
        if self.pending:
            self._swept = now + 2 * SWEEP
            self.clock.call_later(SWEEP, self._sweep)

    def _expire_one(self, item: Pending) -> None:
        if not item.future.done():
            flights = (lane.flight for lane in self._lanes if lane.calling)
            self._expire(item, any(item is each for flight in flights for each in flight))

    def _expire(self, item: Pending, calling: bool) -> None:
        item.ambiguous |= calling
        item.error = item.error or self.error or self.keeper.error
        self._fail(item, "PUBLISH_TIMEOUT", "not confirmed within its deadline")

    # -- life

    async def _open(self, deadline: float, event: str) -> None:
        """Open for the first publish, again and again until its deadline; the sender's limits make the lanes."""
        backoff = Backoff(longest=LONGEST_BACKOFF)
        while not self._lanes:
            if self._closed:
                raise self._not_open("PUBLISH_FAILED", event, None)
            opening = self.keeper.open()
            if not await wait_until(opening, self.clock, deadline):
                raise self._not_open("PUBLISH_TIMEOUT", event, self.keeper.error)
            error = None if opening.cancelled() else opening.exception()
            if error is None and self.keeper.sender is not None:
                self._build(self.keeper.sender)
            elif not isinstance(error, AdapterError) or error.fault is Fault.CONFIG:
                raise self._not_open("PUBLISH_FAILED", event, error)
            elif (delay := backoff.failed()) >= (left := deadline - self.clock.now()):
                raise self._not_open("PUBLISH_TIMEOUT", event, error)
            else:
                if self.error is None:  # those who wait are told once
                    self.error = error
                    log.warning("%s: %s; trying for another %.0f s.%s", event, error.text, left, error.advice)
                await self.clock.sleep(delay)

    def _build(self, sender: Sender) -> None:
        if not self._lanes:
            calls = self._calls = max(1, sender.limits.calls)
            self._lanes = [self._lane() for _ in range(calls)]
            if type(sender).lane is not Sender.lane:
                self._own, self.keeper.slots = {}, asyncio.Semaphore(calls)
            elif calls == 1:
                self._only = self._lanes[0]
            self.open, self.error = True, None

    def _not_open(self, code: str, event: str, error: BaseException | None) -> PublishError:
        self.failed += 1
        why = getattr(error, "text", error) or ("the client was closed" if self._closed else "no answer")
        text = f"{event}: cannot open for publishing: {why}. It is not stored.{getattr(error, 'advice', '')}"
        failed = PublishError(code, text, stored="no")
        failed.__cause__ = error
        return failed

    async def close(self, seconds: float) -> None:
        """Let what waits be stored, for at most `seconds`; fail the rest; close the sender."""
        if self.pending or self._entering:
            self._emptied = self._new_future()
            await wait_until(self._emptied, self.clock, self.clock.now() + seconds)
        lanes, self._lanes, self._closed, self.open = self._lanes, [], True, False
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        for lane in lanes:
            for item in lane.flight:
                item.ambiguous |= lane.calling
            for item in (*lane.flight, *lane.queue):
                self._fail(item, "PUBLISH_FAILED", "the client was closed before it was confirmed")
            lane.queue.clear()
            lane.stop()
        self.pending = self.pending_bytes = 0
        await self.keeper.close()

    def __repr__(self) -> str:
        return f"<Outbox {self.name} pending={self.pending} stored={self.stored} failed={self.failed}>"
