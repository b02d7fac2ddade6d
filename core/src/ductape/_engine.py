"""What runs while a client is open: links, outboxes, publishers and groups, bound to one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache, partial
from typing import Any, TypeVar

import msgspec

from ._atlas import Atlas, Settings
from ._bounds import Backoff, Bounds
from ._capabilities import Capabilities, Groups
from ._codec import Decoding, Encoding
from ._connections import Link
from ._group import Group, GroupPlan
from ._handler import Handler, Signature
from ._handling import compile_handling
from ._middleware import PublisherSite, SubscriberSite, observers, wrap
from ._moves import Moves
from ._options import SubscribeOptions, check_capabilities, order_of
from ._outbox import Outbox
from ._places import Place
from ._publisher import Publisher, closed
from ._records import Channel, Purpose
from ._subscription import Parts, Subscription
from .adapter import Order
from .errors import AdapterError, DuctapeError, Fault, OpenError, StateError

OPEN_WITHIN = 30.0
"""Seconds for which opening a subscription is tried while its broker is away."""

T = TypeVar("T")

log = logging.getLogger("ductape")


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription that is to be opened."""

    event: str
    handler: Handler
    signature: Signature
    options: SubscribeOptions


class Engine:
    """Opens what is asked for, keeps it, and closes it in order."""

    def __init__(self, settings: Settings) -> None:
        """Begin, on the running loop."""
        self.settings, self.clock = settings, settings.clock()
        self.loop = asyncio.get_running_loop()
        self.bounds = Bounds(self.clock)
        self.atlas = Atlas(settings, self.bounds)
        self.groups: dict[tuple[int, str, str], Group] = {}
        self.outboxes: dict[tuple[int, tuple[str, str, str]], Outbox] = {}
        self.closed = False
        self.declared = False
        """The client's declared subscriptions were opened."""
        self.failed: asyncio.Future[DuctapeError] = self.loop.create_future()
        """Done when a subscription ended by itself."""
        self._closing: asyncio.Task[None] | None = None
        self._publishers: dict[tuple[str, str, str | None, Any], Publisher[Any]] = {}
        self._pools: list[ThreadPoolExecutor] = []

    # -- publishing

    def outbox(self, link: Link, channel: Channel, groups: Sequence[str] = ()) -> Outbox:
        """Return the outbox of a channel."""
        key = id(link), channel.identity
        if key not in self.outboxes:
            name = channel.name if channel.purpose is Purpose.EVENTS else f"{channel.name} ({channel.purpose.value})"
            opening, declare = partial(link.open_sender, channel, groups), partial(link.prepare, channel, groups)
            self.outboxes[key] = Outbox(name, opening, declare, self.bounds, self.settings.pressure)
        return self.outboxes[key]

    async def publisher(
        self, event: str, env: str | None = None, codec: str | None = None, kind: Any = None
    ) -> Publisher[Any]:
        """Return the publisher of an event; nothing is opened before its first message."""
        self.usable()
        name = (event, env or self.settings.env, codec, kind)
        found = self._publishers.get(name)
        if found is None:
            place = await self.atlas.place(event, env)
            link, settings = place.link, self.settings
            site = PublisherSite(
                product=settings.product, env=place.env, provider=link.provider, event=event, channel=place.channel.name
            )
            found = self._publishers[name] = Publisher(
                event,
                Encoding(settings.codecs, event, content_type=codec, kind=kind or place.topic.type),
                self.outbox(link, place.channel, place.groups),
                lambda: link.known.get(place.channel.identity, link.adapter.capabilities),
                lambda send: wrap(settings.middleware, "publisher", send, site),
                settings.deadline,
                self.usable,
            )
        return found

    def usable(self) -> None:
        """Raise `StateError` if this cannot be used now, or here."""
        if self.closed:
            raise closed("publish")
        if asyncio.get_running_loop() is not self.loop:
            raise StateError(
                "WRONG_LOOP",
                "the client is open on another event loop. Open and close it on each with `async with ductape:`, or "
                "publish through ductape.sync.",
            )

    # -- subscribing

    async def subscribe(self, declarations: Sequence[Declaration]) -> list[Subscription]:
        """Open subscriptions; those of one group on one channel share its receivers.

        Raises:
            OpenError: ``CONNECT_FAILED`` or ``SUBSCRIBE_FAILED``: it could not be opened in time, or at all.
            CapabilityError: The provider cannot do what is asked for.
        """
        self.usable()
        if self._closing is not None:
            raise closed("subscribe")
        watch = self.settings.watch
        if watch is not None:
            declarations = [watch(each) for each in declarations]
        buckets: dict[tuple[int, str, str], list[tuple[Declaration, Place]]] = {}
        for each in declarations:
            place = await self.atlas.place(each.event, each.options.env)
            name = each.options.group or place.group
            buckets.setdefault((id(place.link), place.channel.name, name), []).append((each, place))
        opened = await asyncio.gather(*(self._join(key, part) for key, part in buckets.items()), return_exceptions=True)
        failed = [each for each in opened if isinstance(each, BaseException)]
        if failed:
            raise failed[0]
        return [subscription for part in opened if not isinstance(part, BaseException) for subscription in part]

    async def _join(self, key: tuple[int, str, str], part: Sequence[tuple[Declaration, Place]]) -> list[Subscription]:
        place = part[0][1]
        channel, name = key[1], key[2]
        where = f"{', '.join(each.event for each, _ in part)} in group {name!r}"
        prepared = await self._patiently(
            lambda: place.link.prepare(place.channel, (*place.groups, name), name, part[0][0].options.start),
            place.link.backoff(),
            where,
        )
        can = prepared[1]
        others = frozenset(group for link, other, group in self.groups if (link, other) == key[:2]) - {name}
        orders = [order_of(each.options, place.channel.order, each.event) for each, place in part]
        for (each, _), order in zip(part, orders, strict=True):
            at, provider = f"{each.event} in group {name!r}", place.link.provider
            check_capabilities(each.options, can, order, where=at, provider=provider, others=others)
        while (joining := self.groups.get(key)) is not None:
            await asyncio.wait({joining.left if joining.stopping else joining.joined})
            if not joining.stopping and not joining.joined.cancelled():  # else it left or failed, and this one tries
                return self._add(joining, part, orders)
        group = self.groups[key] = Group(self._plan(part[0][0], place, name, max(orders), can))
        try:
            subscriptions = self._add(group, part, orders)
            window = sum(each.options.window(can) for each, _ in part)
            await self._patiently(lambda: group.open(window, can), place.link.backoff(), where)
        except BaseException:
            self.groups.pop(key, None)
            group.joined.cancel()
            raise
        group.joined.set_result(None)
        log.info("subscribed %s on %s", where, channel)
        return subscriptions

    def _add(
        self, group: Group, part: Sequence[tuple[Declaration, Place]], orders: Sequence[Order]
    ) -> list[Subscription]:
        if max(orders) > group.plan.order:
            text = f"group {group.name!r} is open without that order; subscribe to the ordered event first, or together"
            raise StateError("ALREADY_OPEN", f"{part[0][0].event}: {text}.")
        made = [
            self._subscription(each, place, order, group) for (each, place), order in zip(part, orders, strict=True)
        ]
        for subscription in made:
            group.add(subscription)
        return made

    def _plan(self, first: Declaration, place: Place, name: str, order: Order, can: Capabilities) -> GroupPlan:
        moves = None
        if can.groups is not Groups.NONE:
            moves = Moves(name, self._derived(place, name), self.clock)
        return GroupPlan(
            place=place,
            group=name,
            derived=first.options.group is None and place.own_group,
            order=order,
            start=first.options.start,
            moves=moves,
            middleware=self.settings.middleware,
            bounds=self.bounds,
            halted=self._halted,
            emptied=self._emptied,
        )

    def _derived(self, place: Place, group: str) -> Callable[[Purpose], Awaitable[tuple[Outbox, Capabilities]]]:
        """Open the outbox of a group's DEAD or RETRY channel."""

        async def opened(purpose: Purpose) -> tuple[Outbox, Capabilities]:
            channel = place.private(purpose, group)
            can = place.link.known.get(channel.identity) or (await place.link.prepare(channel, ()))[1]
            return self.outbox(place.link, channel), can

        return opened

    def _halted(self, failure: DuctapeError) -> None:
        if not self.failed.done():
            self.failed.set_result(failure)

    async def remove(self, event: str, name: str, env: str | None) -> None:
        """Remove a group for good; raises `OpenError`, `CapabilityError` or `StateError`."""
        self.usable()
        place = await self.atlas.place(event, env)
        if (id(place.link), place.channel.name, name) in self.groups:
            raise StateError(
                "ALREADY_OPEN", f"group {name!r} of {event!r} is open here: close its subscriptions first."
            )
        try:
            await place.link.remove(msgspec.structs.replace(place.channel, group=name))
        except AdapterError as error:
            raise OpenError("CONNECT_FAILED", f"remove group {name!r} of {event!r}: {error.text}.") from error

    def _emptied(self, group: Group) -> None:
        self.groups = {key: each for key, each in self.groups.items() if each is not group}

    def _subscription(self, declaration: Declaration, place: Place, order: Order, group: Group) -> Subscription:
        settings, signature = self.settings, declaration.signature
        site = SubscriberSite(
            product=settings.product,
            env=place.env,
            provider=place.link.provider,
            event=place.event,
            channel=place.channel.name,
            group=group.name,
            batch=signature.batch,
            stats=partial(group.stats, place.event),
            lag=group.lag,
        )
        said = place.topic.type
        kind = said if signature.payload is Any and said is not None else signature.payload
        if said is not None and isinstance(kind, type) and kind not in (said, dict, bytes):
            log.warning("%s: %s reads %r, but the topic has type=%r", place.event, signature.name, kind, said)
        decoding, threads = Decoding(settings.codecs, kind), self._threads(declaration.options.concurrency)
        handle = compile_handling(
            declaration.handler, signature, decoding, settings.middleware, site, settings.sessions, threads
        )
        return Subscription(
            Parts(
                event=place.event,
                site=site,
                options=declaration.options,
                order=order,
                handle=handle,
                moves=group.plan.moves,
                clock=self.clock,
                moved=observers(settings.middleware, "moved"),
                closing=lambda each: group.leave(each, settings.grace),
                pausing=group.pausing,
                halt=group.halt,
            )
        )

    def _threads(self, number: int) -> Callable[[], Executor]:
        """Give a subscription's pool for plain functions, made with its first message: a thread for each at a time."""

        @cache
        def pool() -> Executor:
            self._pools.append(ThreadPoolExecutor(number, "ductape-handler"))
            return self._pools[-1]

        return pool

    async def _patiently(self, call: Callable[[], Awaitable[T]], backoff: Backoff, where: str) -> T:
        """Open something whose broker may be away for a moment."""
        end = self.clock.now() + OPEN_WITHIN
        while True:
            try:
                return await call()
            except AdapterError as error:
                delay = backoff.failed()
                left = end - self.clock.now()
                refused = error.fault in (Fault.CONFIG, Fault.MESSAGE)
                if refused or backoff.exhausted or delay > left:
                    code = "SUBSCRIBE_FAILED" if error.fault is Fault.CONFIG else "CONNECT_FAILED"
                    raise OpenError(code, f"{where}: {error.text}.{error.advice}") from error
                if backoff.failures == 1:
                    log.warning("%s: %s; trying for another %.0f s.%s", where, error.text, left, error.advice)
                await self.clock.sleep(delay)

    # -- the end

    async def close(self, grace: float | None = None) -> None:
        """Stop every group in order, then store what was published, then close the connections. Idempotent."""
        if self._closing is None:
            self._closing = self.loop.create_task(self._close(self.settings.grace if grace is None else grace))
        await asyncio.shield(self._closing)

    async def _close(self, seconds: float) -> None:
        await asyncio.gather(*(group.stop(seconds) for group in list(self.groups.values())))
        self.closed = True
        await asyncio.gather(*(outbox.close(max(1.0, seconds)) for outbox in self.outboxes.values()))
        await asyncio.gather(*(link.close() for link in self.atlas.links.values()))
        for pool in self._pools:
            pool.shutdown(wait=False)

    def __repr__(self) -> str:
        return f"<Engine {len(self.atlas.links)} brokers, {len(self.outboxes)} outboxes, {len(self.groups)} groups>"
