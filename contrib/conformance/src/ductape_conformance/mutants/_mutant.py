"""What a mutant is, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from ductape.adapter import Adapter, Capabilities, Connection, Fault, Purpose
from ductape_conformance._clock import VirtualClock
from ductape_conformance._harness import Harness
from ductape_conformance._run import play
from ductape_conformance._scenario import NotApplicable
from ductape_conformance._suite import SCENARIOS
from ductape_conformance._tap import Tap, tapped
from ductape_memory import QUEUE, MemoryAdapter, MemoryBroker, MemoryConnection

__all__ = ["Broken", "Mutant", "Verdict", "judge"]


class Mutant(NamedTuple):
    """One defect."""

    name: str
    killers: tuple[str, ...]
    """Scenarios that must fail; the first is the one that is made for it."""
    spoil: Callable[[Tap], None] | None = None
    """Breaks the adapter, by rules on a tap around it."""
    patch: Callable[[], AbstractContextManager[object]] = nullcontext
    """Breaks the kernel while it lasts."""
    imitate: str = "queue"
    caps: Capabilities | None = None
    purposes: Mapping[Purpose, Capabilities] | None = None
    lease: float = 30.0
    harness: Callable[[Mutant], Harness] | None = None
    """Where it is played; None: `Broken`."""


class Verdict(NamedTuple):
    """How a mutant fared."""

    mutant: Mutant
    killed: tuple[str, ...]
    survived: tuple[str, ...]
    """Scenarios that should have failed, and passed or could not be played."""
    how: str
    """What the first killer said."""


class Faulty(Harness):
    """A memory broker, and what can be done to it."""

    deaf = False
    mutant: Mutant
    broker: MemoryBroker

    async def cut(self) -> None:
        """Break every connection."""
        self.broker.faults.cut(Fault.TRANSIENT if self.mutant.imitate == "stream" else Fault.LOST)

    async def stall(self) -> None:
        """Answer nothing."""
        for method in ("send", "receive", "settle", "extend", "declare", "connect"):
            self.broker.faults.stall(method)

    async def slow(self, seconds: float) -> None:
        """Answer late."""
        for method in ("send", "receive", "settle", "extend", "declare", "connect"):
            self.broker.faults.stall(method, seconds=seconds)

    async def half_open(self) -> None:
        """Do everything, and answer nothing."""
        self.deaf = True
        for method in ("send", "settle", "extend", "declare"):
            self.broker.faults.stall(method, seconds=9.0, stored=True)
            self.broker.faults.fail(method, Fault.AMBIGUOUS, times=1000, stored=True)
        self.broker.faults.stall("receive", seconds=9.0)

    async def wrong_credentials(self) -> Mapping[str, Any]:
        """Refuse everybody."""
        self.broker.faults.fail("connect", Fault.CONFIG, times=1000)
        return await self.config(self.broker.name)

    async def resume(self) -> None:
        """Answer again."""
        self.broker.faults.resume()
        if self.deaf:
            self.deaf = False
            self.broker.faults.clear()
            await self.cut()

    async def kill(self) -> None:
        """Be gone."""
        self.broker.faults.restart(away=1e9)

    async def restart(self) -> None:
        """Be back."""
        self.broker.faults.clear()

    async def crash(self, connection: Connection) -> None:
        """Let one process be gone."""
        assert isinstance(connection, MemoryConnection)
        connection.die("its process crashed")

    async def forget(self, channel: str, group: str) -> None:
        """Lose a group."""
        self.broker.faults.forget(channel, group, Purpose.EVENTS)


class Broken(Faulty):
    """The memory adapter with a defect."""

    adapter = "memory"
    real = False
    redelivery_bound = 40.0

    def __init__(self, mutant: Mutant | None = None) -> None:
        """Break it; without a mutant it is whole, as a control."""
        super().__init__()
        self.mutant = mutant or Mutant("none", ())

    def make(self) -> Adapter[Any]:
        """Return the broken adapter."""
        mutant = self.mutant
        caps = mutant.caps or (QUEUE if mutant.purposes else None)
        adapter = MemoryAdapter(caps, purposes=mutant.purposes)
        if mutant.spoil is None:
            return adapter
        tap = tapped(adapter)
        mutant.spoil(tap)
        return tap

    async def config(self, namespace: str) -> Mapping[str, Any]:
        """Return a broker of its own."""
        self.broker = MemoryBroker.of(namespace)
        return {"name": namespace, "imitate": self.mutant.imitate, "lease": self.mutant.lease}

    def clock(self) -> VirtualClock:
        """Return time that jumps."""
        return VirtualClock()


def judge(mutant: Mutant, loop: str = "asyncio") -> Verdict:
    """Play the scenarios that should kill a mutant."""
    killed: list[str] = []
    survived: list[str] = []
    how = ""
    for id in mutant.killers:
        with mutant.patch():  # what fails here is a mistake of ours, and kills nobody
            try:
                play(SCENARIOS[id], (mutant.harness or Broken)(mutant), loop)
            except NotApplicable as reason:
                survived.append(f"{id} (not played: {reason})")
            except BaseException as error:  # a hang, a crash and a broken promise are all noticed
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                killed.append(id)
                how = how or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:150]
            else:
                survived.append(id)
    return Verdict(mutant, tuple(killed), tuple(survived), how)
