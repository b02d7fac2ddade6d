"""What each kind of broker claims, and which claims the engines below can keep together."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from ductape.adapter import Capabilities, Count, Durability, Groups, Order, Purpose

from ._config import MemoryConfig

__all__ = ["LOG", "LOSSY", "QUEUE", "STREAM", "claimed", "derived", "kept"]

QUEUE: Final = Capabilities(
    order=Order.TOTAL,
    count=Count.EXACT,
    lease=30.0,
    lease_total=math.inf,
    retry_delay=math.inf,
    send_delay=math.inf,
)
"""A queue for each group, with leases."""

STREAM: Final = Capabilities(
    durability=Durability.BUFFERED,
    count=Count.APPROXIMATE,
    history=True,
    lease=30.0,
    lease_total=math.inf,
    retry_delay=math.inf,
    send_delay=math.inf,
)
"""A stream with consumer groups, as Redis has it: it keeps history, and hand-backs raise its counts."""

LOG: Final = Capabilities(order=Order.TOTAL, history=True, watermark=True)
"""A partitioned log: one member owns a partition, and settling moves a mark."""

LOSSY: Final = Capabilities(durability=Durability.NONE, groups=Groups.NONE)
"""Fire and forget: who listens gets a copy, who does not listen gets nothing."""

_CLAIMS = {"queue": QUEUE, "stream": STREAM, "log": LOG, "lossy": LOSSY}


def claimed(config: MemoryConfig) -> Capabilities:
    """Return what the imitation of this configuration claims."""
    claims = _CLAIMS[config.imitate]
    return claims if claims.lease is None else msgspec.structs.replace(claims, lease=config.lease)


def kept(wished: Capabilities) -> Capabilities:
    """Return `wished` without what contradicts it, so that nothing is claimed that the engine does not do.

    1. Without groups nothing is stored: no leases, counts, delays, history or mark.
    2. A mark knows neither leases nor counts nor delays of single messages.
    3. Without a lease there is none to extend; without an own extent a lease cannot be extended.
    4. A delay kept by the broker needs a count, or a message would fail for ever.
    """
    changes: dict[str, Any] = {}
    if wished.groups is Groups.NONE:
        changes = dict.fromkeys(("history", "watermark", "retry_joins"), False)
        changes |= {"durability": Durability.NONE, "send_delay": 0.0}
    if wished.groups is Groups.NONE or wished.watermark:
        changes |= {"count": Count.NONE, "lease": None}
    caps = msgspec.structs.replace(wished, **changes)
    if caps.lease is None:
        caps = msgspec.structs.replace(caps, lease_total=None, lease_shared=False)
    elif caps.lease_total is None:
        caps = msgspec.structs.replace(caps, lease_total=caps.lease)
    if caps.count is Count.NONE:
        caps = msgspec.structs.replace(caps, retry_delay=0.0, retry_step=0.0)
    return caps


def derived(caps: Capabilities, purpose: Purpose, lease: float) -> Capabilities:
    """Return what holds for a channel of this purpose, where `caps` holds for EVENTS.

    RETRY delays what is sent there, and DEAD holds letters with nobody listening, whatever the broker does elsewhere.
    On a queue both belong to one group, so they *are* that group.
    """
    if purpose is Purpose.EVENTS:
        return caps
    if caps.groups is Groups.NONE:
        caps = msgspec.structs.replace(QUEUE, lease=lease)
    if not caps.watermark:
        caps = msgspec.structs.replace(caps, groups=Groups.ONE)
    if purpose is Purpose.RETRY:
        return msgspec.structs.replace(caps, send_delay=math.inf, retry_joins=caps.retry_joins)
    return msgspec.structs.replace(caps, history=True)
