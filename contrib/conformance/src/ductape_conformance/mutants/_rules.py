"""Kernels that break one of the rules that trials on real servers taught."""

from __future__ import annotations

from typing import Any

import msgspec

from ductape import _headers as h
from ductape.adapter import AdapterError, Fault, Order, Purpose
from ductape_conformance._tap import Call
from ductape_memory import QUEUE

from ._kernels import always, does_nothing, patched
from ._mutant import Mutant
from ._ways import on

__all__ = ["RULES"]

_PARKS = msgspec.structs.replace(QUEUE, retry_delay=0.0)


def _impatient(old: Any) -> Any:
    """Run what says that it is not to run yet."""
    return lambda delivery, name: 0.0 if name == h.NOT_BEFORE else old(delivery, name)


def _unwaited(old: Any) -> Any:
    """Stop without waiting for moves."""

    async def calm(self: Any, seconds: float, holders: Any = None) -> None:
        for task in self._tasks:
            task.cancel()

    return calm


@on("send")
async def _slow_copies(call: Call) -> Any:
    """Take a while to store a copy, as servers do."""
    if call.purpose is Purpose.RETRY:
        await call.target.tap.clock.sleep(0.2)
    return await call.proceed()


def _stubborn(old: Any) -> Any:
    """Go on receiving whatever settling says."""
    return property(lambda self: False)


def _given_up(old: Any) -> Any:
    """End an epoch at whatever goes wrong, as if deliveries were gone with it."""

    def refused(self: Any, item: Any, answer: AdapterError) -> None:
        if answer.fault is Fault.TRANSIENT and self._host.receiver is not None:
            self._host.broken(self._host.receiver, AdapterError(Fault.LOST, str(answer)))
        old(self, item, answer)

    return refused


def _any_headers(old: Any) -> Any:
    """Take headers for unlimited."""

    def add(self: Any, *args: Any) -> Any:
        can, self._can = self._can, msgspec.structs.replace(self._can, max_headers=None, max_header=None)
        try:
            return old(self, *args)
        finally:
            self._can = can

    return add


def _asked_first(old: Any) -> Any:
    """Ask what a channel can do before it is declared."""

    async def prepare(self: Any, channel: Any, groups: Any, group: str = "", start: str | None = None) -> Any:
        connection = await self.connection()
        asked = msgspec.structs.replace(channel, group=group or channel.group)
        can = connection.capabilities(asked) or self.adapter.capabilities
        await old(self, channel, groups, group, start)
        self.known[channel.identity] = can
        return connection, can

    return prepare


def _all_at_once(old: Any) -> Any:
    """Put all that waits into one call."""

    def cut(self: Any) -> Any:
        batch = list(self.queue)
        self.queue.clear()
        return batch

    return cut


def _at_the_end(old: Any) -> Any:
    """Send again behind what was published later."""

    def resolve(self: Any, batch: Any, answers: Any) -> Any:
        for item in old(self, batch, answers):
            self._choose(item.record).queue.append(item)
        return []

    return resolve


RULES: tuple[Mutant, ...] = (
    Mutant(
        "kernel-asks-before-declaring",
        ("kernel.capabilities-are-read-after-declaring",),
        patch=patched(connections__Link__prepare=_asked_first),
    ),
    Mutant(
        "kernel-starts-what-it-lost",
        ("lease.what-was-lost-is-not-started",),
        patch=patched(intake__Source__lost=does_nothing),
    ),
    Mutant(
        "kernel-overfills-calls", ("kernel.calls-keep-to-the-limits",), patch=patched(sending__Lane___cut=_all_at_once)
    ),
    Mutant(
        "kernel-resends-behind-the-rest",
        ("lanes.order-survives-cuts",),
        patch=patched(outbox__Outbox___resolve=_at_the_end),
    ),
    Mutant(
        "kernel-holds-up-a-log",
        ("retry.a-log-is-not-held-up",),
        patch=patched(retry__HOLD_ON_LOG=lambda old: 30.0),
        imitate="log",
    ),
    Mutant(
        "kernel-keeps-a-connection-that-opens-nothing",
        ("kernel.a-lost-opening-takes-a-new-connection",),
        patch=patched(connections__Link__discard=does_nothing),
    ),
    Mutant(
        "kernel-piles-up-what-it-cannot-settle",
        ("kernel.a-refused-settlement-stops-receiving",),
        patch=patched(settling__Settling__refused=_stubborn),
    ),
    Mutant(
        "kernel-ends-epochs-at-any-fault",
        ("bounds.a-refused-settlement-is-repeated-with-back-off",),
        patch=patched(settling__Settling___refused=_given_up),
    ),
    Mutant(
        "kernel-refuses-no-headers",
        ("refuse.headers-beyond-the-limits",),
        patch=patched(publisher__Publisher___add=_any_headers),
        caps=msgspec.structs.replace(QUEUE, max_headers=20, max_header=200),
    ),
    Mutant(
        "kernel-takes-names-of-derived-channels",
        ("refuse.names-of-derived-channels",),
        patch=patched(names___RESERVED=lambda old: ()),
    ),
    Mutant(
        "kernel-forgets-lanes",
        ("lanes.order-survives-failures", "lanes.order-over-two-members"),
        patch=patched(engine__order_of=always(Order.NONE)),
    ),
    Mutant(
        "kernel-ignores-not-before",
        ("retry.long-delays-outlive-the-process",),
        patch=patched(subscription___number=_impatient),
        caps=_PARKS,
        purposes={Purpose.RETRY: msgspec.structs.replace(QUEUE, send_delay=5.0)},
    ),
    Mutant(
        "kernel-waits-for-no-move",
        ("stop.waiting-retries-keep-their-time",),
        _slow_copies,
        patch=patched(moves__Moves__calm=_unwaited),
        caps=_PARKS,
    ),
)
