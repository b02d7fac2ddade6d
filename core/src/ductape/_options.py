"""The options of a subscription: one record behind the keywords of `subscribe`, `stream` and the decorator."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal

import msgspec

from ._capabilities import Capabilities, Groups, Order
from ._names import check_group
from ._retry import Retry
from .errors import CapabilityError, ConfigError, nearest

Poison = Literal["dead_letter", "drop", "stop"]
Unmatched = Literal["dead_letter", "ignore", "stop"]
ORDERS = {"none": Order.NONE, "key": Order.KEY, "total": Order.TOTAL}
BATCH_WAIT = 0.05


class SubscribeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a subscription receives and handles."""

    group: str | None = None
    concurrency: int = 8
    order: str | None = None
    prefetch: int | None = None
    retry: Retry = Retry()
    on_poison: Poison = "dead_letter"
    on_unmatched: Unmatched = "dead_letter"
    batch: int = 1
    batch_wait: float = BATCH_WAIT
    timeout: float | None = None
    start: str | None = None
    """Where a new group begins: ``earliest``, ``latest``, or an RFC 3339 instant."""
    env: str | None = None
    product: str | None = None

    def window(self, can: Capabilities) -> int:
        """Return how many unsettled deliveries to hold at most: small windows make small, dear calls."""
        if self.prefetch is not None:
            return self.prefetch
        return max(2 * self.concurrency * self.batch, 128 if can.watermark else 64)


_KNOWN = tuple(field.name for field in msgspec.structs.fields(SubscribeOptions))


def read_options(given: dict[str, object], where: str) -> SubscribeOptions:
    """Read the keywords of a subscription.

    Raises:
        ConfigError: ``OPTION_INVALID``, naming the option and what it takes.
    """
    for name in given:
        if name not in _KNOWN:
            raise ConfigError("OPTION_INVALID", f"{where}: no option {name!r}.{nearest(name, _KNOWN)}", option=name)
    if isinstance(given.get("retry"), int):
        given = {**given, "retry": Retry(attempts=given["retry"])}  # type: ignore[arg-type]  # narrowed by the test
    if isinstance(start := given.get("start"), datetime):
        given = {**given, "start": start.isoformat()}
    try:
        options = msgspec.convert(given, SubscribeOptions)
    except msgspec.ValidationError as error:
        raise ConfigError("OPTION_INVALID", f"{where}: {error}.") from error
    if options.group is not None:
        check_group(options.group)
    _check_numbers(options, where)
    return options


def _check_numbers(options: SubscribeOptions, where: str) -> None:
    order, start = options.order, options.start
    wrong = {
        "concurrency": options.concurrency < 1 and "is at least 1",
        "batch": options.batch < 1 and "is at least 1",
        "batch_wait": options.batch_wait < 0 and "is seconds",
        "timeout": options.timeout is not None and options.timeout <= 0 and "is seconds, or None",
        "prefetch": options.prefetch is not None
        and options.prefetch < options.concurrency * options.batch
        and "is at least concurrency × batch, or workers would idle",
        "order": order is not None and order not in ORDERS and "is none, key or total",
        "start": start is not None and not _is_start(start) and "is earliest, latest, or a datetime with a time zone",
    }
    for name, text in wrong.items():
        if text:
            raise ConfigError("OPTION_INVALID", f"{where}: {name}={getattr(options, name)!r}: it {text}.", option=name)


def _is_start(start: str) -> bool:
    if start in ("earliest", "latest"):
        return True
    try:
        return datetime.fromisoformat(start).tzinfo is not None
    except ValueError:
        return False


def order_of(options: SubscribeOptions, topic: Order, where: str) -> Order:
    """Return the order that a subscription keeps: its own wish, or the topic's.

    Raises:
        ConfigError: ``OPTION_INVALID`` if it asks for more than the topic was declared with: queues, flags and batches
            depend on it, on the publishing side too.
    """
    if options.order is None:
        return topic
    order = ORDERS[options.order]
    if order > topic:
        text = f"order={options.order!r}, but the topic was declared with order={topic.name.lower()!r}"
        raise ConfigError(
            "OPTION_INVALID", f"{where}: {text}. Declare it there: topic.update(…, order={options.order!r})."
        )
    return order


def check_capabilities(
    options: SubscribeOptions, can: Capabilities, order: Order, *, where: str, provider: str, others: frozenset[str]
) -> None:
    """Refuse a subscription that asks for what its channel cannot do.

    Args:
        options: What it asks for.
        can: What the channel can do.
        order: The order it is to keep.
        where: Names the subscription.
        provider: Names the adapter.
        others: Groups that are open on the channel.

    Raises:
        CapabilityError: ``CAPABILITY_MISSING``.
    """

    def refuse(capability: str, what: str, mend: str) -> None:
        text = f"{where}: {provider} {what} here. {mend}"
        raise CapabilityError("CAPABILITY_MISSING", text, capability=capability, adapter=provider)

    if order > can.order:
        mend = "Leave order out, or use a provider that keeps it."
        refuse("order", f"cannot keep order={order.name.lower()!r}", mend)
    if options.group is not None and can.groups is Groups.NONE:
        refuse("groups", "has no groups: every member sees every message", "Leave group out.")
    if can.groups is Groups.ONE and others:
        mend = f"The channel is the one group {min(others)!r}: subscribe with that, or use another channel."
        refuse("groups", "knows one group a channel", mend)
    if options.start not in (None, "latest") and not can.history:
        refuse("history", f"cannot begin a group at {options.start!r}", "Leave start out: the group begins with now.")
    _check_lease(options, can, refuse)


def _check_lease(options: SubscribeOptions, can: Capabilities, refuse: Callable[[str, str, str], None]) -> None:
    total = can.lease_total if can.lease_total is not None else can.lease
    if options.timeout is None or total is None:
        return
    needed = options.timeout
    if can.lease_shared:
        needed *= -(-options.window(can) // options.concurrency)
    if needed > total:
        mend = "Lower timeout" + (", or prefetch." if can.lease_shared else ".")
        refuse("lease_total", f"holds a delivery for {total:g} s at most, and timeout needs {needed:g} s", mend)
