"""The NAME adapter of ductape."""

from __future__ import annotations

from ductape.adapter import Adapter, Capabilities, Connection, Durability, Groups, Site

from ._config import CamelConfig

__all__ = ["CamelAdapter", "CamelConfig"]


class CamelAdapter(Adapter[CamelConfig]):
    """Events on NAME."""

    api = 1
    config = CamelConfig
    channel_field = "channel"
    group_field = "group"
    # Only what is true. What is not claimed, the kernel does itself or refuses by name.
    capabilities = Capabilities(durability=Durability.BUFFERED, groups=Groups.ONE, history=True)

    async def connect(self, config: CamelConfig, site: Site) -> Connection:
        """Connect and authenticate."""
        from ._connection import CamelConnection  # and with it the client library: only when it is used

        return await CamelConnection.open(config, site)
