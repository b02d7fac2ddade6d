"""Providers on real servers, each beside what a user would pick instead. This page is all that a new one needs.

A provider is one module here, of the name its adapter has (`redis.py` is the model), that ends with ``PROVIDER = …``:
an object of a class derived from `Provider`. Nothing is registered elsewhere. It says what only this broker knows:

```text
Provider   distribution, type, settings    what it is called, and what a reader must know of server and settings
           server()                        the server of `tests.brokers`; None where there is none
           config(url)                     the config of ductape's env
           faststream(url, callers)        FastStream's broker, and options for `publish` and `subscriber`
           raw                             the class below; None where no client of the broker's own is compared
Raw        open, close, declare            the client, as its users make it; channel and group
           publish, publish_bulk           one message, awaited; the client's best bulk path
           consume, consume_bulk           at the same guarantee: acknowledged after the handler, each, or at its best
           empty, stored, left             the probes: forget everything; how many are stored; how many are not settled
```

Everything else is shared (`contestants.py`, `cases.py`): callers, clock, ledger, patience, backlogs, ductape,
FastStream's handler, report. Rules:

-   **Same guarantee for everybody**: a publish returns once the broker has stored the message (acks=all, confirms,
    JetStream's ack, XADD's answer); a message is acknowledged after its handler returned. No option may weaken it for
    one contestant. Where a client has no such path (no bulk), leave the method out: that contestant takes no part.
-   `Raw` and FastStream use the channel `CHANNEL`, the group `GROUP` and the headers `HEADERS` (with an id: five values
    as ductape writes them); ductape uses its own channel, named by its tags, with everything as it comes. One server
    serves all, one after the other: `empty` runs before each, and must leave nothing that an earlier run made.
-   Idiomatic means: what the client's documentation shows, with the pool or channel it needs to serve 1,000 callers.
    Ways are named in `ways`; a reader sees them. The adapter under test is found by its entry point, as users' are.
-   Imports of clients and of FastStream stand inside methods: every measurement is a fresh process that should load
    only its own.
-   A new group begins at the channel's beginning, FastStream's too (Kafka: ``auto_offset_reset="earliest"``): backlogs
    are stored before anybody reads.

Try it: ``python -m benchmarks <name> quick``. A measurement alone, with its traceback (a consumer wants its backlog
first: the same with ``"fills": true``; ``python -m tests.brokers <name>`` runs a server and tells the address)::

    python -m benchmarks.child \
        '{"suite": "<name>", "case": "consume", "contestant": "raw", "messages": 1000, "url": "…"}'

If a figure looks wrong, profile that line: ``python -m cProfile -s tottime -m benchmarks.child …``.
"""

from __future__ import annotations

import abc
import importlib
import importlib.util
import os
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from benchmarks.load import BROKER, EVENT, Work
from benchmarks.results import server_version

if TYPE_CHECKING:
    from tests.brokers import Server

__all__ = ["CHANNEL", "GROUP", "HEADERS", "NAMES", "FastStream", "Provider", "Raw", "Ways", "Work", "provider"]

CHANNEL, GROUP = "raw", "billing"
HEADERS = {"event": EVENT, "type": "application/json", "source": BROKER}
"""What the raw client and FastStream send with each message, beside its id."""


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """What a client's methods do, in its own words: a reader judges by them whether it was used well."""

    publish: str
    consume: str
    publish_bulk: str = ""
    consume_bulk: str = ""


class Raw(abc.ABC):
    """The broker's own client, used as its documentation shows. Made and opened in the process that measures."""

    ways: ClassVar[Ways]
    bulk: ClassVar[int] = 1000
    """Messages that `publish_bulk` is given at a time."""

    def __init__(self, url: str) -> None:
        """Take the server's address; nothing is opened yet."""
        self.url = url

    @abc.abstractmethod
    async def open(self, callers: int) -> None:
        """Load the client and connect, so that so many callers at a time can publish. Not measured."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Close everything. Not measured."""

    @abc.abstractmethod
    async def declare(self) -> None:
        """Make `CHANNEL` with `GROUP` reading it from its beginning; does nothing if they are there. Not measured."""

    @abc.abstractmethod
    def publish(self, body: bytes, id: str) -> Awaitable[object]:
        """Send one message with `HEADERS` and this id; done once it is stored."""

    def publish_bulk(self, messages: Sequence[tuple[bytes, str]]) -> Awaitable[object]:
        """Send bodies with their ids by the quickest path the client has; done once all are stored."""
        raise NotImplementedError

    @abc.abstractmethod
    async def consume(self, work: Work) -> None:
        """Join `GROUP`, read, ``await work.handle(work.decode(body))``, then acknowledge: each message by itself.

        Returns after `work.messages` of them, which is looked at anew after every read: it becomes 0 when the run is to
        end. So a read waits for at most a second. A client that calls back starts that, and awaits `work.finished()`.
        The clock begins when it is called, or anew with `work.joined()`, where joining the group takes a while.
        What was acknowledged must have reached the server in the end.
        """

    async def consume_bulk(self, work: Work) -> None:
        """As `consume`, by the quickest path of the same guarantee: acknowledged after the handler, many at once."""
        raise NotImplementedError

    @abc.abstractmethod
    async def empty(self) -> None:
        """Remove every channel and message of earlier runs, ductape's and FastStream's too."""

    async def stored(self) -> int | None:
        """Return how many messages all channels hold; None where nobody can tell.

        It is asked before a publish run and after it: the difference is what was stored, of what nobody reads.
        """
        return None

    async def left(self) -> int | None:
        """Return how many messages all groups have not settled after a consume run; None where nobody can tell."""
        return None

    async def connections(self) -> int | None:
        """Return how many connections the server has, this client's not counted; None where nobody can tell."""
        return None


RawClass = type[Raw]


class FastStream(msgspec.Struct, frozen=True, kw_only=True):
    """FastStream on this broker, at the same guarantee (a failed message must not be dropped or confirmed)."""

    broker: Any
    publish: dict[str, Any]
    """Options of ``broker.publish(message, …)``."""
    subscribe: dict[str, Any]
    """Options of ``broker.subscriber(…)``."""


class Provider(abc.ABC):
    """A provider, and who is compared on it."""

    distribution: ClassVar[str]
    """The adapter's; without it the provider is left out."""
    type: ClassVar[str]
    """As in an environment: ``REDIS``."""
    settings: ClassVar[str]
    """Of server and clients, as a reader must know them."""
    raw: RawClass | None = None
    faststream_module: ClassVar[str] = ""
    """Takes part where it is installed: ``faststream.redis``."""
    packages: ClassVar[Sequence[str]] = ()
    """Distributions whose versions the report names, beside those of `results.PACKAGES`."""
    keeps: ClassVar[bool] = True
    """What one process stores, another finds."""
    backlog: ClassVar[int] = 200_000
    """Messages of the long backlog; less where filling takes minutes."""
    least: ClassVar[int] = 0
    """Messages of a backlog at least. More where joining or leaving takes seconds: a run would be made short for that,
    and what joining and leaving cost would be most of what is measured."""

    leaves: ClassVar[float] = 0.0
    """Seconds that ending a subscription waits for its open poll; the quick form leaves out `suites.PATIENT` then."""
    subscriptions: ClassVar[int] = 1000
    """Subscriptions that one process can hold: cases of more are left out."""

    def server(self) -> Server | None:
        """Return the server, not started; None where there is none: `url` is then an empty folder of the run."""
        return None

    def version(self, server: Server) -> str:
        """Return what the server is, in a few words; by default what its program answers to ``--version``."""
        return server_version(server.origin)

    @abc.abstractmethod
    def config(self, url: str) -> dict[str, Any]:
        """Return the config of ductape's environment: as little as a user would write."""

    def faststream(self, url: str, callers: int) -> FastStream:
        """Return FastStream, not connected, logging off, able to serve so many callers."""
        raise NotImplementedError


def _names() -> tuple[str, ...]:
    order = ("memory", "sqlite", "redis", "kafka", "rabbitmq", "nats", "sqs", "google_pubsub")
    found = {path.stem for path in Path(__file__).parent.glob("[a-z]*.py")}
    return (*(name for name in order if name in found), *sorted(found - set(order)))


NAMES = _names()


def provider(name: str) -> Provider:
    """Return a provider."""
    module = importlib.import_module(f"{__name__}.{name}")
    found: Provider = module.PROVIDER
    return found


def own_servers() -> None:
    """Let servers be started here whatever the environment names: their data is removed between runs."""
    for name in [name for name in os.environ if name.startswith("DUCTAPE_TEST_")]:
        del os.environ[name]
