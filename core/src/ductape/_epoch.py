"""The span in which a broker regards a set of deliveries as ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ._clock import Clock


class Epoch:
    """One span of ownership: a partition assignment on a log, a channel or connection elsewhere.

    An adapter makes it, stamps it on its deliveries when a call *returns*, and ends it when the broker gives the
    deliveries to somebody else. The kernel then neither starts nor settles anything of it, so a settlement token from
    before a reconnect or a rebalance cannot settle another message. Synchronous and bound to a loop; not thread-safe.

    Attributes:
        label: Names it in logs.
        accepting: Handlers may start.
        alive: Settlements may be sent.
        held: Deliveries handed over and not yet settled; kept by the kernel.
    """

    __slots__ = ("_clock", "_idle", "_watchers", "accepting", "alive", "held", "label")

    def __init__(self, label: str = "", clock: Clock | None = None) -> None:
        """Begin an epoch; an adapter that drains it gives `Site.clock`."""
        self.label = label
        self._clock = clock
        self.accepting = True
        self.alive = True
        self.held = 0
        self._idle: asyncio.Future[None] | None = None
        self._watchers: list[Callable[[Epoch], None]] = []

    def end(self) -> None:
        """Give everything up: it belongs to somebody else now. Idempotent."""
        if self.alive:
            self.accepting = self.alive = False
            self._tell()
            self._watchers.clear()  # a delivery that is kept keeps nothing but its epoch
            self._wake()

    async def drain(self, timeout: float) -> int:
        """Start nothing more, wait for what runs and its settlements, then end.

        Made for a rebalance callback; `Receiver.settle` is called meanwhile. What is queued or parked is dropped at
        once, so that only running handlers, moves and settlements can delay it.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            How many deliveries did not finish.
        """
        if self.accepting:
            self.accepting = False
            self._tell()
        if self.held and self.alive:
            loop = asyncio.get_running_loop()
            self._idle = loop.create_future()
            timer = (self._clock or loop).call_later(timeout, self._wake)
            try:
                await self._idle
            finally:
                timer.cancel()
        left = self.held
        self.end()
        return left

    def watch(self, watcher: Callable[[Epoch], None]) -> None:
        """Have `watcher` called when the epoch stops accepting and when it ends. For the kernel."""
        self._watchers.append(watcher)

    def settled(self, number: int = 1) -> None:
        """Count deliveries off. For the kernel."""
        self.held -= number
        if not self.held:
            self._wake()

    def _tell(self) -> None:
        for watcher in tuple(self._watchers):
            watcher(self)

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def __repr__(self) -> str:
        state = "open" if self.accepting else "draining" if self.alive else "ended"
        return f"<Epoch {self.label} {state} held={self.held}>"
