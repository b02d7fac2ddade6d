"""What carries records out of an outbox: lanes that make one call at a time, and the sender they call."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from ._bounds import Bounds, classified
from ._clock import Clock
from ._records import Limits, Outgoing, Stored
from .adapter import Sender
from .errors import AdapterError, Fault

FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 2.0
DECLARE_AGAIN = 60.0
"""Seconds after which channel and groups are declared again before a call; at rest nothing is."""


class Pending(msgspec.Struct, eq=False):
    """One record, and who waits for it."""

    record: Outgoing
    future: asyncio.Future[Stored]
    deadline: float
    ambiguous: bool = False
    error: AdapterError | None = None


Answers = Sequence[Stored | AdapterError]


class Keeper:
    """Keeps one sender open: opens it when it is needed, drops it when it broke."""

    def __init__(
        self, open_sender: Callable[[], Awaitable[Sender]], declare: Callable[[], Awaitable[None]], bounds: Bounds
    ) -> None:
        self.limits = Limits()
        self.sender: Sender | None = None
        self.last: Sender | None = None
        """The last one that was open: it still knows the broker's lanes while another is opened."""
        self.error: AdapterError | None = None
        """Why the last opening failed; None once one went well."""
        self._open_sender, self._declare, self._bounds = open_sender, declare, bounds
        self._declared = 0.0
        self._opening: asyncio.Task[Sender] | None = None

    def open(self) -> asyncio.Task[Sender]:
        """Return the opening under way, or begin one."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._opening

    async def _open(self) -> Sender:
        try:
            sender = await self._open_sender()
        except AdapterError as error:
            self.error = error
            raise
        self.sender = self.last = sender
        self.limits, self.error = sender.limits, None
        self._declared = self._bounds.clock.now()
        return sender

    async def ready(self) -> Sender:
        """Return an open sender, its channel declared within the last minute.

        Raises:
            AdapterError: ``CONFIG``, or ``TRANSIENT``: nothing was sent.
        """
        try:
            sender = self.sender if self.sender is not None else await asyncio.shield(self.open())
            if self._bounds.clock.now() - self._declared > DECLARE_AGAIN:
                await self._declare()
                self._declared = self._bounds.clock.now()
            return sender
        except AdapterError as error:
            if error.fault is Fault.CONFIG:
                raise
            raise AdapterError(Fault.TRANSIENT, error.text) from error

    def discard(self, sender: Sender) -> None:
        """Close a sender that broke; the next call opens another."""
        if self.sender is sender:
            self.sender = None
            self._bounds.background(self._bounds.close(sender))

    async def close(self) -> None:
        """Close the sender, or the one that is being opened."""
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
        sender, self.sender = self.sender, None
        if sender is not None:
            await self._bounds.close(sender)


class Owner(Protocol):
    """What a lane needs of its outbox."""

    keeper: Keeper
    bounds: Bounds
    clock: Clock
    slots: asyncio.Semaphore | None
    calls: int

    def resolve(self, batch: Sequence[Pending], answers: Answers) -> list[Pending]:
        """Answer the callers; return what is to be sent again."""

    def forget(self, item: Pending) -> None:
        """Count an item off that nobody waits for."""


class Lane:
    """One call at a time. Its task lives as long as the outbox; one whose call overstays is replaced."""

    __slots__ = ("_backoff", "_idle", "_loop", "_owner", "_task", "_turn", "busy", "calling", "flight", "queue")

    def __init__(self, owner: Owner) -> None:
        self.queue: deque[Pending] = deque()
        self.flight: Sequence[Pending] = ()
        """Cut for a call, and not answered."""
        self.calling = False
        """The call is under way: what is in flight may be stored."""
        self.busy = False
        """The task is at work, and will look at the queue by itself."""
        self._owner, self._loop = owner, asyncio.get_running_loop()
        self._idle: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._turn = 0
        self._backoff = FIRST_BACKOFF

    def kick(self) -> None:
        """See that the queue is served."""
        self.busy = True
        if self._idle is not None:
            if not self._idle.done():
                self._idle.set_result(None)
        elif self._task is None:
            self._task = self._loop.create_task(self._run(self._turn))

    async def _run(self, turn: int) -> None:
        queue, owner = self.queue, self._owner
        while True:
            if not queue:
                await self._wait()
                continue
            batch = self.flight = self._cut()
            if not batch:
                continue
            answers = await self._call(batch)
            if turn != self._turn:
                return  # abandoned: another task serves the lane, and what was in flight
            self.flight = ()
            again = owner.resolve(batch, answers)
            if again:
                queue.extendleft(reversed(again))
                await owner.clock.sleep(self._backoff * random.uniform(1.0, 1.5))
                self._backoff = min(self._backoff * 2, LONGEST_BACKOFF)
            else:
                self._backoff = FIRST_BACKOFF

    async def _wait(self) -> None:
        self._idle, self.busy = self._loop.create_future(), False
        try:
            await self._idle
        finally:
            self._idle = None

    def _cut(self) -> list[Pending]:
        """Take what fits into one call; what nobody waits for any more is dropped."""
        queue, limits = self.queue, self._owner.keeper.limits
        records, room = limits.records, limits.bytes
        batch: list[Pending] = []
        while queue and len(batch) < records:
            item = queue[0]
            if item.future.done():
                self._owner.forget(queue.popleft())
                continue
            room -= item.record.size
            if room < 0 and batch:
                break
            batch.append(queue.popleft())
        return batch

    async def _call(self, batch: list[Pending]) -> Answers:
        slots, turn = self._owner.slots, self._turn
        if slots is not None:
            await slots.acquire()
        try:
            return await self._send(await self._owner.keeper.ready(), batch)
        except AdapterError as error:
            return [error] * len(batch)
        finally:
            if slots is not None and turn == self._turn:  # else it was given back when the call was given up
                slots.release()

    async def _send(self, sender: Sender, batch: list[Pending]) -> Answers:
        owner = self._owner
        owner.calls += 1
        self.calling = True
        timer = owner.clock.call_later(sender.limits.seconds, self._overstayed, self._turn, sender)
        turn = self._turn
        try:
            answers = await sender.send([item.record for item in batch])
        except (Exception, asyncio.CancelledError) as raised:
            if isinstance(raised, asyncio.CancelledError) and _asked_to_end():
                raise
            error = classified(raised)
            if error.fault is not Fault.TRANSIENT:
                owner.keeper.discard(sender)
                if error.fault is not Fault.CONFIG:  # it had begun: its records may be stored
                    error = AdapterError(Fault.AMBIGUOUS, error.text)
            return [error] * len(batch)
        finally:
            timer.cancel()
            if turn == self._turn:
                self.calling = False
        if len(answers) != len(batch):
            owner.keeper.discard(sender)
            return [AdapterError(Fault.AMBIGUOUS, f"{len(answers)} answers to {len(batch)} records")] * len(batch)
        if set(map(type, answers)) != {Stored}:
            answers = [_answer(answer) for answer in answers]
            if any(_lost(answer) for answer in answers):
                owner.keeper.discard(sender)
        return answers

    def _overstayed(self, turn: int, sender: Sender) -> None:
        """Give a call up: what it carried may be stored, and is sent again by a new sender."""
        if turn != self._turn:
            return
        self._turn += 1
        if self._task is not None:
            self._owner.bounds.keep(self._task)
        if self._owner.slots is not None:
            self._owner.slots.release()
        self._owner.keeper.discard(sender)
        error = AdapterError(Fault.AMBIGUOUS, f"no answer within {sender.limits.seconds:g} s")
        flight, self.flight, self.calling = self.flight, (), False
        self.queue.extendleft(reversed(self._owner.resolve(flight, [error] * len(flight))))
        self._task = self._loop.create_task(self._run(self._turn))

    def stop(self) -> None:
        """End the task where it waits or backs off; a call under way is left to itself."""
        self._turn += 1
        if self._task is None:
            return
        if self.calling:
            self._owner.bounds.keep(self._task)
        else:
            self._task.cancel()


def _asked_to_end() -> bool:
    """Tell whether the running task is being cancelled; else a client cancelled its own call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _answer(answer: object) -> Stored | AdapterError:
    """Return an answer of the contract; any other may mean that the record is stored."""
    if isinstance(answer, Stored | AdapterError):
        return answer
    return AdapterError(Fault.AMBIGUOUS, f"answered {type(answer).__name__}, which the contract does not know")


def _lost(answer: Stored | AdapterError) -> bool:
    return isinstance(answer, AdapterError) and answer.fault is Fault.LOST
