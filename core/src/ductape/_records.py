"""What passes between the kernel and an adapter."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from ._capabilities import Order
from ._epoch import Epoch


class Purpose(enum.Enum):
    """What a channel is for."""

    EVENTS = "events"
    """Published to by applications; every declared group sees each message."""
    RETRY = "retry"
    """One group's private way back: long delays and replayed dead letters."""
    DEAD = "dead"
    """One group's dead letters; holds messages with nobody listening."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A physical topic, queue, stream or subject, and everything the adapter is told about it.

    An adapter maps `name`, `purpose` and `group` to names that its broker allows. For the derived channels of group
    ``billing`` on ``orders`` that is ``orders.billing.retry`` and ``orders.billing.dead``, as near as it can.
    """

    name: str
    purpose: Purpose = Purpose.EVENTS
    group: str = ""
    """The group it belongs to (RETRY, DEAD), or that is declared with it, so that nothing is lost before it opens."""
    order: Order = Order.NONE
    """Decided with the topic: sender and declare obey it; a subscription that asks for more is refused at open."""
    start: str | None = None
    """Where a group that `declare` creates begins: ``earliest``, ``latest``, an RFC 3339 instant, or None."""
    address: str = ""
    """The address of the channel of events where the catalog names one (SQS: the queue URL)."""
    options: Mapping[str, object] = {}
    """The topic's own options, for the adapter."""

    @property
    def identity(self) -> tuple[str, str, str]:
        """What tells it from the other channels of a connection: name, purpose, and, where it is private, its group."""
        return self.name, self.purpose.value, "" if self.purpose is Purpose.EVENTS else self.group


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One record to store. Body and headers are final: an adapter adds only what its wire needs."""

    body: bytes
    headers: Mapping[str, str]
    id: str
    key: str | None = None
    delay: float = 0.0
    """Seconds until it may be delivered; never more than `Capabilities.send_delay`."""
    dedup: str = ""
    """What deduplicating brokers compare; constant across resends, different for every copy of one message."""
    origin: Delivery | None = None
    """A copy of this delivery (RETRY, DEAD): keep what body, headers and key cannot say."""
    size: int = 0
    """Bytes of body and headers, about: what `Limits.bytes` bounds."""

    def __repr__(self) -> str:
        return f"<Outgoing id={self.id} {len(self.body)} bytes>"


class Stored(msgspec.Struct, frozen=True, gc=False):
    """The broker's answer to one record."""

    position: str = ""
    """Where the record went, as text for logs (``orders[3]@1042``)."""
    duplicate: bool = False
    """The broker had it already."""


class Delivery(msgspec.Struct, eq=False):
    """One message in our hands, for as long as its epoch lives and its lease runs."""

    body: bytes
    headers: Mapping[str, str]
    epoch: Epoch
    token: object = None
    """The adapter's own; the kernel only gives the delivery back."""
    key: str | None = None
    lane: str | None = None
    """What order is kept within if that is wider than the key (a partition); None: the key."""
    count: int | None = None
    """Which delivery of this message this is, from 1, if the broker tells."""
    leased_until: float | None = None
    """On the kernel's clock, counted from when the message left the wire."""
    stored_at: float | None = None
    """When the broker stored it, seconds since 1970."""
    position: str = ""
    """Where it is, as text for logs."""
    failed: int = 0
    """Failed attempts that `count` does not tell. The kernel raises it while it holds the delivery; an adapter that can
    persist it (commit metadata, a field of an entry stored anew) does so, and sets it when it delivers again."""
    due: float | None = None
    """Not to run before this instant, seconds since 1970; kept and restored likewise."""
    error: str = ""
    """Why body or headers could not be read; the kernel applies `on_poison` without calling a handler."""

    def __repr__(self) -> str:
        return f"<Delivery {self.position} count={self.count} {len(self.body)} bytes>"


class Verdict(enum.Enum):
    """What became of a delivery."""

    ACK = "ack"
    """Done: never again for this group."""
    RETRY = "retry"
    """Failed: again after `Settlement.delay`, through a receiver of the same channel and group."""
    RELEASE = "release"
    """Not now: again at once, for anyone; not an attempt where the broker can tell. On an ordered channel nothing later
    of its key may overtake it: where a hand-back reorders, let the lease run out or wait for `close`."""


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """One delivery and what became of it."""

    delivery: Delivery
    verdict: Verdict
    delay: float = 0.0


class Intake(msgspec.Struct, frozen=True, kw_only=True):
    """How a receiver is opened."""

    group: str
    window: int
    """Hard bound on unsettled deliveries, those still inside the adapter included. A push client's credit is this.
    (Unread records that a log client prefetches are bounded by bytes instead.)"""
    order: Order = Order.NONE
    """With an order, redeliveries after a takeover come first and as stored; an adapter that cannot claims less."""
    start: str | None = None
    """For a group that does not exist yet: ``earliest``, ``latest``, an RFC 3339 instant; None: what the broker can."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How the kernel may fill a sender. One key is never in two calls at a time."""

    records: int = 1000
    bytes: int = 1_000_000
    calls: int = 1
    seconds: float = 10.0
    """The kernel abandons a `send` after this; what is unanswered then is ``AMBIGUOUS``."""
