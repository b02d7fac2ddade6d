"""What can be done to a broker and the members of its groups, as data: a history is a list of these.

A slot is one place for a member: it is opened when it is first used, and again after it was closed or crashed. The last
slot belongs to a group of its own where the channel has many groups. Numbers are taken modulo what there is, so that
every history can be played, also what is left of it when it shrinks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ductape.adapter import Verdict

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["FAULTS", "SLOTS", "Both", "Bury", "Close", "Crash", "Cut", "Extend", "Restart", "Send", "Settle", "Stall"]
__all__ += ["Step", "Stop", "Take", "Wait", "histories"]

SLOTS = 4
WINDOWS = (100, 3, 10, 6)
"""The window of each slot."""


class Send(NamedTuple):
    """Store records in one call, one for each of these keys."""

    keys: list[int]
    delayed: bool


class Take(NamedTuple):
    """Receive once."""

    slot: int
    limit: int
    wait: bool


class Settle(NamedTuple):
    """Settle some of what a member holds, from the oldest on."""

    slot: int
    verdict: Verdict
    skip: int
    number: int
    delayed: bool


class Bury(NamedTuple):
    """Store a copy of what a member holds longest as a dead letter, then acknowledge it."""

    slot: int


class Extend(NamedTuple):
    """Renew the leases of all that a member holds."""

    slot: int


class Wait(NamedTuple):
    """Let time pass, in leases."""

    leases: float


class Stop(NamedTuple):
    """Ask a member to take no more."""

    slot: int


class Close(NamedTuple):
    """Close a member and its connection."""

    slot: int


class Crash(NamedTuple):
    """Let the process of a member be gone."""

    slot: int


class Cut(NamedTuple):
    """Break every connection."""


class Stall(NamedTuple):
    """Pass nothing on for half a second."""


class Restart(NamedTuple):
    """Kill the server, and start it again."""


class Both(NamedTuple):
    """Do two things at a time."""

    one: Step
    other: Step


Step = Send | Take | Settle | Bury | Extend | Wait | Stop | Close | Crash | Cut | Stall | Restart | Both
FAULTS = (Cut, Stall, Restart)


def histories() -> SearchStrategy[list[list[Step]]]:
    """Return the strategy that makes histories: lists of lists, which grow long and shrink well."""
    from hypothesis import strategies as st

    # The first members do most of the work: what many share by chance, nobody has enough of.
    slot = st.sampled_from((0, 0, 0, 1, 1, 2, 3))
    delayed = st.sampled_from((False, True, True))
    send = st.builds(Send, st.lists(st.integers(0, 2), min_size=1, max_size=4), delayed)
    take = st.builds(Take, slot, st.sampled_from((100, 1, 3)), st.booleans())
    verdict = st.sampled_from((Verdict.ACK, Verdict.RELEASE, Verdict.RETRY))
    settle = st.builds(Settle, slot, verdict, st.integers(0, 3), st.integers(1, 4), delayed)
    # `one_of` gives every branch the same weight, however often it is named: the weights are drawn.
    weighed: dict[SearchStrategy[Step], int] = {
        send: 5,
        take: 9,
        settle: 9,
        st.builds(Bury, slot): 1,
        st.builds(Extend, slot): 2,
        st.builds(Wait, st.sampled_from((0.1, 0.6, 1.2))): 3,
        st.builds(Stop, slot): 1,
        st.builds(Close, slot): 2,
        st.builds(Crash, slot): 1,
        st.sampled_from((Cut(), Stall(), Restart())): 2,
    }
    bag = [one for one, weight in weighed.items() for _ in range(weight)]
    plain: SearchStrategy[Step] = st.sampled_from(bag).flatmap(lambda one: one)
    step = st.sampled_from([plain] * 4 + [st.builds(Both, plain, plain)]).flatmap(lambda one: one)
    return st.lists(st.lists(step, min_size=1, max_size=12), max_size=10)
