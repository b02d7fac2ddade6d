"""Everything that the author of an adapter reads, on one page.

```text
Adapter     knows its config type; connects                    1 method
Connection  opens senders and receivers; declares channels     7 methods, 2 of them abstract
Sender      stores records                                     3 methods, 1 abstract
Receiver    hands over deliveries, settles them                5 methods, 4 abstract
```

The kernel calls, the adapter answers. An adapter never retries, never reconnects by itself, never waits without a
bound, never starts a handler, and never formats an error for a user. Three rules replace the code that this would need:

1.  *Returned faults concern one record or delivery; a raised* `AdapterError` *concerns the object that raised it.*
    Raised ``TRANSIENT``: the kernel backs off and calls the same object again. Any other: the kernel ends the object's
    epoch, closes it, and opens a new one from the connection, or from a new connection (`Connection.sender` and
    `Connection.receiver` raising ``LOST`` discard the connection). ``LOST`` is raised by a receiver only if its
    deliveries are no longer ours: where leases or tokens outlive a connection, its death is ``TRANSIENT``, the epoch
    lives, and the adapter recovers what a lost answer contained. A returned ``LOST`` from `Sender.send` means: not
    stored, open a new sender after these answers.
2.  *The kernel never cancels a call to an adapter.* It asks it to end (`stop`, `close`) and abandons it when it
    overstays its bound; what arrives after that is closed. So a long poll cannot swallow a message.
    Bounds in seconds: `receive` its wait + 10, `send` what `Limits.seconds` says, `receiver` 60, `declare` 30,
    `connect`, `sender`, `settle`, `extend` and the rest 10, `stop`, `close` and `check` 5.
3.  *Every delivery carries an* `Epoch`. Once it ends, the kernel neither starts nor settles anything of it.

Time comes from `Site.clock` only. An adapter imports this module and `ductape.errors`, and nothing else of ductape.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import ClassVar, Generic, TypeVar

import msgspec

from ._capabilities import Capabilities, Count, Durability, Groups, Order
from ._clock import Clock
from ._epoch import Epoch
from ._faults import FaultTable, each, translate, translated
from ._headers import HEADERS, HEADERS_VERSION, Header
from ._records import Channel, Delivery, Intake, Limits, Outgoing, Purpose, Settlement, Stored, Verdict
from ._secrets import Secret, SecretUrl
from ._tls import Tls
from ._window import Window
from .errors import AdapterError, Fault

__all__ = [
    "ADAPTER_API",
    "HEADERS",
    "HEADERS_VERSION",
    "Adapter",
    "AdapterError",
    "Annotating",
    "Capabilities",
    "Channel",
    "Clock",
    "Connection",
    "Count",
    "Delivery",
    "Durability",
    "Epoch",
    "Fault",
    "FaultTable",
    "Groups",
    "Header",
    "Intake",
    "Limits",
    "Measurable",
    "Order",
    "Outgoing",
    "Purpose",
    "Receiver",
    "Removable",
    "Secret",
    "SecretUrl",
    "Seekable",
    "Sender",
    "Settlement",
    "Site",
    "Stored",
    "Tls",
    "Verdict",
    "Window",
    "each",
    "translate",
    "translated",
]

ADAPTER_API = 1
"""The version of this contract. An adapter states the one it was written for as a literal: ``api = 1``."""

T = TypeVar("T")
C = TypeVar("C", bound=msgspec.Struct)


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """Where an adapter finds itself. The names go into client ids."""

    product: str
    env: str
    broker: str
    clock: Clock
    log: logging.Logger
    """``ductape.adapter.<name>``."""
    create: bool = True
    """May channels and groups be created? If not, `declare` only verifies."""


class Adapter(ABC, Generic[C]):
    """What the entry point names. Importing its module must not import the client library.

    The kernel makes one object per client and provider, without arguments.
    """

    api: ClassVar[int]
    """The contract it was written for: a literal ``1``."""
    config: type[C]
    """A frozen, keyword-only Struct with snake_case fields. The kernel accepts camelCase too and refuses other keys."""
    capabilities: Capabilities
    """The most that this adapter can do, for the docs. What holds for a channel is `Connection.capabilities`."""
    channel_field: ClassVar[str] = ""
    """The config field that may name the one physical channel (Kafka ``topic``); empty: there is none."""
    group_field: ClassVar[str] = ""
    """The config field that may name the default group (Kafka ``group_id``); empty: there is none."""

    @abstractmethod
    async def connect(self, config: C, site: Site) -> Connection:
        """Connect and authenticate.

        Raises:
            AdapterError: ``CONFIG`` for what only an operator can mend, ``TRANSIENT`` if the server is away.
        """


class Connection(ABC):
    """A live client. Its senders and receivers may share it or not, as the client wants."""

    @abstractmethod
    async def sender(self, channel: Channel) -> Sender:
        """Open a sender. `declare` was called for every group of the channel."""

    @abstractmethod
    async def receiver(self, channel: Channel, intake: Intake) -> Receiver:
        """Open a receiver and join the group. What is stored after this returns reaches the group."""

    def capabilities(self, channel: Channel) -> Capabilities | None:
        """Return what holds for this channel here; None: what the adapter states. Called after `declare`.

        The channel carries the group that is joined, where one is: what that group is may tell (Pub/Sub's order).
        """
        return None

    async def declare(self, channel: Channel) -> None:  # noqa: B027 - a broker may have nothing to declare
        """Create the channel and its group if they are missing and `Site.create` allows it; else verify. Idempotent.

        Called before every `sender` and `receiver`, reopening included, with every group of the topic, and before a
        `send` when the last time was a minute ago: a server that lost a group would otherwise lose what is published
        for it while it is idle.

        Raises:
            AdapterError: ``CONFIG`` if it is missing and may not be created.
        """

    async def check(self) -> None:  # noqa: B027 - a broker may have nothing to ask
        """Make one cheap round trip that disturbs nothing; raise `AdapterError` if it fails."""

    async def close(self) -> None:  # noqa: B027 - a client may have nothing to close
        """Close; idempotent. What was opened from it and is still called raises ``LOST`` from then on."""

    def unwrap(self, kind: type[T]) -> T:
        """Return the native object of this type; the adapter's README lists the types."""
        raise TypeError(f"{type(self).__name__} has no {kind.__name__}")


class Sender(ABC):
    """Stores records on one channel."""

    limits: Limits = Limits()

    def lane(self, record: Outgoing) -> Hashable | None:
        """Return the broker's own lane of this record (a partition); None: the kernel hashes the key."""
        return None

    @abstractmethod
    async def send(self, records: Sequence[Outgoing]) -> Sequence[Stored | AdapterError]:
        """Store the records in as few operations as the client needs.

        Concurrent up to `Limits.calls`; ends within `Limits.seconds`. Where `Channel.order` is KEY or TOTAL, after a
        record of a key failed no later record of that key in the call may be stored; those are ``TRANSIENT``.

        Returns:
            One answer per record, in order.
        """

    async def close(self) -> None:  # noqa: B027 - a client may have nothing to close
        """Close; idempotent."""


class Receiver(ABC):
    """Hands over the messages of one group on one channel, and settles them."""

    @abstractmethod
    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return 0 to `limit` deliveries as soon as there is one, after at most `wait` seconds and a round trip.

        `wait` bounds this call, not the poll: keep a poll open across calls and hand its result to the next. One call
        at a time, never cancelled. ``limit=0`` takes nothing and serves the client (polls, heartbeats). After `stop`
        it returns what is already on its way, then nothing. A message whose body or headers cannot be read is handed
        over with `Delivery.error`.
        """

    @abstractmethod
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[AdapterError | None]:
        """Settle deliveries; one answer each.

        Runs beside `receive`, never beside `extend` or itself, and ends within 10 s or a third of the lease. A delivery
        keeps its place in the window and its lease until it is answered. ``LOST``: the message is, or will be, with
        somebody else. ``TRANSIENT``: the kernel settles it again while its epoch lives.
        """

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[AdapterError | None]:
        """Renew leases and set `leased_until`; one answer each, ``LOST`` where the message is with somebody else.

        Called only where `Capabilities.lease_total` is longer than `lease`.
        """
        raise NotImplementedError

    @abstractmethod
    async def stop(self) -> None:
        """Take no more; idempotent. A waiting `receive` ends as soon as the client allows. Settling still works.

        Key ownership stays until `close`: another member must not begin a key that still runs here.
        """

    @abstractmethod
    async def close(self) -> None:
        """Make durable what was settled, hand back what is inside, leave the group, end the epochs; idempotent."""


class Removable(ABC):
    """Optional: a connection that can remove a group, so that a temporary one leaves nothing behind."""

    @abstractmethod
    async def remove(self, channel: Channel) -> None:
        """Remove the group of an EVENTS channel with all that only it holds: cursor, RETRY and DEAD channels.

        Idempotent. Called when this client has no receiver of the group; other groups and the channel stay.
        """


class Measurable(ABC):
    """Optional: a receiver that knows how far behind it is, or what it had to drop."""

    @abstractmethod
    async def lag(self) -> int | None:
        """Return how many messages the group has not been given yet; None if that is unknown."""

    def dropped(self) -> int:
        """Return how many messages this receiver dropped since it opened (lossy channels, when its buffer is full)."""
        return 0


class Annotating(ABC):
    """Optional: a receiver that can keep `Delivery.failed` and `Delivery.due` of what it has not settled."""

    @abstractmethod
    async def note(self, deliveries: Sequence[Delivery]) -> None:
        """Keep them; called, coalesced, after they changed. Never beside `settle`."""


class Seekable(ABC):
    """Optional: a receiver whose whole group can be moved."""

    @abstractmethod
    async def seek(self, start: str) -> None:
        """Move to ``earliest``, ``latest`` or an RFC 3339 instant. Called only without other members and deliveries."""
