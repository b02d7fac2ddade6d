"""A scenario: one promise, as a function that fails where it is not kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from ductape.adapter import Capabilities, Count, Durability, Groups, Order

if TYPE_CHECKING:
    from ._stage import Stage

__all__ = ["HOOKS", "SCENARIOS", "Level", "NotApplicable", "Scenario", "gaps", "scenario"]

Level = Literal["contract", "promise"]
Play = Callable[["Stage"], Awaitable[None]]

HOOKS = ("cut", "stall", "slow", "half_open", "kill", "crash", "forget", "wrong_credentials", "processes")
"""What a harness may be able to do to its server or connections; ``processes``: others reach the same server."""

_CAPABILITIES: Mapping[str, Callable[[Capabilities], bool]] = {
    "groups": lambda can: can.groups is not Groups.NONE,
    "many": lambda can: can.groups is Groups.MANY,
    "one": lambda can: can.groups is Groups.ONE,
    "kept": lambda can: can.durability is not Durability.NONE and can.groups is not Groups.NONE,
    "stored": lambda can: can.durability is Durability.STORED,
    "order": lambda can: can.order >= Order.KEY,
    "total": lambda can: can.order >= Order.TOTAL,
    "lease": lambda can: can.lease is not None,
    "extend": lambda can: can.lease is not None and (can.lease_total or 0.0) > can.lease,
    "locks": lambda can: can.order_locks,
    "limited-lease": lambda can: can.lease_total is not None and can.lease_total < 1e9,
    "lease-shared": lambda can: can.lease_shared,
    "count": lambda can: can.count is not Count.NONE,
    "exact": lambda can: can.count is Count.EXACT,
    "history": lambda can: can.history,
    "confirmed": lambda can: can.confirmed_ack,
    "watermark": lambda can: can.watermark,
    "retry-delay": lambda can: can.retry_delay > 0,
    "send-delay": lambda can: can.send_delay > 0,
    "header-limits": lambda can: can.max_headers is not None or can.max_header is not None,
    "max-message": lambda can: can.max_message is not None or can.max_body is not None,
}


class NotApplicable(Exception):
    """The scenario does not concern this adapter, or cannot be played here; the text says why."""

    def __init__(self, reason: str, *, declared: bool = False) -> None:
        """Say why; `declared`: because a capability is (or is not) claimed, not because the harness lacks something."""
        super().__init__(reason)
        self.declared = declared


class Scenario(NamedTuple):
    """One promise."""

    id: str
    level: Level
    needs: tuple[str, ...]
    """Capabilities (``!order``: not declared), hooks, and ``virtual``: time that jumps."""
    promise: str
    play: Play


SCENARIOS: dict[str, Scenario] = {}
"""All of them by id, in the order in which they are played. Ids are stable: reports and mutants name them."""


def scenario(id: str, needs: str = "", *, level: Level = "contract") -> Callable[[Play], Play]:
    """Enter a function into the catalogue; the first line of its docstring is the promise."""
    wanted = tuple(needs.split())
    unknown = [one for one in wanted if one.lstrip("!") not in {*_CAPABILITIES, *HOOKS, "virtual"}]
    if unknown or id in SCENARIOS:
        raise ValueError(f"scenario {id!r}: unknown needs {unknown}, or the id is taken")

    def entered(play: Play) -> Play:
        promise = (play.__doc__ or "").strip().splitlines()[0]
        SCENARIOS[id] = Scenario(id, level, wanted, promise, play)
        return play

    return entered


def gaps(scenario: Scenario, can: Capabilities, hooks: frozenset[str], virtual: bool) -> NotApplicable | None:
    """Return why a scenario cannot be played, or None."""
    missing = [
        one for one in scenario.needs if (one in HOOKS and one not in hooks) or (one == "virtual" and not virtual)
    ]
    if missing:
        return NotApplicable(f"the harness has no {', '.join(missing)}")
    for one in scenario.needs:
        name = one.lstrip("!")
        if name in _CAPABILITIES and _CAPABILITIES[name](can) == one.startswith("!"):
            return NotApplicable(f"{name} is {'declared' if one.startswith('!') else 'not declared'}", declared=True)
    return None
