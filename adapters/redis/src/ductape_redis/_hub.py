"""Reads for one or more groups over one connection, and costs next to nothing while there is nothing to read.

1.  One group: a blocking XREADGROUP over all of its streams waits and takes in one call; members are woken one at a
    time.
2.  More groups than connections: a blocking XREAD over all their streams, from where each group stands, only tells
    which stream has something; it is then read by XREADGROUP without waiting.
3.  A stream that gave all that was asked for is *hot*: it is read again at once, with all the room there is.

Nothing is read that no receiver has room for. CLIENT UNBLOCK ends a wait when the demand changes: the server answers
with nothing, or has answered already; either way nothing is lost, which cancelling a read would not promise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import hiredis

from ductape.adapter import AdapterError, Fault

from ._link import Link, pack, reply_fault
from ._scripts import CLAIM, Argument
from ._source import Desk, Source, Taker, entries_of, id_key
from ._wire import Raw

__all__ = ["Hub"]

Asks = dict[Source, Taker]
Shares = list[tuple[Source, Taker, int]]

BLOCK = 5.0
"""Seconds of one wait: a dead link is noticed after this and a bit."""
LATE = 3.0
PATIENCE = 0.002
"""Seconds that others wait, once, for a busy receiver to ask again."""
SWEEP = 0.05
"""Seconds for which a busy stream may keep its receiver's other streams from being looked at."""


class Hub:
    """One connection and the streams that are read over it."""

    def __init__(self, desk: Desk, link: Link) -> None:
        """Prepare; the first receiver starts it."""
        self.desk = desk
        self.sources: list[Source] = []
        self._link = link
        self._task: asyncio.Task[None] | None = None
        self._poke: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._waiting: frozenset[Source] | None = None
        self._reading: frozenset[Source] = frozenset()
        self._turns = 0
        self._swept = 0.0
        self._block = BLOCK
        self._patient = False

    def joined(self, sources: Sequence[Source]) -> None:
        """Read these too."""
        self.sources += [source for source in sources if source not in self.sources]
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="ductape-redis-hub")

    def wanted(self, sources: Sequence[Source]) -> None:
        """Note that there is room for messages of these."""
        if self._waiting is None:
            self._changed.set()
        elif not self._waiting.issuperset(sources):
            self.interrupt()

    def interrupt(self) -> None:
        """End the wait, if there is one, and look at what is wanted now."""
        self._changed.set()
        if self._waiting is not None and (self._poke is None or self._poke.done()):
            self._poke = asyncio.get_running_loop().create_task(self._unblock())

    async def left(self, sources: Sequence[Source]) -> None:
        """Return when what was being read for these has arrived."""
        turn = self._turns
        if self._reading.isdisjoint(sources):  # a read that does not wait, or a claim, brings something too
            return
        self.interrupt()
        for _ in range(100):
            if self._turns != turn:
                return
            await self.desk.clock.sleep(0.01)

    def release(self, sources: Sequence[Source]) -> bool:
        """Stop reading what has no receiver any more; True if nothing is left."""
        self.sources = [source for source in self.sources if source not in sources]
        return not self.sources

    async def end(self) -> None:
        """Close the connection. Idempotent."""
        tasks = [task for task in (self._task, self._poke) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None
        self._link.drop()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            asks = asked(self.sources)
            if not asks:
                await self._changed.wait()
                continue
            self._reading = frozenset(asks)
            try:
                await self._turn(asks)
            except AdapterError as error:
                self._failed(error)
            except Exception as error:
                self.desk.log.exception("the reader of %s failed", self._names())
                self._failed(AdapterError(Fault.LOST, f"the reader failed: {type(error).__name__}"))
            self._reading = frozenset()
            self._turns += 1

    async def _turn(self, asks: Asks) -> None:
        if not self._link.alive:
            if self._link.id:  # it broke while nothing was read over it
                self.desk.broke()
            await self._link.open()
        for source, taker in asks.items():
            if (source.recover or source.claim) and taker.credit > 0:
                await self._claim(source, taker)
        asks = {source: taker for source, taker in asks.items() if taker.credit > 0}
        room: dict[Taker, int] = {}
        for taker in asks.values():
            room[taker] = room.get(taker, 0) + 1
        several = len({source.group for source in self.sources}) > 1
        watching = several or any(taker.credit < n for taker, n in room.items())
        if any(source.hot for source in asks):
            now = self.desk.clock.now()
            sweep = now - self._swept >= SWEEP
            self._swept = now if sweep else self._swept
            await self._look(shared(asks, self._turns, sweep=sweep), watching)
        elif not self._patient and any(source.hot for source in self.sources if source not in asks):
            await self._linger()
        elif watching:
            await self._watch(asks)
        elif asks:
            await self._take(asks, min(taker.credit // n for taker, n in room.items()))

    async def _linger(self) -> None:
        """A busy stream's receiver has no room: it will ask again in no time, and would have to end the wait."""
        self._patient = True
        timer = self.desk.clock.call_later(PATIENCE, self._changed.set)
        await self._changed.wait()
        timer.cancel()

    async def _look(self, shares: Shares, watching: bool) -> None:
        """Read without waiting. To watch a stream afterwards, ask also how far its group is."""
        until = self.desk.clock.now() + self.desk.config.lease
        consumer = self.desk.consumer
        commands = [
            pack((b"XREADGROUP", b"GROUP", source.group, consumer, b"COUNT", count, b"STREAMS", source.key, b">"))
            for source, _, count in shares
        ]
        if watching:
            commands += [source.inspect for source, _, _ in shares]
        replies = await self._link.many(b"".join(commands), len(commands))
        for (source, taker, count), reply in zip(shares, replies, strict=False):
            if isinstance(reply, hiredis.ReplyError):
                self._refused(source, reply)
                continue
            entries = [entry for _, found in entries_of(reply) for entry in found]
            source.hot = len(entries) >= count
            if entries:
                self._patient = False
                taker.put(source, entries, until)
        if len(replies) < len(commands):
            raise AdapterError(Fault.TRANSIENT, self._link.why)
        for (source, _, _), reply in zip(shares, replies[len(shares) :], strict=False):
            after = source.facts(reply).get(b"last-delivered-id")
            source.after = after if isinstance(after, bytes) else None

    async def _take(self, asks: Asks, count: int) -> None:
        """Wait for messages of one group. COUNT holds for every stream of the call."""
        group = next(iter(asks)).group
        command = (b"XREADGROUP", b"GROUP", group, self.desk.consumer, b"COUNT", count, b"BLOCK", self._block_ms())
        reply = await self._wait(asks, (*command, b"STREAMS", *(source.key for source in asks), *[b">"] * len(asks)))
        by = {source.key: source for source in asks}
        until = self.desk.clock.now() + self.desk.config.lease
        for name, entries in entries_of(reply):
            source = by[name]
            source.hot = len(entries) >= count
            asks[source].put(source, entries, until)

    async def _watch(self, asks: Asks) -> None:
        """Wait until a stream has something that its group was not given."""
        after: dict[bytes, bytes] = {}
        for source in asks:
            if source.after is None:
                source.hot = True  # look first: that tells
            elif source.key not in after or id_key(source.after) < id_key(after[source.key]):
                after[source.key] = source.after
        if any(source.hot for source in asks):
            return
        command: tuple[Argument, ...] = (
            b"XREAD",
            b"COUNT",
            1,
            b"BLOCK",
            self._block_ms(),
            b"STREAMS",
            *after,
            *after.values(),
        )
        found = {name for name, _ in entries_of(await self._wait(asks, command))}
        for source in asks:
            source.hot = source.key in found

    def _block_ms(self) -> int:
        return int(self._block * 1000)

    async def _wait(self, asks: Asks, command: tuple[Argument, ...]) -> object:
        if self._changed.is_set():  # the demand changed since it was read
            return None
        self._waiting = frozenset(asks)
        try:
            [reply] = await self._link.calls([pack(command)], self._block + LATE)
        finally:
            self._waiting = None
        if isinstance(reply, hiredis.ReplyError):
            if not str(reply).startswith(("NOGROUP", "UNBLOCKED", "WRONGTYPE")):
                raise reply_fault(self._link, reply)
            for source in asks:
                source.hot = True  # a look at each one tells which it was
            return None
        return reply

    async def _claim(self, source: Source, taker: Taker) -> None:
        """Take over expired leases; or first what was in an answer that never arrived."""
        lost = source.recover
        limit = taker.credit
        until = self.desk.clock.now() + self.desk.config.lease
        who = (source.group, self.desk.consumer, self.desk.lease_ms)
        run = CLAIM.run([source.name], *who, limit, int(lost), *source.held)
        source.recover = True  # until it is answered
        [reply] = await self._link.calls([pack(run)])
        if isinstance(reply, hiredis.ReplyError):
            source.recover = lost
            self._refused(source, reply)
            return
        found: list[Raw] = [(one[0], one[1], one[2]) for one in reply if one[1] > 0] if isinstance(reply, list) else []
        gone = (len(reply) if isinstance(reply, list) else 0) - len(found)
        if gone:
            self.desk.log.error("%r: somebody deleted %d messages that were not settled", source, gone)
        more = len(found) + gone >= limit
        source.recover = lost and more
        source.claim = more if not lost else source.claim
        if found:
            taker.put(source, found, until)

    def _refused(self, source: Source, reply: BaseException) -> None:
        """A stream or its group cannot be read: its receivers hear of it, the others read on."""
        error = reply_fault(self._link, reply, f"{source.name}/{source.group}")
        for taker in list(source.takers):
            taker.fail(error)

    def _failed(self, error: AdapterError) -> None:
        """The connection broke: every receiver hears of it, and its next `receive` connects again."""
        self.desk.broke()
        for source in self.sources:
            source.recover = source.hot = True
            for taker in list(source.takers):
                taker.fail(error)

    async def _unblock(self) -> None:
        """End the wait. The first attempt may come before the server has begun to wait."""
        pause = 0.001
        while self._waiting is not None and self._changed.is_set():
            try:
                await self.desk.control.call("CLIENT", "UNBLOCK", self._link.id)
            except AdapterError as error:
                if error.fault is Fault.CONFIG and self._block == BLOCK:
                    self._block = 0.2
                    self.desk.log.warning("waits are short and cost more, since CLIENT UNBLOCK is refused: %s", error)
                return
            await self.desk.clock.sleep(pause)
            pause = min(pause * 2, 0.1)

    def _names(self) -> str:
        return ", ".join(sorted({source.group for source in self.sources}))

    def __repr__(self) -> str:
        state = "waiting" if self._waiting is not None else "reading" if self._task else "ended"
        return f"<Hub {self._names()} streams={len(self.sources)} {state}>"


def asked(sources: Sequence[Source]) -> Asks:
    """Return what is wanted, and by whom; receivers of one stream take turns."""
    asks: Asks = {}
    for source in sources:
        takers = source.takers
        for taker in takers:
            if taker.credit > 0:
                asks[source] = taker
                if len(takers) > 1:
                    takers.remove(taker)
                    takers.append(taker)
                break
    return asks


def shared(asks: Asks, turn: int, *, sweep: bool) -> Shares:
    """Return how much to read of what: hot streams share the room, quiet ones get a little of it when `sweep`."""
    by: dict[Taker, list[Source]] = {}
    for source, taker in asks.items():
        by.setdefault(taker, []).append(source)
    shares: Shares = []
    for taker, sources in by.items():
        hot = [source for source in sources if source.hot]
        if not hot:
            continue
        room = taker.credit
        for source in [source for source in sources if not source.hot] if sweep else ():
            count = min(max(room // 8, 1), room - len(hot))
            if count > 0:
                shares.append((source, taker, count))
                room -= count
        first = turn % len(hot)
        for place, source in enumerate(hot[first:] + hot[:first]):
            count = room // (len(hot) - place)
            if count > 0:
                shares.append((source, taker, count))
                room -= count
    return shares
