"""Settling deliveries and keeping their leases: one task a receiver, so that neither ever runs beside the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from ._bounds import SETTLE, Backoff, Bounds, wait_until
from ._capabilities import Capabilities
from ._lanes import SETTLING, Item
from ._records import Settlement, Verdict
from .adapter import Annotating, Receiver
from .errors import AdapterError, Fault

FEW, LINGER = 16, 0.005
"""While fewer than this wait to be settled, and more are in hand, wait this many seconds for others."""
LONGEST_BACKOFF = 1.0


class Host(Protocol):
    """What settling needs of its source."""

    bounds: Bounds
    receiver: Receiver | None
    held: dict[Item, float]
    can: Capabilities

    def forget(self, items: Sequence[Item]) -> None:
        """Free the places of items."""

    def broken(self, receiver: Receiver, error: AdapterError) -> None:
        """Give a receiver up."""

    def lost(self, item: Item) -> None:
        """Drop an item that is with somebody else, if it has not started."""


class Settling:
    """Queues what was decided, sends it in few calls, repeats what failed, and renews leases in between."""

    def __init__(self, host: Host, settled: Callable[[Sequence[Settlement], float], None] | None = None) -> None:
        """Serve a source; `settled` observes each call's settlements and seconds."""
        self.settled = self.lost = self.calls = 0
        self.error: AdapterError | None = None
        """Why the last call failed; None once one went well."""
        self._host, self._observe = host, settled
        self._clock = host.bounds.clock
        self._queue: list[Item] = []
        self._notes: dict[Item, None] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._busy = False
        self._hurry = False
        self._backoff = Backoff(longest=LONGEST_BACKOFF)
        self._keeping = self._keep = False
        """A timer for the leases runs; it rang."""
        self._flushed: asyncio.Future[None] | None = None
        self._resting: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- in

    def add(self, item: Item, verdict: Verdict, delay: float = 0.0) -> None:
        """Queue a decision. The item keeps its place and its lease until it is answered."""
        item.state, item.verdict, item.delay = SETTLING, verdict, delay
        self._queue.append(item)
        if self._waiter is not None:
            self.wake()

    def note(self, item: Item) -> None:
        """Have the adapter keep that the item failed, where it can."""
        receiver = self._host.receiver
        if receiver is not None and isinstance(receiver, Annotating):
            self._notes[item] = None
            self.wake()

    def arrived(self) -> None:
        """Something is in hand: see that leases are kept."""
        can = self._host.can
        if not self._keeping and can.lease is not None and (can.lease_total or 0) > can.lease:
            self._keep_after(can.lease / 4)

    def wake(self) -> None:
        """Look at once."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
            self._waiter = None

    # -- life

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def idle(self) -> bool:
        """Nothing is to be settled."""
        return not self._queue and not self._busy

    @property
    def refused(self) -> bool:
        """The broker refuses to settle until an operator mends it: receiving more would only pile up."""
        return self.error is not None and self.error.fault is Fault.CONFIG

    async def flush(self, seconds: float) -> bool:
        """Settle what is queued without lingering, for at most `seconds`; tell whether all is answered."""
        self._hurry = True
        self._resting.cancel()
        self.wake()
        if not self.idle:
            if self._flushed is None or self._flushed.done():
                self._flushed = asyncio.get_running_loop().create_future()
            await wait_until(self._flushed, self._clock, self._clock.now() + seconds)
        self._hurry = False
        return self.idle

    def stop(self) -> None:
        """End the task; a call under way is left to itself."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            if not self._queue and not self._notes and not self._keep:
                await self._wait()
                continue
            if self._queue and len(self._queue) < FEW and len(self._queue) < len(self._host.held) and not self._hurry:
                await self._rest(LINGER)
            self._busy = True
            try:
                if self._keep:
                    await self._extend()
                await self._flush()
            finally:
                self._busy = False
            if not self._queue and self._flushed is not None and not self._flushed.done():
                self._flushed.set_result(None)
            if self.error is not None:
                await self._back_off(self._backoff.failed())
            elif self._backoff.failures:
                self._backoff.worked()

    async def _wait(self) -> None:
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    async def _rest(self, seconds: float) -> None:
        """Wait, unless a flush comes between."""
        self._resting = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(seconds, self._resting.cancel)
        await asyncio.wait({self._resting})
        timer.cancel()

    async def _back_off(self, seconds: float) -> None:
        """Rest, and keep the leases meanwhile: short ones would run out before the next try."""
        end = self._clock.now() + seconds
        while (left := end - self._clock.now()) > 0:
            await self._rest(left)
            if not self._keep:  # the time is over, or a flush came between
                return
            await self._extend()

    # -- settling

    async def _flush(self) -> None:
        queue, self._queue = self._queue, []
        batch: list[Item] = []
        for item in queue:
            if item.delivery.epoch.alive:
                batch.append(item)
            else:
                self._gone(item)
        receiver = self._host.receiver
        if receiver is None:
            for item in batch:  # its epoch ends with the receiver; nothing of it can be settled any more
                self._gone(item)
            return
        if self._notes:
            await self._note(receiver)
        if batch:
            await self._settle(receiver, batch)
        else:
            self.error = None

    async def _settle(self, receiver: Receiver, batch: list[Item]) -> None:
        settlements = [Settlement(item.delivery, item.verdict, item.delay) for item in batch]
        began = self._clock.now()
        lease = self._host.can.lease
        self.calls += 1
        try:
            answers = await self._host.bounds.call(
                receiver.settle(settlements), SETTLE if lease is None else min(SETTLE, max(1.0, lease / 3))
            )
            _check(answers, batch)
        except AdapterError as error:
            answers = [error] * len(batch)
            if error.fault not in (Fault.TRANSIENT, Fault.CONFIG):  # what an operator must mend is settled again
                self._host.broken(receiver, error)
        self.error = None
        done = batch
        if any(answers):
            done = [item for item, answer in zip(batch, answers, strict=True) if answer is None]
            for item, answer in zip(batch, answers, strict=True):
                if answer is not None:
                    self._refused(item, answer)
        self.settled += len(done)
        self._host.forget(done)
        if self._observe is not None:
            self._observe(settlements, self._clock.now() - began)

    def _refused(self, item: Item, answer: AdapterError) -> None:
        """Keep what can be settled again while its epoch lives; the rest is with somebody else."""
        if item.delivery.epoch.alive and answer.fault in (Fault.TRANSIENT, Fault.AMBIGUOUS, Fault.CONFIG):
            self.error = answer
            self._queue.append(item)
        else:
            self._gone(item)

    def _gone(self, item: Item) -> None:
        self.lost += 1
        self._host.forget((item,))

    async def _note(self, receiver: Receiver) -> None:
        notes, self._notes = self._notes, {}
        deliveries = [item.delivery for item in notes if item in self._host.held and item.delivery.epoch.alive]
        if deliveries and isinstance(receiver, Annotating):
            try:
                await self._host.bounds.call(receiver.note(deliveries), SETTLE)
            except AdapterError as error:
                if error.fault is not Fault.TRANSIENT:
                    self._host.broken(receiver, error)

    # -- leases

    def _keep_after(self, seconds: float) -> None:
        self._keeping = True
        self._clock.call_later(seconds, self._ring)

    def _ring(self) -> None:
        """It is time to look at leases: the timer says so, not the clock, since timers may be early."""
        self._keep = True
        self._resting.cancel()
        self.wake()

    async def _extend(self) -> None:
        """Renew every lease of which less than two thirds are left, those being settled included."""
        lease = self._host.can.lease or 0.0
        self._keep = self._keeping = False
        receiver = self._host.receiver
        if receiver is None or not self._host.held:
            return
        edge = self._clock.now() + lease * 2 / 3
        items = [
            item for item in self._host.held if item.delivery.epoch.alive and (item.delivery.leased_until or 0.0) < edge
        ]
        pause = lease / 4
        if items:
            try:
                answers = await self._host.bounds.call(
                    receiver.extend([item.delivery for item in items]), min(SETTLE, max(1.0, lease / 3))
                )
                _check(answers, items)
            except AdapterError as error:
                pause = min(pause, LONGEST_BACKOFF)  # the lease runs: try soon
                if error.fault is not Fault.TRANSIENT:
                    self._host.broken(receiver, error)
            else:
                for item, answer in zip(items, answers, strict=True):
                    if answer is not None and answer.fault is Fault.LOST:
                        self._host.lost(item)
        self._keep_after(pause)

    def __repr__(self) -> str:
        return f"<Settling queued={len(self._queue)} settled={self.settled} lost={self.lost}>"


def _check(answers: Sequence[AdapterError | None], items: Sequence[Item]) -> None:
    """Refuse answers that cannot be assigned: what they say of whom is unknown."""
    if len(answers) != len(items):
        raise AdapterError(Fault.LOST, f"{len(answers)} answers to {len(items)} deliveries")
