"""Capabilities that contradict one another: refused before anything is tried."""

from __future__ import annotations

from ductape.adapter import Capabilities, Count, Durability, Groups

__all__ = ["contradictions", "exceeds"]


def contradictions(can: Capabilities) -> list[str]:
    """Return what cannot be true together, one sentence each."""
    lease, total = can.lease, can.lease_total
    nothing_kept = can.groups is Groups.NONE
    rules = {
        "lease_total without a lease": total is not None and lease is None,
        "lease_total below lease": total is not None and lease is not None and total < lease,
        "lease_shared without a lease": can.lease_shared and lease is None,
        "a delay kept by the broker needs a count, or a message would fail for ever": can.retry_delay > 0
        and can.count is Count.NONE,
        "retry_step above retry_delay": can.retry_step > can.retry_delay > 0,
        "a moving mark has no leases of single messages": can.watermark and lease is not None,
        "a moving mark keeps no delays of single messages": can.watermark and can.retry_delay > 0,
        "without groups nothing is stored": nothing_kept and can.durability is not Durability.NONE,
        "without groups there is no history": nothing_kept and can.history,
        "what is not stored has no history": can.durability is Durability.NONE and can.history,
        "max_body above max_message": can.max_body is not None
        and can.max_message is not None
        and can.max_body > can.max_message,
        "times and sizes are not negative": min(
            can.retry_delay, can.retry_step, can.send_delay, lease or 0.0, total or 0.0, can.max_body or 0
        )
        < 0,
    }
    return [text for text, wrong in rules.items() if wrong]


def exceeds(here: Capabilities, most: Capabilities) -> list[str]:
    """Return the fields in which a channel claims more than its adapter's class."""
    larger = ("durability", "groups", "order", "count", "history", "retry_delay", "send_delay", "confirmed_ack")
    return [name for name in larger if getattr(here, name) > getattr(most, name)]
