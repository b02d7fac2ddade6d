"""All subscriptions of one client to one group on one channel: they share receivers, and the event's name picks one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from . import _headers as h
from ._bounds import CLOSE, Bounds
from ._capabilities import Capabilities, Groups, Order
from ._intake import Source
from ._lanes import LANED, MOVING, PARKED, READY, RUNNING, Item
from ._middleware import SubscriberSite, observers
from ._moves import Moves
from ._options import Unmatched
from ._places import Place
from ._records import Channel, Delivery, Intake, Purpose, Settlement, Verdict
from ._subscription import Subscription
from .errors import AdapterError, DuctapeError, OpenError, StateError

LAG = 2.0
"""Seconds for which the lag may be asked for."""

log = logging.getLogger("ductape.group")


class GroupPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a group is made of."""

    place: Place
    group: str
    derived: bool
    """The group is one topic's own cursor: other events of the channel are skipped."""
    order: Order
    start: str | None
    moves: Moves | None
    middleware: Sequence[object]
    bounds: Bounds
    halted: Callable[[DuctapeError], None]
    """Told why it stopped by itself."""
    emptied: Callable[[Group], None]
    """Told when its last subscription left."""


class Group:
    """Opens the receivers, routes what they bring, and ends everything in order."""

    def __init__(self, plan: GroupPlan) -> None:
        """Describe a group; `open` joins it."""
        self.plan, self.name = plan, plan.group
        self.subscriptions: dict[str, Subscription] = {}
        self.sources: list[Source] = []
        self.failure: DuctapeError | None = None
        """Why it stopped by itself; None while it goes on."""
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once its receivers are open."""
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopping = False
        self._warned: set[str] = set()
        self._received = observers(plan.middleware, "received")

    # -- life

    async def open(self, window: int, can: Capabilities) -> None:
        """Join the group: its events, and its own way back.

        Raises:
            AdapterError: It cannot be joined now.
        """
        if self.stopping:
            raise StateError("CLOSED", f"group {self.name!r} was closed while it was opened.")
        place = self.plan.place
        retry = max(1, window // 8) if self.plan.moves is not None and not can.retry_joins else 0
        self.sources = [self._source(place.channel, max(1, window - retry))]
        if retry:
            self.sources.append(self._source(place.private(Purpose.RETRY, self.name), retry))
        try:
            await asyncio.gather(*(source.start() for source in self.sources))
        except BaseException:
            await asyncio.gather(*(source.close(0.0) for source in self.sources))
            raise
        for source in self.sources:
            source.gave_up = self._gave_up

    def _source(self, channel: Channel, window: int) -> Source:
        plan, link = self.plan, self.plan.place.link
        events = channel.purpose is Purpose.EVENTS
        groups = tuple(dict.fromkeys((*plan.place.groups, self.name)))
        start = plan.start if events else "earliest"
        order = plan.order if events else Order.NONE
        intake = Intake(group=self.name, window=window, order=order, start=start)
        opening = partial(link.open_receiver, channel, groups, intake)
        name = f"{channel.name}/{self.name}" + ("" if events else "/retry")
        return Source(name, opening, self._take, window, plan.bounds, link.backoff(), self._observed())

    def _gave_up(self, error: AdapterError) -> None:
        failure = OpenError("SUBSCRIBE_FAILED", f"group {self.name!r}: gave up reconnecting: {error.text}.")
        failure.__cause__ = error
        self.halt(failure)

    def halt(self, failure: DuctapeError) -> None:
        """Receive nothing more: a policy says stop, or reconnecting was given up. `serve` ends with the failure."""
        self.failure = failure
        for source in self.sources:
            source.paused = True
        for subscription in self.subscriptions.values():
            subscription.begin_stop(failure)
        self._hand_back(list(self.subscriptions.values()), (READY, PARKED), lanes=False)
        log.error("group %s stopped: %s", self.name, failure)
        self.plan.halted(failure)

    # -- subscriptions

    def add(self, subscription: Subscription) -> None:
        """Route an event to a subscription.

        Raises:
            StateError: ``ALREADY_SUBSCRIBED``: the event has a handler in this group.
        """
        if subscription.event in self.subscriptions:
            text = f"event {subscription.event!r} already has a handler in group {self.name!r} of this client. "
            raise StateError(
                "ALREADY_SUBSCRIBED", text + "Give one of them another group, or call both from one handler."
            )
        self.subscriptions[subscription.event] = subscription

    def pausing(self) -> None:
        """Receive only while a subscription wants messages."""
        paused = all(each.paused for each in self.subscriptions.values())
        for source in self.sources:
            if paused:
                source.paused = True
            elif source.paused and self.failure is None:
                source.resume()

    # -- in

    def _take(self, source: Source, deliveries: Sequence[Delivery]) -> None:
        for observe in self._received:
            observe(deliveries, self._site)
        hold = source.hold
        only = next(iter(self.subscriptions.values())) if len(self.subscriptions) == 1 else None
        for delivery in deliveries:
            event = delivery.headers.get(h.EVENT)
            subscription = only if only is not None and event == only.event else self._match(event)
            holder = subscription if subscription is not None else _NOBODY
            item = Item(delivery, source, holder)
            hold(item)
            if self.stopping:
                source.settle(item, Verdict.RELEASE)
            elif subscription is None:
                self._unmatched(item, event)
            else:
                subscription.take(item)
        source.arrived()

    def _match(self, event: str | None) -> Subscription | None:
        """The subscription of an event; one without a name (a foreign producer's) goes to the channel's only topic."""
        if event is not None:
            return self.subscriptions.get(event)
        if len(self.subscriptions) == 1 and self.plan.place.alone:
            return next(iter(self.subscriptions.values()))
        return None

    def _unmatched(self, item: Item, event: str | None) -> None:
        can = item.source.can
        if self.plan.derived and event is not None and can.groups is not Groups.ONE:
            for subscription in self.subscriptions.values():
                subscription.skipped += 1
            item.source.settle(item, Verdict.ACK)
            return
        policy: Unmatched = next((each.options.on_unmatched for each in self.subscriptions.values()), "dead_letter")
        label = event or "a message without an event's name"
        if label not in self._warned:
            self._warned.add(label)
            log.warning(
                "group %s received %s, which nothing here handles: all processes of a group must handle the same. "
                "Give it a group of its own, or set on_unmatched. It goes to: %s",
                self.name,
                label,
                policy,
            )
        if policy == "ignore" or (policy == "dead_letter" and self.plan.moves is None):
            item.source.settle(item, Verdict.ACK)
        elif policy == "dead_letter" and self.plan.moves is not None:
            self.plan.moves.bury(item, "unmatched", f"no handler for {label} in group {self.name}")
        else:
            item.source.settle(item, Verdict.RELEASE)
            self.halt(
                OpenError("SUBSCRIBE_FAILED", f"group {self.name!r} received {label}; on_unmatched='stop' ended it.")
            )

    # -- observers

    @property
    def _site(self) -> SubscriberSite:
        """Where observers of a batch are told to be: the group's, and that of its first subscription."""
        return next(iter(self.subscriptions.values())).site

    def _observed(self) -> Callable[[Sequence[Settlement], float], None] | None:
        found = observers(self.plan.middleware, "settled")
        if not found:
            return None

        def observe(settlements: Sequence[Settlement], seconds: float) -> None:
            if self.subscriptions:
                for each in found:
                    each(settlements, seconds, self._site)

        return observe

    def stats(self, event: str) -> Mapping[str, float]:
        """Return counters and gauges of a subscription, and ``oldest`` of the group; nothing once it has left."""
        subscription = self.subscriptions.get(event)
        return {} if subscription is None else {**subscription.stats(), "oldest": self.oldest or 0.0}

    @property
    def oldest(self) -> float | None:
        """Seconds for which the oldest delivery in hand is not settled; None: there is none."""
        return max((source.oldest for source in self.sources if source.oldest is not None), default=None)

    async def lag(self) -> int | None:
        """Ask how many messages the group was not given yet; None where the provider does not tell, or not in time."""
        measured = self.sources[0].measured if self.sources else None
        try:
            return None if measured is None else await self.plan.bounds.call(measured.lag(), LAG)
        except AdapterError:
            return None

    # -- the ordered end

    async def leave(self, subscription: Subscription, grace: float) -> None:
        """Close one subscription; the last one closes the group."""
        if self.subscriptions.get(subscription.event) is not subscription:
            return
        if len(self.subscriptions) == 1:
            await self.stop(grace)
            return
        subscription.begin_stop()
        del self.subscriptions[subscription.event]
        await self._finish([subscription], grace)
        self._hand_back([subscription], (READY, PARKED, LANED, RUNNING, MOVING), lanes=True)

    async def stop(self, grace: float) -> None:
        """Start nothing more, hand back what has not started, let handlers and moves finish, settle, close.

        Args:
            grace: Seconds for running handlers and moves; what still runs then is ended and handed back.
        """
        if self.stopping:
            await asyncio.wait({self.left})
            return
        self.stopping = True
        try:
            await self._stop(grace)
        finally:
            self.left.set_result(None)

    async def _stop(self, grace: float) -> None:
        mine = list(self.subscriptions.values())
        for subscription in mine:
            subscription.begin_stop()
        self._hand_back(mine, (READY, PARKED), lanes=False)
        await asyncio.gather(*(source.stop() for source in self.sources))
        settled = await self._finish(mine, grace)
        self._hand_back(mine, (READY, PARKED, LANED, RUNNING, MOVING), lanes=True)
        await asyncio.gather(*(source.close(CLOSE if settled else 0.0) for source in self.sources))
        self.subscriptions.clear()
        self.plan.emptied(self)

    async def _finish(self, subscriptions: Sequence[Subscription], grace: float) -> bool:
        """Wait for handlers, then for moves, which keep at least a second of the grace time; tell if all is settled."""
        clock = self.plan.bounds.clock
        end = clock.now() + grace
        calm = await asyncio.gather(*(subscription.finish(grace) for subscription in subscriptions))
        if not all(calm):
            log.warning("group %s: handlers still run after %g s; they are ended", self.name, grace)
        await asyncio.gather(*(subscription.end() for subscription in subscriptions))
        if self.plan.moves is not None:
            await self.plan.moves.calm(max(1.0, end - clock.now()), None if self.stopping else subscriptions)
        self._hand_back(subscriptions, (READY, PARKED, RUNNING), lanes=False)
        return all(await asyncio.gather(*(source.flush(CLOSE) for source in self.sources)))

    def _hand_back(self, subscriptions: Sequence[Subscription], states: Sequence[int], *, lanes: bool) -> None:
        """Give items back; those of a lane only with `lanes`: after their head is settled, and in order."""
        for source in self.sources:
            for item in [item for item in source.held if item.state in states and item.holder in subscriptions]:
                if lanes or item.lane is None:
                    subscription = next(each for each in subscriptions if each is item.holder)
                    subscription.hand_back(item)

    def __repr__(self) -> str:
        return f"<Group {self.name} on {self.plan.place.channel.name}: {', '.join(self.subscriptions) or 'closed'}>"


class _Nobody:
    """Holds what no subscription handles, until it is moved or settled; nothing waits for it."""

    def drop(self, item: Item) -> None: ...

    def moved(self, item: Item, where: str, reason: str) -> None: ...


_NOBODY = _Nobody()
