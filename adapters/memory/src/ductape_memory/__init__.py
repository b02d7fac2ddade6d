"""The in-memory adapter of ductape: the embedded default, and the reference for authors of adapters."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ductape.adapter import Adapter, Capabilities, Purpose, Site

from ._broker import MemoryBroker
from ._config import MemoryConfig
from ._connection import MemoryConnection
from ._faults import Faults
from ._imitations import LOG, LOSSY, QUEUE, STREAM, claimed, derived, kept
from ._wire import Entry

__all__ = [
    "LOG",
    "LOSSY",
    "QUEUE",
    "STREAM",
    "Entry",
    "Faults",
    "MemoryAdapter",
    "MemoryBroker",
    "MemoryConfig",
    "MemoryConnection",
]


class MemoryAdapter(Adapter[MemoryConfig]):
    """Publishes and consumes inside one process."""

    api = 1
    config = MemoryConfig
    capabilities = msgspec.structs.replace(QUEUE, history=True)  # the most of any imitation
    channel_field = "channel"
    group_field = "group"

    def __init__(
        self,
        capabilities: Capabilities | None = None,
        *,
        purposes: Mapping[Purpose, Capabilities] | None = None,
    ) -> None:
        """Build an adapter.

        Args:
            capabilities: What it is to be able to do, in place of what the imitation in the configuration claims. What
                contradicts itself is not claimed (a log has no leases, for instance).
            purposes: The same for the channels of one purpose.
        """
        self._wished, self._purposes = capabilities, dict(purposes or {})
        if capabilities is not None:
            self.capabilities = kept(capabilities)

    async def connect(self, config: MemoryConfig, site: Site) -> MemoryConnection:
        """Connect to the broker that the configuration names, in the running event loop."""
        broker = MemoryBroker.of(config.name)
        broker.rules.calls["connect"] += 1
        if broker.rules.armed:
            await broker.rules.gate("connect", site.clock)
        return MemoryConnection(broker, config, site, self._claims(config))

    def _claims(self, config: MemoryConfig) -> Mapping[Purpose, Capabilities]:
        """Return what holds for the channels of each purpose."""
        events = kept(self._purposes.get(Purpose.EVENTS, self._wished or claimed(config)))
        claims = {purpose: derived(events, purpose, config.lease) for purpose in Purpose}
        return claims | {purpose: kept(caps) for purpose, caps in self._purposes.items()}
