"""Receiving: one receiver of one channel and group, kept open, its window kept, its deliveries handed on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from ._bounds import LATE, STOP, Backoff, Bounds
from ._capabilities import Capabilities
from ._epoch import Epoch
from ._lanes import GONE, LANED, PARKED, READY, Item
from ._records import Delivery, Settlement
from ._settling import Settling
from .adapter import Measurable, Receiver
from .errors import AdapterError, Fault

WAIT = 10.0
"""Seconds for which `receive` may wait: idle receivers cost nothing, and one that hangs is noticed after twice that."""
ROOM, SERVE = 0.1, 1.0
"""Seconds to wait for a quarter of the window to be free; seconds between calls that only serve the client."""

log = logging.getLogger("ductape.intake")


Opened = tuple[Receiver, Capabilities]
"""A receiver, and what its channel can do."""


class Source:
    """One receiver, opened again when it breaks, and everything of it that is not settled."""

    def __init__(
        self,
        name: str,
        opening: Callable[[], Awaitable[Opened]],
        take: Callable[[Source, Sequence[Delivery]], None],
        window: int,
        bounds: Bounds,
        backoff: Backoff,
        settled: Callable[[Sequence[Settlement], float], None] | None = None,
    ) -> None:
        """Describe a source; `start` opens it.

        Args:
            name: Names it in logs.
            opening: Opens the receiver, and tells what its channel can do.
            take: Turns deliveries into items, and hands them to `hold` and to a subscription.
            window: Bounds what is not settled.
            bounds: Runs the calls.
            backoff: The pace of opening again.
            settled: Observes settlements.
        """
        self.name, self.window, self.bounds = name, window, bounds
        self.can = Capabilities()
        self.receiver: Receiver | None = None
        self.held: dict[Item, float] = {}
        """What is not settled, and since when it is here."""
        self.received = 0
        self.progress = 0.0
        """When the last call to `receive` returned, on the client's clock."""
        self.error: AdapterError | None = None
        """Why it is not receiving; None while it is."""
        self.gave_up: Callable[[AdapterError], None] | None = None
        """Told why, when it tries no more."""
        self.paused = False
        self._opening, self._take, self._clock, self._backoff = opening, take, bounds.clock, backoff
        settling = self.settling = Settling(self, settled)
        self.settle, self.noted = settling.add, settling.note
        self.arrived, self.flush = settling.arrived, settling.flush
        self._epochs: set[Epoch] = set()
        self._room: asyncio.Future[None] | None = None
        self._enough = 0
        self._stopping = self._answered = False
        self._task: asyncio.Task[None] | None = None

    # -- life

    async def start(self) -> None:
        """Open the receiver; raises `AdapterError` if that fails."""
        await self._open()
        self.settling.start()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _open(self) -> Receiver:
        receiver, can = await self._opening()
        if self._stopping:
            self.bounds.background(self.bounds.close(receiver))
            raise AdapterError(Fault.LOST, "closed while it was opened")
        self.can, self.receiver, self.error = can, receiver, None
        self.progress = self._clock.now()
        return receiver

    async def stop(self) -> None:
        """Take no more: ask the receiver to stop, and hand on what it still returns. Settling goes on."""
        self._stopping = True
        self._open_room()
        receiver = self.receiver
        if receiver is not None:
            try:
                await self.bounds.call(receiver.stop(), STOP)
            except AdapterError as error:
                log.debug("%s: stop: %s", self.name, error)
        if self._task is not None:
            if self.receiver is None:
                self._task.cancel()
            timer = self._clock.call_later(STOP, self._task.cancel)
            await asyncio.wait({self._task})
            timer.cancel()
            if self._task.cancelled():
                return  # its call is still under way, and there is one at a time
        end = self._clock.now() + STOP
        try:
            while self.receiver is not None and await self._receive(self.receiver, max(1, self.window), 0.0):
                if self._clock.now() >= end:
                    return
        except AdapterError as error:
            log.debug("%s: after stop: %s", self.name, error)

    async def close(self, seconds: float) -> None:
        """Flush settlements for at most `seconds`, then close the receiver."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()  # of one that was opened beside another that failed; else it ended at `stop`
        await self.settling.flush(seconds)
        self.settling.stop()
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            await self.bounds.close(receiver)
        for epoch in list(self._epochs):
            epoch.end()

    # -- receiving

    async def _run(self) -> None:
        while not self._stopping:
            try:
                receiver = self.receiver
                if receiver is None:
                    receiver = await self._open()
                    log.info("%s: receiving again", self.name)
                free = await self._free()
                if free >= 0:
                    await self._receive(receiver, free, WAIT if free else 0.0)
                    self._backoff.worked()
                    self._answered = False
            except AdapterError as error:
                if not await self._recover(error):
                    return

    async def _receive(self, receiver: Receiver, limit: int, wait: float) -> int:
        try:
            deliveries = await self.bounds.call(receiver.receive(limit, wait), wait + LATE)
        except AdapterError as error:
            if error.fault is not Fault.TRANSIENT:
                self.broken(receiver, error)
            if error.fault is Fault.LOST and not self._answered:
                self._answered = True
                self._backoff.worked()  # the server may be back: declare at once, but not in a hot loop
            raise
        self.progress, self.error = self._clock.now(), None
        deliveries = [each for each in deliveries if each.epoch.accepting]  # it may have ended since the call did
        if deliveries:
            self.received += len(deliveries)
            self._take(self, deliveries)
        return len(deliveries)

    async def _free(self) -> int:
        """Return how many may be received: 0 only serves the client, -1 is the end."""
        free = self.window - len(self.held)
        enough = max(1, self.window // 4)
        if self.paused or self.settling.refused:
            await self._wait_room(SERVE, self.window + 1)
            free = 0
        elif free < enough:
            await self._wait_room(ROOM if free > 0 else SERVE, enough)
            free = max(0, self.window - len(self.held))
        return -1 if self._stopping else free

    async def _wait_room(self, seconds: float, enough: int) -> None:
        self._room, self._enough = asyncio.get_running_loop().create_future(), enough
        timer = self._clock.call_later(seconds, self._open_room)
        try:
            await self._room
        finally:
            timer.cancel()
            self._room = None

    def _open_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def resume(self) -> None:
        """Receive again after a pause."""
        self.paused = False
        self._open_room()

    # -- failures

    async def _recover(self, error: AdapterError) -> bool:
        """Wait before the next try; False: it gave up, or is asked to stop."""
        self.error = error
        if self._stopping:
            return False
        delay = self._backoff.failed()
        log.warning("%s: %s", self.name, error)
        if self._backoff.exhausted:
            log.error("%s: gave up after %d tries: %s", self.name, self._backoff.failures - 1, error)
            if self.gave_up is not None:
                self.gave_up(error)
            return False
        await self._wait_room(delay, self.window + 1)
        return True

    def broken(self, receiver: Receiver, error: AdapterError) -> None:
        """Give a receiver up: nothing of it is started or settled any more, and another is opened."""
        if self.receiver is not receiver:
            return
        self.receiver, self.error = None, error
        for epoch in list(self._epochs):
            epoch.end()
        self.bounds.background(self.bounds.close(receiver))

    def _epoch_changed(self, epoch: Epoch) -> None:
        """Drop what has not started: it is, or will be, with somebody else."""
        for item in [item for item in self.held if item.delivery.epoch is epoch]:
            if item.state in (READY, LANED, PARKED):
                item.holder.drop(item)
                self.forget((item,))
        if not epoch.alive:
            self._epochs.discard(epoch)
            self.settling.wake()

    # -- items

    def hold(self, item: Item) -> None:
        """Count an item in: it keeps a place in the window until it is settled."""
        epoch = item.delivery.epoch
        epoch.held += 1
        self.held[item] = self.progress
        if epoch not in self._epochs:
            self._epochs.add(epoch)
            epoch.watch(self._epoch_changed)

    def forget(self, items: Sequence[Item]) -> None:
        """Free the places of items."""
        held = self.held
        for item in items:
            if held.pop(item, None) is not None:
                item.state = GONE
                epoch = item.delivery.epoch
                epoch.held -= 1
                if not epoch.held:
                    epoch.settled(0)
        if self._room is not None and self.window - len(held) >= self._enough:
            self._open_room()

    def lost(self, item: Item) -> None:
        """Drop an item that is with somebody else, unless a handler has it."""
        if item.state in (READY, LANED, PARKED):
            item.holder.drop(item)
            self.forget((item,))

    @property
    def measured(self) -> Measurable | None:
        """The receiver, if it tells how far behind it is."""
        receiver: object = self.receiver
        return receiver if isinstance(receiver, Measurable) else None

    @property
    def oldest(self) -> float | None:
        """Seconds for which the oldest delivery is not settled."""
        first = next(iter(self.held.values()), None)
        return None if first is None else self._clock.now() - first

    def __repr__(self) -> str:
        state = "paused" if self.paused else "receiving" if self.error is None else f"failing ({self.error})"
        return f"<Source {self.name} {state} held={len(self.held)}/{self.window}>"
