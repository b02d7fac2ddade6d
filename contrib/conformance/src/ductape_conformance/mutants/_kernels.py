"""Kernels with one defect each, made by patching ductape's own while a scenario is played."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from importlib import import_module
from typing import Any
from unittest.mock import patch

import msgspec

from ductape.adapter import Purpose, Verdict
from ductape_conformance.mutants._ways import boundless
from ductape_memory import QUEUE

from ._mutant import Mutant

__all__ = ["KERNELS"]


def patched(**changes: Callable[[Any], Any]) -> Callable[[], AbstractContextManager[object]]:
    """Return a patch of the kernel.

    Args:
        **changes: ``module__Class__name`` (or ``module__name``): makes the new one of the old one.
    """

    def begin() -> AbstractContextManager[object]:
        stack = ExitStack()
        for path, change in changes.items():
            module, *names = path.split("__")
            target = import_module(f"ductape._{module}")
            for name in names[:-1]:
                target = getattr(target, name)
            stack.enter_context(patch.object(target, names[-1], change(getattr(target, names[-1]))))
        return stack

    return begin


def does_nothing(old: Any) -> Any:
    """Replace something by nothing."""
    return lambda *args, **options: None


def always(value: Any) -> Callable[[Any], Any]:
    """Replace a function by its result."""
    return lambda old: lambda *args, **options: value


def _stale(old: Any) -> Any:
    """Settle what belongs to an epoch that is over."""

    async def flush(self: Any) -> None:
        batch, self._queue = self._queue, []
        if self._host.receiver is not None and batch:
            await self._settle(self._host.receiver, batch)

    return flush


def _wide(old: Any) -> Any:
    """Ask for more than there is room for."""

    async def free(self: Any) -> int:
        found: int = await old(self)
        return found if found < 0 else 1000

    return free


def _undeclared(old: Any) -> Any:
    """Declare a channel once, not before every opening."""

    async def prepare(self: Any, channel: Any, groups: Any, *rest: Any) -> Any:
        if channel.identity in self.known:
            return await self.connection(), self.known[channel.identity]
        return await old(self, channel, groups, *rest)

    return prepare


def _left_alone(old: Any) -> Any:
    """Forget what arrives after its call was abandoned."""
    return lambda self, task, late: old(self, task, None)


def _same_mark(old: Any) -> Any:
    """Give a copy the deduplication mark of its original."""

    def copy(self: Any, item: Any, headers: Any, delay: float = 0.0) -> Any:
        record = old(self, item, headers, delay)
        return msgspec.structs.replace(record, dedup=record.id)

    return copy


def _acked_first(old: Any) -> Any:
    """Settle the original before its copy is stored."""

    async def move(self: Any, item: Any, purpose: Purpose, record: Any, reason: str) -> None:
        item.source.settle(item, Verdict.ACK)
        outbox, _ = await self._outbox(purpose)
        await outbox.publish(record, self._clock.now() + 30.0)

    return move


def _freed_early(old: Any) -> Any:
    """Free a message's place when it is decided, not when it is answered."""

    def add(self: Any, item: Any, verdict: Verdict, delay: float = 0.0) -> None:
        old(self, item, verdict, delay)
        self._host.held.pop(item, None)
        self._host._open_room()

    return add


def _restless(old: Any) -> Any:
    """Do not wait before repeating."""

    async def rest(self: Any, seconds: float) -> None:
        await self._clock.sleep(0.001)

    return rest


def _certain(old: Any) -> Any:
    """Believe every count."""

    def attempt_of(can: Any, carried: int, failed: int, count: int | None, attempts: int) -> Any:
        found = old(can, carried, failed, count, attempts)
        return found._replace(number=carried + failed + (count or 1), certain=True)

    return attempt_of


def _without_attempt(old: Any) -> Any:
    """Forget the attempts of a copy."""

    def retry(self: Any, item: Any, delay: float) -> Any:
        record = old(self, item, delay)
        headers = {name: text for name, text in record.headers.items() if name != "ductape-attempt"}
        return msgspec.structs.replace(record, headers=headers)

    return retry


def _bare(old: Any) -> Any:
    """Keep no header of the publisher."""
    return lambda delivery: {
        name: text for name, text in delivery.headers.items() if name in ("ductape-id", "ductape-event")
    }


def _tripped(old: Any) -> Any:
    """Take a refusal for the time being for the end."""

    def refused(self: Any, item: Any, answer: Any) -> None:
        self._gone(item)

    return refused


def _beside(old: Any) -> Any:
    """Extend beside whatever else runs."""

    async def extend(self: Any) -> None:
        self._beside = asyncio.ensure_future(old(self))
        self._keep = self._keeping = False

    return extend


_PARKS = msgspec.structs.replace(QUEUE, retry_delay=0.0)

KERNELS: tuple[Mutant, ...] = (
    Mutant(
        "kernel-starts-what-is-stale",
        ("kernel.a-drained-epoch-starts-nothing",),
        patch=patched(intake__Source___epoch_changed=does_nothing),
        caps=_PARKS,
    ),
    Mutant(
        "kernel-settles-what-is-stale",
        ("kernel.ended-epochs-are-counted-off",),
        patch=patched(settling__Settling___flush=_stale),
    ),
    Mutant(
        "kernel-ignores-the-window",
        ("bounds.the-kernel-asks-for-what-is-free",),
        patch=patched(intake__Source___free=_wide),
    ),
    Mutant(
        "kernel-leaks-places",
        ("kernel.ended-epochs-are-counted-off",),
        patch=patched(settling__Settling___gone=does_nothing),
    ),
    Mutant(
        "kernel-declares-once",
        ("kernel.declares-before-it-opens",),
        patch=patched(connections__Link__prepare=_undeclared),
    ),
    Mutant(
        "kernel-forgets-late-arrivals",
        ("kernel.a-late-receiver-is-closed",),
        patch=patched(bounds__Bounds___abandon=_left_alone, connections__Link__discard=does_nothing),
    ),
    Mutant(
        "kernel-copies-with-one-mark",
        ("kernel.copies-deduplicate-by-themselves",),
        patch=patched(moves__Moves___copy=_same_mark),
    ),
    Mutant(
        "kernel-acks-before-the-copy",
        ("dead.stored-before-the-original-goes",),
        patch=patched(moves__Moves___move=_acked_first),
    ),
    Mutant(
        "kernel-frees-places-early",
        ("bounds.unanswered-settlements-keep-their-place",),
        spoil=boundless,
        patch=patched(settling__Settling__add=_freed_early),
    ),
    Mutant(
        "kernel-repeats-in-a-hot-loop",
        ("bounds.a-refused-settlement-is-repeated-with-back-off", "stop.bounded-while-settling-fails"),
        patch=patched(settling__Settling___rest=_restless),
    ),
    Mutant(
        "kernel-gives-refused-settlements-up",
        ("bounds.a-refused-settlement-is-repeated-with-back-off",),
        patch=patched(settling__Settling___refused=_tripped),
    ),
    Mutant(
        "kernel-extends-beside-settle",
        ("kernel.nothing-runs-beside-settle",),
        patch=patched(settling__Settling___extend=_beside),
    ),
    Mutant(
        "kernel-keeps-no-lease",
        ("lease.a-long-handler-keeps-it", "lease.waiting-messages-keep-it"),
        patch=patched(settling__Settling__arrived=does_nothing),
    ),
    Mutant(
        "kernel-believes-every-count",
        ("kernel.counts-of-hand-backs-bury-nothing",),
        patch=patched(subscription__attempt_of=_certain),
        imitate="stream",
    ),
    Mutant(
        "kernel-forgets-attempts-of-copies",
        ("retry.long-delays-outlive-the-process",),
        patch=patched(moves__Moves___retry=_without_attempt),
        caps=_PARKS,
    ),
    Mutant("kernel-retries-without-back-off", ("retry.backs-off",), patch=patched(retry__Retry__after=always(0.0))),
    Mutant(
        "kernel-drops-headers-of-dead-letters",
        ("context.survives-dead-letter-and-replay", "dead.exhausted"),
        patch=patched(moves__plain=_bare),
    ),
    Mutant(
        "kernel-refuses-no-order",
        ("refuse.order-by-key", "refuse.order-in-total"),
        patch=patched(engine__check_capabilities=does_nothing),
        imitate="stream",
    ),
    Mutant("kernel-refuses-no-history", ("refuse.history",), patch=patched(engine__check_capabilities=does_nothing)),
    Mutant(
        "kernel-refuses-no-group",
        ("refuse.groups",),
        patch=patched(engine__check_capabilities=does_nothing),
        imitate="lossy",
    ),
)
