"""What is set to go wrong, and the look that every call takes at it."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import msgspec

from ductape.adapter import Clock, Outgoing
from ductape.errors import AdapterError, Fault

__all__ = ["ENDING", "METHODS", "Failure", "Poison", "Rules", "Stall"]

T = TypeVar("T")

METHODS = frozenset(
    "connect sender receiver declare check send receive settle extend note seek stop close lag".split()  # noqa: SIM905
)
ENDING = frozenset({"connect", "stop", "close"})


class Failure(msgspec.Struct):
    """Calls that fail."""

    methods: frozenset[str]
    fault: Fault
    skip: int
    times: float
    stored: bool

    def error(self, method: str) -> AdapterError:
        return AdapterError(self.fault, f"{method} fails on demand")


class Poison(msgspec.Struct):
    """Records that are refused."""

    match: Callable[[Outgoing], bool]
    fault: Fault
    times: float
    stored: bool


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Stall:
    """Calls that wait."""

    def __init__(self, seconds: float, stored: bool) -> None:
        self.seconds, self.stored = seconds, stored
        self._waiting: set[asyncio.Future[None]] = set()

    def end(self) -> None:
        for future in self._waiting:
            _wake(future)

    async def wait(self, clock: Clock) -> None:
        future = asyncio.get_running_loop().create_future()
        timer = clock.call_later(self.seconds, _wake, future)
        self._waiting.add(future)
        try:
            await future
        finally:
            timer.cancel()
            self._waiting.discard(future)


class Rules:
    """The faults that are set.

    Attributes:
        armed: Something is set that a call has to look at.
        calls: How often each method of the contract was called.
        away_until: Nobody can connect before this instant.
    """

    def __init__(self) -> None:
        """Nothing goes wrong."""
        self.armed = False
        self.calls: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self.poisons: list[Poison] = []
        self.stalls: dict[str, Stall] = {}
        self.away_until = -math.inf

    def rearm(self) -> None:
        """Find out whether calls have to look; drop what is used up."""
        self.failures = [one for one in self.failures if one.times > 0]
        self.poisons = [one for one in self.poisons if one.times > 0]
        self.armed = bool(self.failures or self.stalls or self.poisons or self.away_until > -math.inf)

    async def gate(self, method: str, clock: Clock) -> None:
        """Wait and fail as was demanded, before a call does its work."""
        stall, failure = self.stalls.get(method), self._failure(method)
        if stall is not None:
            await stall.wait(clock)
        if failure is not None:
            raise failure.error(method)
        if method == "connect" and self.away_until > -math.inf:
            if clock.now() < self.away_until:
                raise AdapterError(Fault.TRANSIENT, "the broker is away on demand")
            self.away_until = -math.inf
            self.rearm()

    async def around(self, method: str, clock: Clock, work: Callable[[], list[T]], size: int) -> list[T | AdapterError]:
        """Do the work of a call, and wait and fail as was demanded."""
        stall, failure = self.stalls.get(method), self._failure(method)
        if stall is not None and not stall.stored:
            await stall.wait(clock)
        answers: list[T | AdapterError] = []
        if failure is None or failure.stored:
            answers += work()
        if stall is not None and stall.stored:
            await stall.wait(clock)
        if failure is None:
            return answers
        if failure.fault in (Fault.MESSAGE, Fault.AMBIGUOUS) and size:
            return [failure.error(method)] * size
        raise failure.error(method)

    def poisoned(self, record: Outgoing) -> tuple[AdapterError, bool] | None:
        """Return the answer that was demanded for a record, and whether it is stored all the same."""
        for poison in self.poisons:
            if poison.match(record):
                poison.times -= 1
                self.rearm()
                return AdapterError(poison.fault, "the record is refused on demand"), poison.stored
        return None

    def _failure(self, method: str) -> Failure | None:
        for failure in self.failures:
            if method not in failure.methods:
                continue
            if failure.skip:
                failure.skip -= 1
                continue
            failure.times -= 1
            self.rearm()
            return failure
        return None
