"""Running handlers: long-lived workers, as many as the concurrency, each with one item (or one batch) at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from ._bounds import wait_until
from ._clock import Clock
from ._lanes import RUNNING, Item, Lanes
from ._options import SubscribeOptions
from .errors import HandlerTimeout

log = logging.getLogger("ductape.workers")

Handle = Callable[[Sequence[Item]], Awaitable[object]]
Outcome = Callable[[Sequence[Item], "BaseException | None"], None]


class Release(Exception):
    """Ends a handling without an outcome: the item goes back. For `stream`."""


class _Worker:
    """One worker's task, and since when it runs what."""

    __slots__ = ("expired", "items", "since", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.items: Sequence[Item] = ()
        self.since = 0.0
        self.expired = 0
        """How often the timeout asked it to end."""


class Workers:
    """Starts what is ready, never more at a time than `concurrency`."""

    def __init__(self, handle: Handle, outcome: Outcome, options: SubscribeOptions, clock: Clock) -> None:
        """Describe workers; what `lanes` has ready wakes them.

        Args:
            handle: Runs the handler for items.
            outcome: Told what came of it; None: it went well.
            options: How many at a time, in batches of how many, and for how long: the timeout is looked at once a
                second, or more often if it is shorter.
            clock: The client's.
        """
        self.lanes = Lanes(self.wake)
        self.handled = self.failed = self.running = 0
        self._handle, self._outcome, self._clock = handle, outcome, clock
        self._concurrency, self._timeout = options.concurrency, options.timeout
        self._batch, self._batch_wait = options.batch, options.batch_wait
        self._workers: list[_Worker] = []
        self._idle: deque[asyncio.Future[None]] = deque()
        self._sweeping = False
        self._calm: asyncio.Future[None] | None = None
        self._filling: asyncio.Future[None] | None = None
        self._wanted = 0
        self._paused = self._ended = False

    def wake(self) -> None:
        """Something is ready: wake an idle worker, or begin another."""
        if self._paused or self._filled():
            return
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        if len(self._workers) < self._concurrency:
            worker = _Worker()
            self._workers.append(worker)
            worker.task = asyncio.get_running_loop().create_task(self._work(worker))

    async def _work(self, worker: _Worker) -> None:
        handle, now, single = self._handle, self._clock.now, self._batch == 1
        while True:
            item = self.lanes.next() if not self._paused else None
            if item is None:
                if self._ended:
                    return
                await self._wait()
                continue
            item.state = RUNNING
            items: Sequence[Item] = (item,) if single else await self._fill(item)
            if not items:
                continue
            worker.items, worker.since = items, now()
            self.running += 1
            if self._timeout is not None and not self._sweeping:
                self._sweep()
            failure: BaseException | None = None
            try:
                await handle(items)
            except Exception as error:
                failure = error
            except asyncio.CancelledError as error:
                if worker.expired:
                    text = f"the handler ran longer than {self._timeout:g} s and was ended."
                    failure = HandlerTimeout("HANDLER_TIMEOUT", text).with_traceback(error.__traceback__)
                elif worker.task is not None and worker.task.cancelling():
                    self._left(worker)
                    raise
                else:
                    failure = error  # the handler's own: something that it awaited was cancelled
            self._left(worker)
            try:
                self._outcome(items, failure)
            except Exception:
                log.exception("what became of a message could not be decided; its lease will bring it again")

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        await waiter

    def _left(self, worker: _Worker) -> None:
        """A handler returned, or was ended."""
        self.handled += len(worker.items)
        self.running -= 1
        worker.items = ()
        while worker.expired:
            worker.expired -= 1
            if worker.task is not None:
                worker.task.uncancel()
        if not self.running and self._calm is not None and not self._calm.done():
            self._calm.set_result(None)

    async def _fill(self, first: Item) -> list[Item]:
        """Gather a batch around its first item; what arrives meanwhile is for it."""
        items = [first]
        self._more(items)
        if len(items) == self._batch or self._batch_wait <= 0:
            return items
        self._filling = asyncio.get_running_loop().create_future()
        self._wanted = self._batch - len(items)
        timer = self._clock.call_later(self._batch_wait, self._filling.cancel)
        await asyncio.wait({self._filling})
        timer.cancel()
        self._filling = None
        self._more(items)
        stale = [item for item in items if self._paused or not item.delivery.epoch.accepting]
        if stale:  # they are somebody else's now, or nothing shall start any more
            self._outcome(stale, Release())
        return [item for item in items if item not in stale]

    def _filled(self) -> bool:
        """Count an arrival for the batch that is being gathered, if there is one."""
        if self._filling is None or self._filling.done():
            return False
        self._wanted -= 1
        if not self._wanted:
            self._filling.set_result(None)
        return True

    def _more(self, items: list[Item]) -> None:
        while len(items) < self._batch:
            item = self.lanes.next()
            if item is None:
                return
            item.state = RUNNING
            items.append(item)

    # -- timeouts

    def _sweep(self) -> None:
        """End handlers that overstayed; again and again while something runs."""
        assert self._timeout is not None
        self._sweeping = self.running > 0
        now = self._clock.now()
        for worker in self._workers:
            if worker.items and now - worker.since >= self._timeout and worker.task is not None:
                worker.expired += 1
                worker.task.cancel("HANDLER_TIMEOUT")  # so that middleware can tell it from a shutdown
        if self._sweeping:
            self._clock.call_later(min(1.0, self._timeout / 4), self._sweep)

    # -- life

    def pause(self) -> None:
        """Start nothing more; what runs goes on."""
        self._paused = True

    def resume(self) -> None:
        """Start again."""
        self._paused = False
        for _ in range(self._concurrency):
            self.wake()

    async def calm(self, seconds: float) -> bool:
        """Wait until no handler runs, for at most `seconds`."""
        if self.running:
            self._calm = asyncio.get_running_loop().create_future()
            timer = self._clock.call_later(seconds, lambda: self._calm is None or self._calm.cancel())
            await asyncio.wait({self._calm})
            timer.cancel()
        return not self.running

    async def stop(self) -> None:
        """End the workers, with whatever still runs."""
        self._ended = True
        tasks = [worker.task for worker in self._workers if worker.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            gathered = asyncio.gather(*tasks, return_exceptions=True)
            await wait_until(gathered, self._clock, self._clock.now() + 1.0)  # one that swallows its end is left

    def __repr__(self) -> str:
        return f"<Workers running={self.running}/{self._concurrency} handled={self.handled}>"
