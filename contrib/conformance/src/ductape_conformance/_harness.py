"""What the author of an adapter writes: where its server is, and what can be done to it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

from ductape import Registry
from ductape.adapter import Adapter, Capabilities, Clock, Connection

from ._scenario import HOOKS

__all__ = ["Harness"]


class Hooks:
    """What can be done to a server and its connections; each that a harness overrides opens further scenarios."""

    async def cut(self) -> None:
        """Break every connection with a reset; the server lives, and accepts new ones."""
        raise NotImplementedError

    async def stall(self) -> None:
        """Pass nothing on any more, in both directions, until `resume`."""
        raise NotImplementedError

    async def slow(self, seconds: float) -> None:
        """Pass everything on so many seconds later, one piece after the other, until `resume`."""
        raise NotImplementedError

    async def half_open(self) -> None:
        """Let every request reach the server and no answer come back, until `resume`."""
        raise NotImplementedError

    async def resume(self) -> None:
        """End `stall`, `slow` and `half_open`; connections that lost an answer are broken by it."""
        raise NotImplementedError

    async def wrong_credentials(self) -> Mapping[str, Any]:
        """Return the scenario's config with credentials that the server refuses."""
        raise NotImplementedError

    async def kill(self) -> None:
        """Kill the server, as ``kill -9`` does, until `restart`."""
        raise NotImplementedError

    async def restart(self) -> None:
        """Start the server again, with what it had stored."""
        raise NotImplementedError

    async def crash(self, connection: Connection) -> None:
        """Let the process of one connection be gone, as the server sees it."""
        raise NotImplementedError

    async def forget(self, channel: str, group: str) -> None:
        """Have the server lose a group."""
        raise NotImplementedError


class Harness(Hooks):
    """Stands between the kit and one server. Each scenario gets an object of its own, inside a running loop.

    Override `config`, and those of the hooks that are possible; a hook that is not overridden skips its scenarios, and
    the report says so. `cut`, `stall` and `kill` hold for everything that the scenario has connected.

    Attributes:
        adapter: The name of its entry point, as users write it under ``type``; empty: ``--ductape-adapter`` names it.
        client: The distribution of the client library: for the report, and not to be imported before it is needed.
        server: The server's version, for the report.
        real: False for emulators and imitations.
        redelivery_bound: Seconds within which what nobody settles, or was handed back, is delivered again.
        patience: Seconds that anything else may take.
        processes: Another process with the same config reaches the same server, so that one can be killed.
        fixtures: Names of pytest fixtures that it needs; their values are in `fixture`.
        quirks: Ids of scenarios that cannot be seen here (an emulator's gap, say), and why: skipped, and reported.
    """

    adapter: str = ""
    client: str = ""
    server: str = ""
    real: bool = True
    redelivery_bound: float = 5.0
    patience: float = 10.0
    processes: bool = False
    fixtures: ClassVar[tuple[str, ...]] = ()
    quirks: Mapping[str, str] = {}

    def __init__(self, **fields: Any) -> None:
        """Set attributes, as `suite` was given them."""
        for name, value in fields.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no {name!r}")
            setattr(self, name, value)
        self.fixture: dict[str, Any] = {}
        self.can: Capabilities | None = None
        """What was found to hold for the channel of events, for the report."""
        self.stack = AsyncExitStack()
        """Closed after the scenario: for proxies and the like."""

    # -- what an author writes

    async def config(self, namespace: str) -> Mapping[str, Any]:
        """Return the config of an environment, as a user writes it. Channels of `namespace` are nobody else's."""
        return {}

    def clock(self) -> Clock | None:
        """Return another clock than the real one: a `VirtualClock` where no server is involved."""
        return None

    # -- what the kit asks

    def make(self) -> Adapter[Any]:
        """Return the adapter, found as a user's client finds it."""
        return _registry().adapter(self.adapter, where=f"the conformance kit uses {self.adapter!r}")

    def hooks(self) -> frozenset[str]:
        """Return the names of the hooks that are overridden."""
        found = {name for name in HOOKS if getattr(type(self), name) is not getattr(Harness, name)}
        return frozenset(found - {"processes"} | ({"processes"} if self.processes else set()))

    def facts(self) -> dict[str, Any]:
        """Return what is tested, for the report."""
        found: dict[str, Any] = {"adapter": self.adapter, "server": self.server, "real": self.real}
        found["kit"], found["core"] = installed("ductape-conformance"), installed("ductape-core")
        found["adapter_version"] = _adapter_version(self.adapter)
        names = self.can.__struct_fields__ if self.can is not None else ()
        found["capabilities"] = {name: told(getattr(self.can, name)) for name in names}
        found["client"] = f"{self.client} {installed(self.client)}" if self.client else ""
        return found


@cache
def _registry() -> Registry:
    """Return one for all scenarios: what is installed is looked up once, which takes longer than many a scenario."""
    return Registry()


@cache
def _adapter_version(adapter: str) -> str:
    name = adapter.upper().replace("-", "_")
    found = next((one for one in _registry().installed() if one.name == name), None)
    return f"{found.distribution} {found.version}" if found else ""


@cache
def installed(distribution: str) -> str:
    """Return the version of a distribution, or nothing."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def told(value: object) -> str:
    """Return a capability as people read it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    name = getattr(value, "name", None)
    if name is not None:
        return str(name).lower()
    return "any" if value == float("inf") else f"{value:,.0f}" if isinstance(value, int) else f"{value:g}"
