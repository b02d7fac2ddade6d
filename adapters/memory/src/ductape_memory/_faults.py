"""Faults on demand: what a test asks the broker to do wrong. Each ends by itself."""

from __future__ import annotations

import math
from collections.abc import Callable

from ductape.adapter import Outgoing, Purpose
from ductape.errors import AdapterError, Fault

from ._rules import ENDING, METHODS, Failure, Poison, Rules, Stall
from ._state import State

__all__ = ["Faults"]


class Faults:
    """The faults of one broker. Methods of the contract are named as they are spelled there.

    Attributes:
        calls: How often each of those methods was called.
    """

    def __init__(self, state: State, rules: Rules) -> None:
        """Begin with a broker that works."""
        self._state, self._rules = state, rules
        self.calls = rules.calls

    def cut(self, fault: Fault = Fault.LOST, *, times: int = 1) -> None:
        """Cut every connection.

        Args:
            fault: ``LOST``: they are dead, the epochs end, and what was out goes to others. ``TRANSIENT``: leases
                outlive the cut; whoever waits and the next `times` calls get the fault, then all works again.
            times: How many calls fail if the fault is ``TRANSIENT``.
        """
        self.resume()
        if fault is Fault.LOST:
            for connection in tuple(self._state.links):
                connection.die("the connection was cut on demand")
            return
        self._add(Failure(METHODS - ENDING, fault, 0, times, stored=False))
        for store in tuple(self._state.stores.values()):
            for member in store.members():
                member.bell.break_(AdapterError(fault, "the connection was cut on demand"))

    def lose(self, channel: str = "", group: str = "") -> int:
        """Take away what receivers hold: their epochs end, others get it, the connections live.

        Args:
            channel: Only receivers of this channel; empty: of all.
            group: Only receivers of this group; empty: of all.

        Returns:
            How many receivers lost theirs.
        """
        hit = [one for one in self._state.receivers() if channel in ("", one.channel) and group in ("", one.group)]
        for receiver in hit:
            receiver.lose("the broker gave everything to others on demand")
        return len(hit)

    def restart(self, *, keep: bool | None = None, away: float = 0.0) -> None:
        """Kill the server and start it again.

        Every connection dies, leases end, acknowledgements that were not confirmed are forgotten.

        Args:
            keep: Whether messages survive; None: as the durability of their channel says. STORED keeps all, BUFFERED
                loses what was stored within the last second, NONE loses everything.
            away: Seconds until it can be connected to again.
        """
        self.cut()
        self._rules.away_until = self._state.now() + away
        self._state.reset(keep)
        self._rules.rearm()

    def forget(self, channel: str, group: str, purpose: Purpose = Purpose.EVENTS) -> None:
        """Have the server lose a group and what it had not settled; declaring creates it again."""
        self._state.forget(channel, group, purpose)

    def refuse(self, times: int = 1, fault: Fault = Fault.TRANSIENT) -> None:
        """Refuse the next `times` attempts to connect."""
        self.fail("connect", fault, times=times)

    def fail(self, method: str, fault: Fault, *, nth: int = 1, times: int = 1, stored: bool = False) -> None:
        """Let calls of a method fail.

        `send`, `settle` and `extend` answer ``MESSAGE`` and ``AMBIGUOUS`` for each item; every other fault is raised.

        Args:
            method: A method of the contract.
            fault: What it means.
            nth: The first call that fails, counted from now.
            times: How many calls in a row fail.
            stored: The work was done, only its answer is lost (`send`, `settle`, `extend`, `declare`).
        """
        self._add(Failure(self._known(method), fault, nth - 1, times, stored))

    def poison(
        self,
        match: Callable[[Outgoing], bool],
        fault: Fault = Fault.MESSAGE,
        *,
        times: float = 1,
        stored: bool = False,
    ) -> None:
        """Answer the next `times` records that match with a fault.

        Args:
            match: Tells whether a record is meant.
            fault: The answer.
            times: How many records.
            stored: They are stored all the same.
        """
        self._rules.poisons.append(Poison(match, fault, times, stored))
        self._rules.rearm()

    def stall(self, method: str, *, seconds: float = 60.0, stored: bool = False) -> None:
        """Let calls of a method wait, until `resume`, a cut, or `seconds` each.

        Args:
            method: A method of the contract.
            seconds: How long one call waits at most.
            stored: The work is done before the wait: only the answer is late (`send`, `settle`, `extend`, `declare`).
        """
        self._known(method)
        self.resume(method)
        self._rules.stalls[method] = Stall(seconds, stored)
        self._rules.rearm()

    def resume(self, method: str = "") -> None:
        """End the stall of a method, or of all."""
        for name in [method] if method else list(self._rules.stalls):
            stall = self._rules.stalls.pop(name, None)
            if stall is not None:
                stall.end()
        self._rules.rearm()

    def clear(self) -> None:
        """End every fault."""
        self.resume()
        self._rules.failures.clear()
        self._rules.poisons.clear()
        self._rules.away_until = -math.inf
        self._rules.rearm()

    def _known(self, method: str) -> frozenset[str]:
        if method not in METHODS:
            raise ValueError(f"{method!r} is none of {', '.join(sorted(METHODS))}")
        return frozenset({method})

    def _add(self, failure: Failure) -> None:
        self._rules.failures.append(failure)
        self._rules.rearm()

    def __repr__(self) -> str:
        rules = self._rules
        return f"<Faults failures={len(rules.failures)} poisons={len(rules.poisons)} stalled={sorted(rules.stalls)}>"
