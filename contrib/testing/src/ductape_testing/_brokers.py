"""The brokers of a bench: the memory adapter in place of every provider, and a note of what is published."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import msgspec

from ductape import Registry
from ductape.adapter import Adapter, AdapterError, Capabilities, Channel, Outgoing, Purpose, Sender, Site, Stored
from ductape.errors import ConfigError
from ductape_memory import LOG, LOSSY, QUEUE, STREAM, MemoryAdapter, MemoryBroker, MemoryConfig, MemoryConnection

__all__ = ["BenchAdapter", "Brokers", "capabilities_of"]

_EVERYTHING = msgspec.structs.replace(QUEUE, history=True)
"""Whatever a subscription asks for is there: where no provider is named, none refuses."""
_KINDS = {"queue": QUEUE, "log": LOG, "stream": STREAM, "lossy": LOSSY}

Seen = Callable[[Outgoing], None]


def capabilities_of(imitate: object) -> Capabilities:
    """Return what the brokers are to be able to do.

    Raises:
        AdapterNotUsable: The adapter that is to be imitated is not installed, or there is none of this name.
        ConfigError: ``OPTION_INVALID``: it is neither a name nor `Capabilities`.
    """
    if imitate is None:
        return _EVERYTHING
    if isinstance(imitate, Capabilities):
        return imitate
    if not isinstance(imitate, str) or not imitate:
        kinds = ", ".join(map(repr, _KINDS))
        text = f"bench(imitate={imitate!r}): give {kinds}, a provider such as 'kafka', or Capabilities."
        raise ConfigError("OPTION_INVALID", text, option="imitate")
    if imitate in _KINDS:
        return _KINDS[imitate]
    where = f"bench(imitate={imitate!r}) takes the capabilities that this adapter declares"
    adapter: Adapter[msgspec.Struct] = Registry().adapter(imitate, where=where)
    return adapter.capabilities


class Brokers:
    """The memory brokers of a bench by tag and environment; they outlive the client's connections."""

    def __init__(self, capabilities: Capabilities, seen: Seen) -> None:
        """Begin without any; `seen` is told of every event that is stored."""
        self.capabilities, self.seen = capabilities, seen
        self.all: dict[tuple[str, str], MemoryBroker] = {}

    def get(self, tag: str, env: str) -> MemoryBroker:
        """Return the broker of this tag in this environment."""
        broker = self.all.get((tag, env))
        if broker is None:
            broker = self.all[tag, env] = MemoryBroker(f"{tag} in {env}")
        return broker

    @property
    def listing(self) -> bool:
        """Somebody is listing dead letters."""
        return any(
            any(store.members())
            for broker in self.all.values()
            for (_, purpose, _), store in broker.state.stores.items()
            if purpose is Purpose.DEAD
        )


class BenchAdapter(MemoryAdapter):
    """Connects to the brokers of a bench, whatever the configuration says."""

    def __init__(self, brokers: Brokers) -> None:
        """Serve every provider of one client."""
        super().__init__(brokers.capabilities)
        self._brokers = brokers

    async def connect(self, config: MemoryConfig, site: Site) -> MemoryConnection:
        """Connect; what the environment forbids to create is created here: the broker begins empty."""
        broker = self._brokers.get(site.broker, site.env)
        broker.rules.calls["connect"] += 1
        if broker.rules.armed:
            await broker.rules.gate("connect", site.clock)
        site = msgspec.structs.replace(site, create=True)
        connection = _Connection(broker, config, site, self._claims(config))
        connection.seen = self._brokers.seen
        return connection


class _Connection(MemoryConnection):
    """A connection whose senders are watched."""

    seen: Seen

    async def sender(self, channel: Channel) -> Sender:  # type: ignore[override]  # the kernel asks for no more
        """Open a sender."""
        sender = await super().sender(channel)
        return _Watched(sender, self.seen) if channel.purpose is Purpose.EVENTS else sender


class _Watched(Sender):
    """A sender that tells what it stored."""

    def __init__(self, inner: Sender, seen: Seen) -> None:
        self._inner, self._seen, self.limits = inner, seen, inner.limits

    def lane(self, record: Outgoing) -> Hashable | None:
        return self._inner.lane(record)

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Stored | AdapterError]:
        answers = await self._inner.send(records)
        for record, answer in zip(records, answers, strict=True):
            if isinstance(answer, Stored):
                self._seen(record)
        return answers

    async def close(self) -> None:
        await self._inner.close()
