"""What has to be done now and then: move what is due, look for expired leases, trim, renew after an outage.

One task and one write a tick for all streams of a connection; without receivers there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import hiredis

from ductape.adapter import AdapterError, Fault

from ._link import pack, reply_fault
from ._scripts import EXTEND, MOVE, TRIM
from ._source import Desk, Source

__all__ = ["Keeper"]

POLL = 1.0
"""Seconds between looks at the sorted sets: other processes put something there without telling us."""
MOVES = 500
"""Messages moved by one script, which blocks the server meanwhile."""
TRIM_EVERY = 5.0


class Keeper:
    """Keeps the streams of a connection in order."""

    def __init__(self, desk: Desk, groups: Callable[[str], Iterable[str]], expired: Callable[[Source], None]) -> None:
        """Prepare; `watch` starts it.

        Args:
            desk: What the connection's readers share.
            groups: Returns the groups that were declared for a stream.
            expired: Told about a source that has something to claim, or whose group is missing.
        """
        self._desk, self._groups, self._expired = desk, groups, expired
        self._sources: list[Source] = []
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._move = self._pending = b""
        self._due = self._next_claim = self._next_trim = 0.0
        self._failures = 0

    def watch(self, sources: Iterable[Source]) -> None:
        """Keep exactly these in order from now on."""
        self._sources = list(sources)
        pairs = dict.fromkeys((source.due, source.name) for source in self._sources)
        self._move = pack(MOVE.run([key for pair in pairs for key in pair], MOVES))
        self._pending = b"".join(source.overdue for source in self._sources)
        self.delayed(0.0)
        if self._sources and self._task is None:
            self._next_trim = self._desk.clock.now() + TRIM_EVERY
            self._task = asyncio.get_running_loop().create_task(self._run(), name="ductape-redis-keeper")

    def delayed(self, seconds: float) -> None:
        """Note that something is due in so many seconds."""
        due = self._desk.clock.now() + seconds
        if due < self._due:
            self._due = due
            self._changed.set()

    async def end(self) -> None:
        """Stop. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        clock = self._desk.clock
        while True:
            self._changed.clear()
            if self._sources:
                self._due = clock.now() + POLL
                await self._tick()
            else:
                self._due = float("inf")
            wait = max(self._due - clock.now(), 0.0)
            timer = clock.call_later(min(wait, POLL), self._changed.set)
            await self._changed.wait()
            timer.cancel()

    async def _tick(self) -> None:
        try:
            await self._work()
            self._failures = 0
        except AdapterError as error:
            self._report(error)
        except Exception as error:
            self._desk.log.exception("the keeper of the streams failed")
            self._report(AdapterError(Fault.LOST, f"the keeper of the streams failed: {type(error).__name__}"))

    def _report(self, error: AdapterError) -> None:
        """Log the first of a row of failures; receivers hear of what lasts or cannot mend itself."""
        self._failures += 1
        self._desk.broke()
        if self._failures == 1:
            self._desk.log.warning("delays, takeovers and trimming wait: %s", error)
        if error.fault is not Fault.TRANSIENT or self._failures > 1:
            for source in self._sources:
                for taker in list(source.takers):
                    taker.fail(error)

    async def _work(self) -> None:
        desk, now = self._desk, self._desk.clock.now()
        if not desk.control.alive:
            desk.broke()
        if desk.broken:
            await self._renew()
        sources = self._sources
        claims = now >= max(self._next_claim, desk.quiet_until)
        commands, number = self._move, 1
        if claims:
            self._next_claim = now + min(max(desk.config.lease / 4, 0.1), POLL * 5)
            commands, number = commands + self._pending, number + len(sources)
        replies = await desk.control.many(commands, number)
        if len(replies) < number:
            raise AdapterError(Fault.TRANSIENT, desk.control.why)
        self._moved(replies[0])
        for source, reply in zip(sources, replies[1:], strict=False):
            # Something is idle for longer than a lease, or the group is gone: the hub finds out which.
            if reply:
                source.claim = source.claim or isinstance(reply, list)
                source.hot = source.hot or not isinstance(reply, list)
                self._expired(source)
        if claims and desk.config.lease < POLL * 4:
            self.delayed(max(self._next_claim - now, 0.05))
        if now >= self._next_trim:
            self._next_trim = now + TRIM_EVERY
            await self._trim()

    def _moved(self, reply: object) -> None:
        if isinstance(reply, hiredis.ReplyError):
            raise reply_fault(self._desk.control, reply, "delayed messages")
        if isinstance(reply, list):
            soonest, moved = reply
            if moved:
                self.delayed(0.0)
            elif soonest > 0:
                self.delayed(soonest / 1000)

    async def _renew(self) -> None:
        """After an outage: what we hold stays ours, before others begin to claim."""
        desk = self._desk
        held = [(source, list(source.held.items())) for source in self._sources if source.held]
        until = desk.clock.now() + desk.config.lease
        runs = [pack(EXTEND.run([s.name], s.group, desk.consumer, *(id_ for id_, _ in items))) for s, items in held]
        replies = await desk.control.calls(runs) if runs else []
        for (_, items), reply in zip(held, replies, strict=True):
            for (_, delivery), ours in zip(items, reply if isinstance(reply, list) else (), strict=False):
                if ours:
                    delivery.leased_until = until
        desk.broken = False

    async def _trim(self) -> None:
        """Drop what every group has settled, beyond the history that the config keeps."""
        keep = self._desk.config.max_length
        sources = {source.name: source for source in self._sources if source.acked and not source.private}
        if keep is None or not sources:
            return
        runs = [pack(TRIM.run([name], keep, *self._groups(name))) for name in sources]
        replies = await self._desk.control.calls(runs)
        for source, reply in zip(sources.values(), replies, strict=True):
            source.acked = False
            if isinstance(reply, hiredis.ReplyError):
                raise reply_fault(self._desk.control, reply, source.name)
            if reply == -1:
                self._desk.log.warning("%s: not trimmed, since a declared group is missing", source.name)
