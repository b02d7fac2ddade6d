"""Adapters with one defect each that only another process shows: the memory adapter has none, so files stand in."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

from ductape.adapter import Adapter
from ductape_conformance._harness import Harness
from ductape_conformance._tap import tapped

from ._mutant import Mutant
from ._ways import claiming

__all__ = ["PROCESSES"]


class Files(Harness):
    """The directory adapter with a defect, in real time; the process that is killed has the whole one."""

    adapter = "directory"
    real = False
    redelivery_bound = 1.0
    patience = 4.0
    processes = True

    def __init__(self, mutant: Mutant) -> None:
        """Break it."""
        super().__init__()
        self.mutant = mutant

    def make(self) -> Adapter[Any]:
        """Return the broken adapter."""
        tap = tapped(super().make())
        if self.mutant.spoil is not None:
            self.mutant.spoil(tap)
        return tap

    async def config(self, namespace: str) -> Mapping[str, Any]:
        """Return a folder of its own."""
        path = self.stack.enter_context(tempfile.TemporaryDirectory())
        return {"path": path, "lease": self.mutant.lease, "poll": 0.02, "sync": False}


class Eager(Files):
    """The same, whose client is what it cannot do without."""

    client = "msgspec"


PROCESSES: tuple[Mutant, ...] = (
    Mutant("imports-its-client-at-once", ("contract.importing-loads-no-client",), harness=Eager),
    Mutant(
        "what-a-dead-process-had-stays-with-it",
        ("delivery.a-killed-process-loses-nothing",),
        claiming(lease=0.5),
        lease=3600.0,
        harness=Files,
    ),
)
