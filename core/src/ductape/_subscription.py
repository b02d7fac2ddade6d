"""One handler of one event in one group: what happens to a message between its arrival and its settlement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf

import msgspec

from . import _headers as h
from ._clock import Clock, Timer
from ._codec import Unreadable
from ._event import Event
from ._lanes import MOVING, PARKED, RUNNING, Item
from ._middleware import SubscriberSite
from ._moves import Moves
from ._options import SubscribeOptions
from ._records import Delivery, Purpose, Verdict
from ._reports import Reports
from ._retry import Attempt, Step, attempt_of, decide, hold
from ._workers import Handle, Release, Workers
from .adapter import Count, Order
from .errors import DuctapeError

REMEMBERED = 10_000
"""Messages of which it is known how often they failed here."""

log = logging.getLogger("ductape.subscription")


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscription is made of."""

    event: str
    site: SubscriberSite
    options: SubscribeOptions
    order: Order
    handle: Handle
    moves: Moves | None
    """None: the channel is lossy, and keeps neither retries nor dead letters."""
    clock: Clock
    moved: Sequence[Callable[..., None]]
    """Middleware that observes moves."""
    closing: Callable[[Subscription], Awaitable[None]]
    """Takes the subscription out of its group."""
    pausing: Callable[[], None]
    """Told when it pauses or resumes."""
    halt: Callable[[DuctapeError], None]
    """Ends receiving: the policy says stop."""


class Subscription:
    """A handler that receives one event in one group, until it is closed.

    Returned by ``event.subscribe(…, callback=…)`` once the group is joined.
    """

    def __init__(self, parts: Parts) -> None:
        """Assemble a subscription. For the kernel."""
        self.event, self.site, self.options = parts.event, parts.site, parts.options
        self.received = self.skipped = self.dropped = self.dead = self.retried = 0
        self.paused = self._stopped = False
        self.ended: asyncio.Future[DuctapeError | None] = asyncio.get_running_loop().create_future()
        """Done when it ended, with the reason if it ended by itself."""
        self._parts, self._clock, self._moves = parts, parts.clock, parts.moves
        self._retry = parts.options.retry
        self._reports = Reports(parts.event, parts.site.group, parts.clock)
        outcome = self._outcome if parts.options.batch == 1 else self._outcomes
        self._workers = Workers(parts.handle, outcome, parts.options, parts.clock)
        self._lanes = self._workers.lanes
        self._failures: dict[str, int] = {}
        self._alarm: Timer | None = None
        self._alarm_at = 0.0

    # -- in

    def take(self, item: Item) -> None:
        """Queue an arrival, bury it, or keep it until it is due."""
        delivery = item.delivery
        headers = delivery.headers
        self.received += 1
        count = delivery.count
        due = 0.0
        if (count is not None and count != 1) or delivery.failed or delivery.due is not None or h.ATTEMPT in headers:
            due = self._assess(item)
        if delivery.error:
            self._poison(item, delivery.error)
            return
        if item.state == MOVING:
            return
        if self._parts.order is not Order.NONE:
            item.lane = self._lane(delivery)
            if item.lane is not None and self._lanes.put(item):
                return
        if due > 0.0:
            self._wait(item, due)
        else:
            self._lanes.ready(item)

    def _assess(self, item: Item) -> float:
        """Tell attempt and remaining delay of a message with a history; a crash loop is buried here."""
        delivery = item.delivery
        carried, not_before = _number(delivery, h.ATTEMPT), _number(delivery, h.NOT_BEFORE)
        attempt: Attempt = attempt_of(
            item.source.can, int(carried), delivery.failed, delivery.count, self._retry.attempts
        )
        # What was parked after it failed raised no count of the broker's.
        item.attempt = max(attempt.number, self._failures.get(_identity(delivery), 0) + 1)
        item.certain = attempt.certain
        if attempt.crash_loop and self._moves is not None and not delivery.error:
            self._bury(item, "crash-loop", f"delivered {delivery.count} times without an outcome")
        return max(not_before, delivery.due or 0.0) - self._clock.time()

    def _lane(self, delivery: Delivery) -> str | None:
        if self._parts.order is Order.TOTAL:
            return ""
        return delivery.lane if delivery.lane is not None else delivery.key

    def _wait(self, item: Item, due: float) -> None:
        """Keep an arrival that is not due yet: here, or, if that is long, by the broker."""
        can = item.source.can
        if item.lane is None and can.count is Count.APPROXIMATE and can.retry_delay and due > hold(can):
            item.source.settle(item, Verdict.RETRY, min(due, can.retry_delay))
        else:
            self._park(item, due)

    # -- out

    def _outcome(self, items: Sequence[Item], failure: BaseException | None) -> None:
        """Settle what a handler finished, or decide about what it failed."""
        if failure is None:
            for item in items:
                if item.state == RUNNING:
                    item.source.settle(item, Verdict.ACK)
                    if item.lane is not None:
                        self._lanes.finished(item)
        elif isinstance(failure, Unreadable):
            self._poison(items[0], str(failure))
        elif isinstance(failure, Release):
            for item in items:
                self._release(item)
        else:
            for item in items:
                if item.state == RUNNING:
                    self._failed(item, failure)

    def _outcomes(self, items: Sequence[Item], failure: BaseException | None) -> None:
        """The same for a batch, of which some may have failed apart from the others."""
        for item in items:
            apart, item.failure = item.failure, None
            self._outcome((item,), apart or failure)

    def _release(self, item: Item) -> None:
        """Give an item back, and with it, in order, what waits behind it: nothing of its key may overtake it."""
        item.source.settle(item, Verdict.RELEASE)
        if item.lane is not None:
            for each in reversed(list(self._lanes.behind(item))):
                self._lanes.drop(each)
                each.source.settle(each, Verdict.RELEASE)
            self._lanes.finished(item)

    def _failed(self, item: Item, error: BaseException) -> None:
        delivery = item.delivery
        self._workers.failed += 1
        enough = self._failed_here(delivery) >= 2 or item.certain
        decision = decide(
            self._retry, item.source.can, item.attempt, enough=enough, ordered=item.lane is not None, error=error
        )
        id, attempt = _identity(delivery), f"{item.attempt} of {self._retry.attempts}"
        self._reports.failed(error, id, attempt, decision.step, decision.delay)
        if decision.step is Step.BURY:
            self._failures.pop(id, None)  # a replay begins anew
            self._bury(item, decision.reason, error)
            return
        delivery.failed += 1
        delivery.due = self._clock.time() + decision.delay
        if decision.step is Step.SETTLE:
            item.source.settle(item, Verdict.RETRY, decision.delay)
        elif decision.step is Step.MOVE and self._moves is not None:
            self._moves.later(item, decision.delay)
        else:
            item.attempt += 1
            self._park(item, decision.delay)
            item.source.noted(item)
            if item.lane is not None:
                self._shorten(item)

    def _failed_here(self, delivery: Delivery) -> int:
        """Count a message's failures in this process: a broker's count also rises by hand-backs."""
        id = _identity(delivery)
        failures = self._failures.pop(id, 0) + 1
        self._failures[id] = failures
        if len(self._failures) > REMEMBERED:
            del self._failures[next(iter(self._failures))]
        return failures

    def _shorten(self, head: Item) -> None:
        """A waiting key keeps an eighth of the window at most, where the broker holds the rest back by itself."""
        if not head.source.can.order_locks:
            return
        behind = list(self._lanes.behind(head))
        for item in behind[: max(0, len(behind) - self.options.window(head.source.can) // 8)]:
            self._lanes.drop(item)
            item.source.settle(item, Verdict.RELEASE)

    def _bury(self, item: Item, reason: str, error: BaseException | str) -> None:
        if self._moves is not None:
            told = f"{reason} after {item.attempt}" if reason == "exhausted" else reason
            self._reports.buried(error, _identity(item.delivery), told)
            self._moves.bury(item, reason, error)
            return
        self.dropped += 1
        log.error("%s: dropped a message (%s): the channel keeps no dead letters", self, reason)
        item.source.settle(item, Verdict.ACK)
        self._lanes.finished(item)

    def _poison(self, item: Item, why: str) -> None:
        """A body or header that cannot be read: no handler runs, and no attempt is spent."""
        policy = self.options.on_poison
        if policy == "dead_letter":
            self._bury(item, "unreadable", why)
        elif policy == "drop":
            self.dropped += 1
            item.source.settle(item, Verdict.ACK)
            self._lanes.finished(item)
        else:
            item.source.settle(item, Verdict.RELEASE)
            where = f"{self.event} in group {self.site.group}: {item.delivery.position}"
            self._parts.halt(
                Unreadable("PAYLOAD_UNREADABLE", f"{where}: {why}. on_poison='stop' ended the subscription.")
            )

    def moved(self, item: Item, where: str, reason: str) -> None:
        """A move ended: the next of its key may start."""
        self._lanes.finished(item)
        if where == Purpose.DEAD.value:
            self.dead += 1
        elif where:
            self.retried += 1
        if where and self._parts.moved:
            event: Event[object] = Event(self.event, self.site.group, item.attempt, None, item.delivery)
            for observe in self._parts.moved:
                observe(event, where, reason, self.site)

    # -- parked

    def _park(self, item: Item, delay: float) -> None:
        until = self._clock.now() + delay
        self._lanes.park(item, until)
        if self._alarm is None or until < self._alarm_at:
            self._set_alarm(until)

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._clock.call_later(max(0.0, at - self._clock.now()), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        following = self._lanes.ripen(self._clock.now())
        if following is not None:
            self._set_alarm(following)

    def drop(self, item: Item) -> None:
        """Forget an item that has not started: its epoch ended, or its lease is somebody else's."""
        self._lanes.drop(item)

    # -- the ordered end, driven by the group

    def begin_stop(self, failure: DuctapeError | None = None) -> None:
        """Start nothing more; a failure says why it ended by itself."""
        if failure is not None and not self.ended.done():
            self.ended.set_result(failure)
        self._workers.pause()
        if self._alarm is not None:
            self._alarm.cancel()

    def hand_back(self, item: Item) -> None:
        """Give back an item that has not started; a parked retry keeps what is left of its delay."""
        left = self._lanes.due(item) - self._clock.now() if item.state == PARKED else 0.0
        can = item.source.can
        if left <= 0.0:
            item.source.settle(item, Verdict.RELEASE)
        elif item.lane is None and can.retry_delay and left <= can.retry_delay and can.count.value:
            item.source.settle(item, Verdict.RETRY, max(left, can.retry_step))
        elif item.lane is None and self._moves is not None:
            item.attempt -= 1  # the copy carries attempts that were made; this one was not
            self._moves.later(item, left)
        else:
            item.source.settle(item, Verdict.RELEASE)

    async def finish(self, seconds: float) -> bool:
        """Wait for running handlers, for at most `seconds`; tell whether all ended."""
        return await self._workers.calm(seconds)

    async def end(self) -> None:
        """End the workers, with whatever still runs."""
        if not self.ended.done():
            self.ended.set_result(None)
        await self._workers.stop()

    # -- for applications

    def pause(self) -> None:
        """Start no handler and, once all of its group in this client are paused, receive nothing."""
        self.paused = True
        self._workers.pause()
        self._parts.pausing()

    def resume(self) -> None:
        """Go on after `pause`; not after the subscription was stopped."""
        if self._stopped:
            return
        self.paused = False
        self._parts.pausing()
        self._workers.resume()

    async def close(self) -> None:
        """Stop in order: start nothing more, let handlers finish, hand the rest back, settle, leave the group.

        If other subscriptions of a named group go on in this client, its event is one that they do not handle: see
        ``on_unmatched``.
        """
        await self._parts.closing(self)

    def stats(self) -> Mapping[str, float]:
        """Return counters since it opened, and what is in hand now."""
        moves = self._moves
        return {
            "received": self.received,
            "handled": self._workers.handled,
            "failed": self._workers.failed,
            "skipped": self.skipped,
            "dropped": self.dropped,
            "dead": self.dead,
            "retried": self.retried,
            "running": self._workers.running,
            "moving": moves.running if moves is not None else 0,
            "queued": self._lanes.queued,
            "parked": self._lanes.parked,
        }

    @property
    def moves(self) -> Moves | None:
        """Where its failed messages go."""
        return self._moves

    def __repr__(self) -> str:
        state = " paused" if self.paused else ""
        return f"<Subscription {self.event} group={self.site.group}{state} running={self._workers.running}>"


def _identity(delivery: Delivery) -> str:
    """What tells a message from others, in every delivery of it."""
    return delivery.headers.get(h.ID) or delivery.position


def _number(delivery: Delivery, header: str) -> float:
    """A number that ductape wrote into a header; what is none counts as 0."""
    text = delivery.headers.get(header)
    if text is None:
        return 0.0
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if 0.0 <= number < inf else 0.0
