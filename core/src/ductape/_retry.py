"""What to do with a failure: pure functions of the policy, the message's history and what the channel can do."""

from __future__ import annotations

import enum
import random
from typing import NamedTuple

import msgspec

from ._capabilities import Capabilities, Count
from .errors import ConfigError

HOLD, HOLD_ON_LOG = 30.0, 5.0
"""Seconds for which a failed delivery is kept in the process; on a log it holds up what is settled behind it."""
CRASHES = 5
"""Deliveries beyond the attempts after which a message that nobody answered for counts as the cause."""


class Reject(Exception):
    """Raise it in a handler: the message goes to the dead letters at once."""

    def __init__(self, reason: str = "") -> None:
        """Reject, saying why."""
        super().__init__(reason)
        self.reason = reason


class RetryLater(Exception):
    """Raise it in a handler: the message comes back after `delay` seconds. Counts as an attempt."""

    def __init__(self, delay: float) -> None:
        """Ask for a time, in seconds."""
        super().__init__(f"again in {delay:g} s")
        if not delay >= 0:
            raise ValueError(f"RetryLater: delay is seconds from now, not {delay!r}")
        self.delay = delay


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How often a message is tried, and how long it waits between attempts.

    Attempt ``n`` that fails waits ``delay * factor ** (n - 1)`` seconds, at most `longest`, plus 0 to 20 % at random,
    so that what failed together does not come back together.
    """

    attempts: int = 5
    delay: float = 1.0
    factor: float = 2.0
    longest: float = 300.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: ``OPTION_INVALID``.
        """
        for name, right in (("attempts", self.attempts >= 1), ("delay", self.delay >= 0), ("factor", self.factor >= 1)):
            if not right:
                raise ConfigError("OPTION_INVALID", f"Retry({name}={getattr(self, name)!r}) is too small.", option=name)

    def after(self, attempt: int) -> float:
        """Return the seconds to wait after this attempt failed."""
        backoff = self.delay * self.factor ** min(attempt - 1, 64)
        return min(backoff, self.longest) * random.uniform(1.0, 1.2)


class Attempt(NamedTuple):
    """Which attempt a delivery is."""

    number: int
    certain: bool
    """Known from failures; otherwise from a broker's count, which hand-backs and expired leases raise too."""
    crash_loop: bool
    """Delivered far more often than it failed: it takes its consumers down."""


def attempt_of(can: Capabilities, carried: int, failed: int, count: int | None, attempts: int) -> Attempt:
    """Tell which attempt a delivery is when it arrives.

    Args:
        can: What the channel can do.
        carried: Attempts made before this copy was stored (``ductape-attempt``).
        failed: Failures that the adapter kept with the delivery.
        count: The broker's count of deliveries, from 1.
        attempts: How many the policy allows.
    """
    known = carried + failed + 1
    if count is None or can.count is Count.NONE:
        return Attempt(known, True, False)
    counted = carried + failed + count
    if can.count is Count.EXACT:
        return Attempt(counted, True, counted > attempts + CRASHES)
    if can.retry_delay > 0:
        return Attempt(counted, known >= attempts, counted > attempts + CRASHES)
    return Attempt(known, True, counted > attempts + CRASHES)


class Step(enum.Enum):
    """Where a failed delivery goes."""

    BURY = "bury"
    """To the dead letters."""
    SETTLE = "settle"
    """The broker keeps it until it is due."""
    PARK = "park"
    """This process keeps it until it is due; in order, at the head of its lane: nothing overtakes it."""
    MOVE = "move"
    """A copy on the RETRY channel keeps it."""


class Decision(NamedTuple):
    """What to do, and after how many seconds."""

    step: Step
    delay: float = 0.0
    reason: str = ""


def decide(
    policy: Retry, can: Capabilities, attempt: int, *, enough: bool, ordered: bool, error: BaseException
) -> Decision:
    """Decide what becomes of a delivery whose handler failed.

    Args:
        policy: The subscription's.
        can: What the delivery's channel can do.
        attempt: Which attempt failed.
        enough: The attempt's number may bury it: it is certain, or it failed here more than once.
        ordered: It has a lane.
        error: What the handler raised.
    """
    if isinstance(error, Reject):
        return Decision(Step.BURY, 0.0, "rejected")
    if attempt >= policy.attempts and enough:
        return Decision(Step.BURY, 0.0, "exhausted")
    delay = error.delay if isinstance(error, RetryLater) else policy.after(attempt)
    if ordered:
        return Decision(Step.PARK, delay)
    if can.retry_delay and can.count is not Count.NONE and can.retry_step <= delay <= can.retry_delay:
        return Decision(Step.SETTLE, delay)
    return Decision(Step.PARK if delay <= hold(can) else Step.MOVE, delay)


def hold(can: Capabilities) -> float:
    """Return for how many seconds this process keeps a delivery that waits."""
    seconds = HOLD_ON_LOG if can.watermark else HOLD
    if can.lease is not None and (can.lease_total or can.lease) <= can.lease:
        return min(seconds, can.lease / 2)  # a lease that cannot be renewed would run out while it waits
    return seconds
