"""What a channel can do, as its adapter declares it."""

from __future__ import annotations

import enum

import msgspec


class Durability(enum.IntEnum):
    """What a confirmed publish means."""

    NONE = 0
    """It may never arrive: at most once (Redis pub/sub, core NATS)."""
    BUFFERED = 1
    """Accepted; a killed server may lose the last moment (Redis without ``appendfsync always``)."""
    STORED = 2
    """Stored for every declared group, through a kill of the server."""


class Groups(enum.IntEnum):
    """How consumers share a channel."""

    NONE = 0
    """Every receiver sees every message; members cannot share work."""
    ONE = 1
    """The channel is the one group (SQS)."""
    MANY = 2
    """Every declared group sees every message, and its members share them."""


class Order(enum.IntEnum):
    """Which messages are handled one at a time, in the order in which they were stored."""

    NONE = 0
    KEY = 1
    """Those of one key."""
    TOTAL = 2
    """All of the channel."""


class Count(enum.IntEnum):
    """How a broker counts deliveries of a message."""

    NONE = 0
    APPROXIMATE = 1
    """Hand-backs and expiries count too, or the count falls back after the broker's own crash."""
    EXACT = 2


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What is true of one channel on one connection: config, mode and server version included.

    The kernel reads it when a publisher or subscription opens, and refuses there what is not there.
    """

    durability: Durability = Durability.STORED
    groups: Groups = Groups.MANY
    order: Order = Order.NONE
    count: Count = Count.NONE
    history: bool = False
    """A new group can begin with messages stored before it existed."""
    watermark: bool = False
    """Settling is a moving mark: one held message keeps later ones unsettled for a crash (logs)."""
    confirmed_ack: bool = True
    """`settle` returning means the broker will not deliver it again, unless the broker itself loses data."""
    lease: float | None = None
    """Seconds until an unsettled delivery goes to somebody else; None: as long as the epoch lives."""
    lease_total: float | None = None
    """Seconds to which a lease can be extended in all; equal to `lease` where it cannot be extended."""
    lease_shared: bool = False
    """One delivery's expiry ends the epoch of all (RabbitMQ's consumer timeout closes the channel)."""
    order_locks: bool = False
    """While a delivery of a key is out, the broker gives no later one of that key to anybody (FIFO groups), so that the
    kernel may hand back what waits behind a failed one."""
    retry_joins: bool = False
    """Copies stored on RETRY come back through the EVENTS receiver (the group's own queue)."""
    retry_delay: float = 0.0
    """Longest delay, in seconds, that ``settle(RETRY, delay)`` keeps by itself, also across crashes. Needs a count."""
    retry_step: float = 0.0
    """It is rounded up to a multiple of this; shorter delays are parked in the process."""
    send_delay: float = 0.0
    """Longest delay of a sent record, in seconds; a longer one is refused at publish."""
    headers: bool = True
    """The provider carries headers; without, the adapter wraps body and headers in an envelope."""
    max_headers: int | None = None
    """Number of headers of one message."""
    max_header: int | None = None
    """Bytes of one header value."""
    max_body: int | None = None
    """Bytes of a body."""
    max_message: int | None = None
    """Bytes of body and headers together; the kernel keeps a reserve in it for dead-letter headers."""
