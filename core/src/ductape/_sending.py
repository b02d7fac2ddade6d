"""What carries records out of an outbox: lanes that make one call at a time, and the sender they call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from ._bounds import Backoff, Bounds, classified
from ._records import Limits, Outgoing, Stored
from .adapter import Sender
from .errors import AdapterError, Fault

LONGEST_BACKOFF = 2.0
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
        self, open_sender: Callable[[], Awaitable[Sender]], declare: Callable[[], Awaitable[object]], bounds: Bounds
    ) -> None:
        self.limits = Limits()
        self.sender: Sender | None = None
        self.last: Sender | None = None
        """The last one that was open: it still knows the broker's lanes while another is opened."""
        self.error: AdapterError | None = None
        """Why the last opening failed; None once one went well."""
        self.slots: asyncio.Semaphore | None = None
        """Bounds the calls where the sender has lanes of its own."""
        self.calls = 0
        self.bounds, self.clock = bounds, bounds.clock
        self._open_sender, self._declare = open_sender, declare
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
        self._declared = self.clock.now()
        return sender

    async def ready(self) -> Sender:
        """Return an open sender, its channel declared within the last minute.

        Raises:
            AdapterError: ``CONFIG``, or ``TRANSIENT``: nothing was sent.
        """
        try:
            sender = self.sender if self.sender is not None else await asyncio.shield(self.open())
            if self.clock.now() - self._declared > DECLARE_AGAIN:
                await self._declare()
                self._declared = self.clock.now()
            return sender
        except AdapterError as error:
            if error.fault is Fault.CONFIG:
                raise
            raise AdapterError(Fault.TRANSIENT, error.text) from error

    def discard(self, sender: Sender) -> None:
        """Close a sender that broke; the next call opens another."""
        if self.sender is sender:
            self.sender = None
            self.bounds.background(self.bounds.close(sender))

    async def close(self) -> None:
        """Close the sender, or the one that is being opened."""
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
        sender, self.sender = self.sender, None
        if sender is not None:
            await self.bounds.close(sender)


class Lane:
    """One call at a time. Its task lives as long as the outbox; one whose call overstays is replaced."""

    def __init__(
        self,
        keeper: Keeper,
        resolve: Callable[[Sequence[Pending], Answers], list[Pending]],
        forget: Callable[[Pending], None],
    ) -> None:
        """Begin at rest.

        Args:
            keeper: Has the sender.
            resolve: Answers the callers of a batch; returns what is to be sent again.
            forget: Counts an item off that nobody waits for.
        """
        self.queue: deque[Pending] = deque()
        self.flight: Sequence[Pending] = ()
        """Cut for a call, and not answered."""
        self.calling = False
        """The call is under way: what is in flight may be stored."""
        self.busy = False
        """The task is at work, and will look at the queue by itself."""
        self._keeper, self._resolve, self._forget = keeper, resolve, forget
        self._loop = asyncio.get_running_loop()
        self._idle: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._turn = 0
        self._backoff = Backoff(longest=LONGEST_BACKOFF)

    def kick(self) -> None:
        """See that the queue is served."""
        self.busy = True
        if self._idle is not None:
            if not self._idle.done():
                self._idle.set_result(None)
        elif self._task is None:
            self._task = self._loop.create_task(self._run(self._turn))

    async def _run(self, turn: int) -> None:
        queue = self.queue
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
            again = self._resolve(batch, answers)
            if again:
                queue.extendleft(reversed(again))
                await self._keeper.clock.sleep(self._backoff.failed())
            elif self._backoff.failures:
                self._backoff.worked()

    async def _wait(self) -> None:
        self._idle, self.busy = self._loop.create_future(), False
        try:
            await self._idle
        finally:
            self._idle = None

    def _cut(self) -> list[Pending]:
        """Take what fits into one call; what nobody waits for any more is dropped."""
        queue, limits = self.queue, self._keeper.limits
        records, room = limits.records, limits.bytes
        batch: list[Pending] = []
        while queue and len(batch) < records:
            item = queue[0]
            if item.future.done():
                self._forget(queue.popleft())
                continue
            room -= item.record.size
            if room < 0 and batch:
                break
            batch.append(queue.popleft())
        return batch

    async def _call(self, batch: list[Pending]) -> Answers:
        slots, turn = self._keeper.slots, self._turn
        if slots is not None:
            await slots.acquire()
        try:
            return await self._send(await self._keeper.ready(), batch)
        except AdapterError as error:
            return [error] * len(batch)
        finally:
            if slots is not None and turn == self._turn:  # else it was given back when the call was given up
                slots.release()

    async def _send(self, sender: Sender, batch: list[Pending]) -> Answers:
        keeper = self._keeper
        keeper.calls += 1
        self.calling = True
        timer = keeper.clock.call_later(sender.limits.seconds, self._overstayed, self._turn, sender)
        turn = self._turn
        try:
            answers = await sender.send([item.record for item in batch])
        except (Exception, asyncio.CancelledError) as raised:
            if isinstance(raised, asyncio.CancelledError) and _asked_to_end():
                raise
            error = classified(raised)
            if error.fault is not Fault.TRANSIENT:
                keeper.discard(sender)
                if error.fault is not Fault.CONFIG:  # it had begun: its records may be stored
                    error = AdapterError(Fault.AMBIGUOUS, error.text)
            return [error] * len(batch)
        finally:
            timer.cancel()
            if turn == self._turn:
                self.calling = False
        if len(answers) != len(batch):
            keeper.discard(sender)
            return [AdapterError(Fault.AMBIGUOUS, f"{len(answers)} answers to {len(batch)} records")] * len(batch)
        if set(map(type, answers)) == {Stored}:
            return answers
        read = [_answer(answer) for answer in answers]
        if any(isinstance(answer, AdapterError) and answer.fault is Fault.LOST for answer in read):
            keeper.discard(sender)
        return read

    def _overstayed(self, turn: int, sender: Sender) -> None:
        """Give a call up: what it carried may be stored, and is sent again by a new sender."""
        if turn != self._turn:
            return
        self._turn += 1
        if self._task is not None:
            self._keeper.bounds.keep(self._task)
        if self._keeper.slots is not None:
            self._keeper.slots.release()
        self._keeper.discard(sender)
        error = AdapterError(Fault.AMBIGUOUS, f"no answer within {sender.limits.seconds:g} s")
        flight, self.flight, self.calling = self.flight, (), False
        self.queue.extendleft(reversed(self._resolve(flight, [error] * len(flight))))
        self._task = self._loop.create_task(self._run(self._turn))

    def stop(self) -> None:
        """End the task where it waits or backs off; a call under way is left to itself."""
        self._turn += 1
        if self._task is None:
            return
        if self.calling:
            self._keeper.bounds.keep(self._task)
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
