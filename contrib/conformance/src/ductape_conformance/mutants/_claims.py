"""Adapters that claim what they do not do: one for each capability, whichever scenario has to find it out."""

from __future__ import annotations

from typing import Any

import msgspec

from ductape.adapter import Capabilities, Count, Durability, Groups, Order
from ductape_conformance._tap import Call, Tap
from ductape_conformance.mutants._mutant import Mutant
from ductape_conformance.mutants._ways import SMALL, claiming, on, replace, verdicts
from ductape_memory import QUEUE

__all__ = ["CLAIMS"]

_KEYLESS = replace(QUEUE, order=Order.NONE)
_UNSURE = replace(QUEUE, confirmed_ack=False)
_WEAK = replace(QUEUE, durability=Durability.BUFFERED)
_ALL = replace(QUEUE, lease_shared=True)
_ONE = replace(QUEUE, groups=Groups.ONE)
_PARKS = replace(QUEUE, retry_delay=0.0)
_NARROW = replace(QUEUE, max_headers=20, max_header=200)


@on("send")
async def _bare(call: Call) -> Any:
    """Carry what the provider's own headers would, and nothing else."""
    return await call.proceed([replace(one, headers={"ductape-id": one.id}) for one in call.args[0]])


@on("send")
async def _by_key(call: Call) -> Any:
    """Store the records of a call key by key, each in order."""
    places = sorted(range(len(call.args[0])), key=lambda place: call.args[0][place].key or "", reverse=True)
    answers = await call.proceed([call.args[0][place] for place in places])
    return [answers[places.index(place)] for place in range(len(places))]


def _loose(tap: Tap) -> None:
    """Have a config that anybody may change, with fields by place."""
    fields = [(one.name, one.type, one.default) for one in msgspec.structs.fields(tap.config)]
    tap.config = msgspec.defstruct("Loose", fields)


def _unsettled(tap: Tap) -> None:
    """Know how much fits into a message only when the first receiver has opened."""
    tap.claims = lambda channel, can: can if tap.receivers else replace(can, max_body=100_000)


CLAIMS: tuple[Mutant, ...] = (
    Mutant("claims-history", ("groups.history-is-offered",), claiming(history=True)),
    Mutant("claims-confirmed-acks", ("settle.confirmed-survives-a-cut",), claiming(confirmed_ack=True), caps=_UNSURE),
    Mutant(
        "claims-to-store",
        ("faults.stored-survives-a-kill", "outages.a-killed-server-loses-nothing-confirmed"),
        claiming(durability=Durability.STORED),
        caps=_WEAK,
    ),
    Mutant("claims-order", ("lanes.order-over-two-members",), claiming(order=Order.KEY), caps=_KEYLESS),
    Mutant("claims-a-total-order", ("order.in-total",), _by_key, imitate="log"),
    Mutant(
        "claims-a-delay-without-counts",
        ("contract.capabilities-do-not-contradict-themselves",),
        claiming(count=Count.NONE),
    ),
    Mutant(
        "a-channel-claims-more-than-its-class",
        ("contract.capabilities-do-not-contradict-themselves",),
        lambda tap: setattr(tap, "capabilities", Capabilities()),
    ),
    Mutant("claims-many-groups", ("groups.each-gets-all",), claiming(groups=Groups.MANY), caps=_ONE),
    Mutant(
        "claims-groups",
        ("groups.members-share", "groups.declared-is-enough"),
        claiming(groups=Groups.MANY, durability=Durability.STORED),
        imitate="lossy",
    ),
    Mutant("claims-exact-counts", ("settle.release-is-no-attempt",), claiming(count=Count.EXACT), imitate="stream"),
    Mutant("claims-one-lapse-alone", ("lease.each-has-its-own",), claiming(lease_shared=False), caps=_ALL),
    Mutant("claims-shorter-leases", ("lease.lapses",), claiming(lease=30.0), lease=1e6),
    Mutant(
        "claims-longer-leases",
        ("lease.a-long-handler-keeps-it", "lease.waiting-messages-keep-it"),
        claiming(lease_total=1e9),
        caps=replace(QUEUE, lease_total=30.0),
    ),
    Mutant("claims-locks", ("lanes.blocked-keys-do-not-fill-the-window",), claiming(order_locks=True)),
    Mutant(
        "claims-that-retries-join", ("retry.long-delays-outlive-the-process",), claiming(retry_joins=True), caps=_PARKS
    ),
    Mutant("claims-to-keep-delays", ("settle.retry-keeps-its-delay",), claiming(retry_delay=600.0), caps=_PARKS),
    Mutant(
        "claims-finer-steps",
        ("settle.retry-keeps-its-delay", "retry.later-is-exact"),
        verdicts(lambda one: replace(one, delay=60.0 * -(-one.delay // 60.0))),
    ),
    Mutant(
        "claims-to-delay", ("send.delay-is-kept", "delivery.delayed-publish"), claiming(send_delay=600.0), imitate="log"
    ),
    Mutant("claims-headers", ("roundtrip.body-headers-and-key", "context.survives-retries"), _bare),
    Mutant(
        "claims-more-and-longer-headers",
        ("roundtrip.every-kind-of-header", "dead.there-is-always-room-for-it"),
        claiming(max_headers=None, max_header=None),
        caps=_NARROW,
    ),
    Mutant(
        "claims-larger-messages",
        ("roundtrip.every-byte-of-a-body",),
        claiming(max_body=None, max_message=None),
        caps=SMALL,
    ),
    Mutant("claims-a-watermark", ("contract.capabilities-do-not-contradict-themselves",), claiming(watermark=True)),
    Mutant("claims-less-before-a-receiver-opened", ("contract.capabilities-are-settled-by-declaring",), _unsettled),
    Mutant("a-config-that-anybody-changes", ("contract.config-is-frozen-and-by-keyword",), _loose),
)
