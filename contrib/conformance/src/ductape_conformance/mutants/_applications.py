"""Kernels with one defect each that applications would notice: options, stopping, retries, refusals."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from ductape import Reject
from ductape._lanes import RUNNING
from ductape.adapter import AdapterError, Fault, Groups, Order, Verdict
from ductape_conformance.mutants._ways import replace
from ductape_memory import QUEUE

from ._kernels import always, does_nothing, patched
from ._mutant import Mutant
from ._ways import SMALL

__all__ = ["APPLICATIONS"]

_PARKS = replace(QUEUE, retry_delay=0.0)
_FIFO = replace(QUEUE, order_locks=True)


def option(**values: Any) -> Any:
    """Return a change of `read_options`: some options are other than they were asked for."""
    return lambda old: lambda given, where: msgspec.structs.replace(old(given, where), **values)


def _more_handlers(old: Any) -> Any:
    """Run two handlers more than were asked for."""

    def read(given: Any, where: str) -> Any:
        options = old(given, where)
        return msgspec.structs.replace(options, concurrency=options.concurrency + 2)

    return read


def _known_only(old: Any) -> Any:
    """Pass over options that are unknown."""
    known = {"group", "concurrency", "order", "prefetch", "retry", "batch", "batch_wait", "timeout", "start"}
    return lambda given, where: old({name: value for name, value in given.items() if name in known}, where)


def _any_key(old: Any) -> Any:
    """Pass over keys of a config that are unknown."""

    def read(raw: Any, kind: Any, **rest: Any) -> Any:
        return old({name: value for name, value in raw.items() if name in kind.__struct_fields__}, kind, **rest)

    return read


def _handed_back_now(old: Any) -> Any:
    """Give waiting retries back at once when stopping."""
    return lambda self, item: item.source.settle(item, Verdict.RELEASE)


def _unburied(old: Any) -> Any:
    """Take `Reject` for any failure."""

    def decide(*args: Any, error: BaseException, **rest: Any) -> Any:
        return old(*args, error=ValueError("no") if isinstance(error, Reject) else error, **rest)

    return decide


def _kept_by_the_broker(old: Any) -> Any:
    """Leave every delay to the broker, however long."""

    def decide(*args: Any, **rest: Any) -> Any:
        from ductape._retry import Step

        found = old(*args, **rest)
        return found._replace(step=Step.SETTLE) if found.step is Step.MOVE else found

    return decide


def _garbled(old: Any) -> Any:
    """Handle what the adapter could not read."""

    def take(self: Any, item: Any) -> None:
        item.delivery.error = ""
        old(self, item)

    return take


def _once(old: Any) -> Any:
    """Put middleware around the first attempt alone."""

    def wrap(middleware: Any, method: str, innermost: Any, site: Any) -> Any:
        chain = old(middleware, method, innermost, site)
        return lambda event: (chain if event.attempt == 1 else innermost)(event)

    return wrap


def _all_cancelled(old: Any) -> Any:
    """Cancel all that wait when one caller is cancelled."""
    waiting: set[asyncio.Future[Any]] = set()

    def put(self: Any, record: Any, deadline: float) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = old(self, record, deadline)
        waiting.add(future)

        def ended(done: asyncio.Future[Any]) -> None:
            waiting.discard(done)
            if done.cancelled():
                for one in list(waiting):
                    one.cancel()

        future.add_done_callback(ended)
        return future

    return put


def _late(old: Any) -> Any:
    """Keep to a deadline of its own."""
    return lambda self, record, deadline: old(self, record, deadline + 100.0)


def _new_id(old: Any) -> Any:
    """Send again under another id."""

    def resolve(self: Any, batch: Any, answers: Any) -> Any:
        again = old(self, batch, answers)
        for item in again:
            item.record = msgspec.structs.replace(item.record, id=f"{item.record.id}2", dedup=f"{item.record.dedup}2")
        return again

    return resolve


def _refused_together(old: Any) -> Any:
    """Fail a whole call because of one record."""

    def resolve(self: Any, batch: Any, answers: Any) -> Any:
        bad = next((one for one in answers if isinstance(one, AdapterError) and one.fault is Fault.MESSAGE), None)
        return old(self, batch, answers if bad is None else [bad] * len(batch))

    return resolve


def _dropped(old: Any) -> Any:
    """Close without storing what waits."""

    async def close(self: Any, seconds: float) -> None:
        for lane in self._lanes:
            lane.queue.clear()
        await old(self, 0.0)

    return close


def _unasked(old: Any) -> Any:
    """Stop no receiver before it is closed."""

    async def stop(self: Any) -> None:
        self._stopping = True

    return stop


def _unbounded(old: Any) -> Any:
    """Await an adapter for as long as it takes."""

    async def call(self: Any, call: Any, seconds: float, late: Any = None) -> Any:
        return await call

    return call


def _counted(old: Any) -> Any:
    """Take every delivery for an attempt."""

    def attempt_of(can: Any, carried: int, failed: int, count: int | None, attempts: int) -> Any:
        number = carried + (count or 1)
        return old(can, carried, failed, count, attempts)._replace(number=number, certain=True)

    return attempt_of


def _overstaying(old: Any) -> Any:
    """Wait for handlers beyond the grace time."""
    return lambda self, seconds: old(self, seconds + 100.0)


def _ended_is_done(old: Any) -> Any:
    """Acknowledge what a handler was ended at."""

    def hand_back(self: Any, item: Any) -> None:
        if item.state == RUNNING:
            item.source.settle(item, Verdict.ACK)
        else:
            old(self, item)

    return hand_back


def _literal(old: Any) -> Any:
    """Find an adapter only as its entry point is written."""
    written = ("KIT", "memory")
    return lambda self, name, **rest: old(self, name if name in written else f"no-{name}", **rest)


APPLICATIONS: tuple[Mutant, ...] = (
    Mutant(
        "kernel-waits-beyond-the-grace-time",
        ("stop.what-overstays-goes-to-others",),
        patch=patched(workers__Workers__calm=_overstaying),
    ),
    Mutant(
        "kernel-acks-what-it-ended",
        ("stop.what-overstays-goes-to-others",),
        patch=patched(subscription__Subscription__hand_back=_ended_is_done),
    ),
    Mutant(
        "kernel-finds-adapters-as-they-are-written",
        ("contract.found-by-its-entry-point",),
        patch=patched(registry__Registry__adapter=_literal),
    ),
    Mutant(
        "kernel-hands-waiting-retries-back-at-once",
        ("stop.waiting-retries-keep-their-time",),
        patch=patched(subscription__Subscription__hand_back=_handed_back_now),
        caps=_PARKS,
    ),
    Mutant(
        "kernel-runs-more-handlers",
        ("bounds.handlers-and-window",),
        patch=patched(events__read_options=_more_handlers),
    ),
    Mutant(
        "kernel-ends-no-handler",
        ("bounds.a-hung-handler-is-ended",),
        patch=patched(events__read_options=option(timeout=None)),
    ),
    Mutant(
        "kernel-waits-for-no-batch",
        ("batch.fills-or-lingers",),
        patch=patched(events__read_options=option(batch_wait=0.0)),
    ),
    Mutant(
        "kernel-settles-one-by-one",
        ("bounds.small-windows-make-few-calls",),
        patch=patched(settling__LINGER=lambda old: 0.0, settling__FEW=lambda old: 0, intake__ROOM=lambda old: 0.0),
    ),
    Mutant(
        "kernel-orders-everything",
        ("lanes.a-failing-key-holds-up-no-other", "retry.others-go-on"),
        patch=patched(engine__order_of=always(Order.TOTAL)),
    ),
    Mutant(
        "kernel-keeps-what-waits-behind-a-failure",
        ("lanes.blocked-keys-do-not-fill-the-window",),
        patch=patched(lanes__Lanes__behind=always(())),
        caps=_FIFO,
    ),
    Mutant(
        "kernel-tries-rejected-messages-again",
        ("dead.rejected-at-once",),
        patch=patched(subscription__decide=_unburied),
    ),
    Mutant(
        "kernel-handles-what-is-garbled",
        ("dead.a-garbled-delivery-blocks-nothing",),
        patch=patched(subscription__Subscription__take=_garbled),
    ),
    Mutant(
        "kernel-leaves-no-room-for-letters",
        ("dead.there-is-always-room-for-it",),
        patch=patched(publisher__RESERVE=lambda old: -100_000),
        caps=replace(SMALL, max_message=2300),
    ),
    Mutant(
        "kernel-leaves-long-delays-to-the-broker",
        ("kernel.delays-only-as-far-as-declared",),
        patch=patched(subscription__decide=_kept_by_the_broker),
        caps=replace(QUEUE, retry_delay=60.0),
    ),
    Mutant(
        "kernel-wraps-the-first-attempt",
        ("context.middleware-sees-every-attempt",),
        patch=patched(handling__wrap=_once),
    ),
    Mutant(
        "kernel-cancels-all-with-one",
        ("delivery.a-cancelled-publish-harms-nobody",),
        patch=patched(outbox__Outbox__put=_all_cancelled),
    ),
    Mutant(
        "kernel-overstays-deadlines",
        ("outages.a-publish-ends-within-its-deadline",),
        patch=patched(outbox__Outbox__put=_late),
    ),
    Mutant(
        "kernel-opens-for-ever",
        ("outages.an-absent-broker-is-told-in-time",),
        patch=patched(engine__OPEN_WITHIN=lambda old: 600.0),
    ),
    Mutant(
        "kernel-resends-under-another-id",
        ("delivery.a-lost-answer-keeps-the-id",),
        patch=patched(outbox__Outbox___resolve=_new_id),
    ),
    Mutant(
        "kernel-fails-good-records-with-bad-ones",
        ("kernel.a-refused-record-fails-alone",),
        patch=patched(outbox__Outbox___resolve=_refused_together),
    ),
    Mutant(
        "kernel-never-declares-again",
        ("kernel.declares-again-every-minute",),
        patch=patched(sending__DECLARE_AGAIN=lambda old: 1e9),
    ),
    Mutant(
        "kernel-ends-no-epoch",
        ("kernel.a-lost-receiver-is-replaced",),
        patch=patched(epoch__Epoch__end=does_nothing),
    ),
    Mutant(
        "kernel-drops-publishes-at-close",
        ("stop.publishes-are-stored",),
        patch=patched(outbox__Outbox__close=_dropped),
    ),
    Mutant(
        "kernel-closes-without-stopping",
        ("stop.asks-in-order",),
        patch=patched(intake__Source__stop=_unasked),
    ),
    Mutant(
        "kernel-waits-for-ever",
        ("stop.bounded-while-the-server-is-silent",),
        patch=patched(bounds__Bounds__call=_unbounded),
    ),
    Mutant(
        "kernel-buries-for-hand-backs",
        ("retry.hand-backs-are-no-failures",),
        patch=patched(subscription__attempt_of=_counted),
        imitate="stream",
    ),
    Mutant(
        "kernel-refuses-no-second-group",
        ("refuse.second-group",),
        patch=patched(engine__check_capabilities=does_nothing),
        caps=replace(QUEUE, groups=Groups.ONE),
    ),
    Mutant(
        "kernel-refuses-no-timeout",
        ("refuse.timeout-above-the-lease",),
        patch=patched(engine__check_capabilities=does_nothing),
        caps=replace(QUEUE, lease_total=60.0),
    ),
    Mutant(
        "kernel-refuses-no-delay",
        ("refuse.send-delay",),
        patch=patched(publisher__Publisher___check=does_nothing),
        imitate="log",
    ),
    Mutant(
        "kernel-refuses-no-size",
        ("refuse.too-large",),
        patch=patched(publisher__Publisher___check=does_nothing),
        caps=SMALL,
    ),
    Mutant(
        "kernel-passes-over-unknown-options",
        ("refuse.what-cannot-be-written",),
        patch=patched(events__read_options=_known_only),
    ),
    Mutant(
        "kernel-passes-over-unknown-keys",
        ("refuse.unknown-config-keys",),
        patch=patched(config__read_config=_any_key),
    ),
)
