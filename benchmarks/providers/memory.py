"""The memory adapter: no server, and nothing to compare with; what remains is the kernel and a store."""

from __future__ import annotations

from typing import Any

from . import Provider


class Memory(Provider):
    """The embedded broker, in the process that measures."""

    distribution = "ductape-memory"
    type = "MEMORY"
    settings = "imitates a queue"
    keeps = False

    def config(self, url: str) -> dict[str, Any]:
        """Raise the bound on what is stored and not settled: a backlog is loaded before anybody reads."""
        return {"max_messages": 1_000_000, "max_bytes": 2**34}


PROVIDER = Memory()
