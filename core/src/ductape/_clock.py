"""Time as the kernel and its adapters know it. Everything that waits asks a clock, so tests run on a virtual one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is due later and can still be called off."""

    def cancel(self) -> None:
        """Call it off; idempotent, and harmless after it ran."""


class Clock(Protocol):
    """A source of time, in seconds, bound to one event loop."""

    def now(self) -> float:
        """Return monotonic time."""

    def time(self) -> float:
        """Return seconds since 1970, UTC."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Timer:
        """Call `callback` after `delay` seconds, on the loop."""

    async def sleep(self, delay: float) -> None:
        """Wait `delay` seconds."""


class SystemClock:
    """The real time of the running event loop."""

    def __init__(self) -> None:
        """Bind to the running loop."""
        loop = asyncio.get_running_loop()
        self.now = time.monotonic  # what a loop's own time is, without its frame
        self.time = time.time
        self.call_later = loop.call_later
        self.sleep = asyncio.sleep
