"""Hands over the messages of one group on one channel, and settles them."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from ductape.adapter import (
    AdapterError,
    Channel,
    Delivery,
    Epoch,
    Fault,
    Intake,
    Measurable,
    Receiver,
    Settlement,
    Verdict,
)

from ._bell import AGAIN, enter, leave
from ._group import Back, Spot, Taken, extend, lag, look, settle, take
from ._log import listeners, trim
from ._schema import SHIFT
from ._wire import delivery_of, microseconds, shown

if TYPE_CHECKING:
    from ._connection import SqliteConnection

__all__ = ["SqliteReceiver"]

Answers = list[AdapterError | None]

TRIM = 500
"""Messages settled between two looks at what a channel keeps."""
HAND_BACK = 2.0
"""Seconds for what `close` gives back."""


class SqliteReceiver(Receiver, Measurable):
    """One member of a group."""

    def __init__(
        self, connection: SqliteConnection, channel: Channel, intake: Intake, numbers: tuple[int, int]
    ) -> None:
        """Join.

        Args:
            connection: Whose.
            channel: The channel.
            intake: How it is opened.
            numbers: Those of channel and group.
        """
        self._connection, self._channel, self._window = connection, channel, intake.window
        self._spot = Spot(*numbers, secrets.randbits(62))
        self._base = self._spot.group * SHIFT
        self._place, self._clock = shown(channel), connection.site.clock
        self._lease = connection.config.lease
        self._epoch = Epoch(f"{self._place}/{intake.group}", self._clock)
        self._held: dict[int, Delivery] = {}
        self._ends = 0.0
        """No lease of what is held ends before."""
        self._entered = 0.0
        self._untrimmed = 0
        self._news = True
        self._waiter: asyncio.Future[None] | None = None
        self._taking = self._stopped = self._closed = False
        connection.bell.add(self._spot.channel, self)

    # -- waking

    def rung(self) -> None:
        """Look again: something was stored or came back. For the bell."""
        self._news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _rest(self, seconds: float) -> None:
        """Wait until it rings, for at most so long."""
        if self._news or seconds <= 0:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(seconds, self.rung)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    # -- receiving

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return what there is, or what comes first."""
        self._usable()
        end = self._clock.now() + wait
        if self._clock.now() >= self._entered:
            await self._enter()
        while not self._stopped and limit > 0:
            self._news = False
            room = min(limit, self._window - self._held_now())
            taken = await self._take(room) if room > 0 else Taken([], microseconds(self._clock.time(), wait))
            found = self._hand_over(taken)
            if self._closed:  # meanwhile: nobody would handle them
                await self._give_up(found)
                return []
            left = end - self._clock.now()
            if found or left <= 0:
                return found
            if not taken.more:
                due = (taken.due - microseconds(self._clock.time())) / 1e6
                await self._rest(min(left, max(due, 0.001)))
        return []

    async def _enter(self) -> None:
        if self._connection.bell.port:
            now = self._instant
            await self._connection.file.write(enter(self._spot.channel, self._connection.bell.port, now), durable=False)
        self._entered = self._clock.now() + AGAIN

    def _instant(self) -> int:
        return microseconds(self._clock.time())

    def _held_now(self) -> int:
        """Return how many places of the window are taken; what lapsed may be another's, and frees its place."""
        now = self._clock.now()
        if self._ends <= now:
            for lapsed in [id for id, one in self._held.items() if (one.leased_until or 0.0) <= now]:
                del self._held[lapsed]
            self._ends = min((one.leased_until or 0.0 for one in self._held.values()), default=0.0)
        return len(self._held)

    async def _take(self, room: int) -> Taken:
        self._until = self._clock.now() + self._lease
        spot, lease = self._spot, round(self._lease * 1e6)

        def peek(db: sqlite3.Connection) -> Taken | None:
            seen = look(db, spot)
            nothing = seen.head <= seen.cursor and seen.due > self._instant()
            return Taken([], seen.due) if nothing else None

        self._taking = True
        try:
            # A claim that a loss of power undoes is only taken again: it need not wait for the disk.
            return await self._connection.file.write(
                lambda db: take(db, spot, room, self._instant, lease), peek=peek, durable=False
            )
        finally:
            self._taking = False

    def _hand_over(self, taken: Taken) -> list[Delivery]:
        if not taken.rows:
            return []
        found = []
        until, place, epoch, held, base = self._until, self._place, self._epoch, self._held, self._base
        for number, tries, row in taken.rows:
            delivery = delivery_of(row, number, place, epoch, tries)
            delivery.leased_until = until
            held[base + number] = delivery
            found.append(delivery)
        self._ends = min(self._ends, until) if self._ends else until
        return found

    # -- settling

    def _perhaps_ours(self, id: int, delivery: Delivery) -> bool:
        """Tell whether to ask the file; what lapsed is ours until it is taken, perhaps by us as another delivery."""
        held = self._held.get(id)
        return held is delivery or (held is None and not self._taking)

    async def settle(self, settlements: Sequence[Settlement]) -> Answers:
        """Settle all in one transaction; one answer each."""
        self._usable()
        done: list[int] = []
        back: list[Back] = []
        now = self._clock.time()
        for settlement in settlements:
            id = self._base + settlement.delivery.token  # type: ignore[operator]  # ours: see _hand_over
            if not self._perhaps_ours(id, settlement.delivery):
                continue
            if settlement.verdict is Verdict.ACK:
                done.append(id)
            elif settlement.verdict is Verdict.RETRY:
                back.append(Back(id, microseconds(now, settlement.delay), 1))
            else:
                back.append(Back(id, 0, 0))
        lost = await self._settle(done, back) if done or back else set()
        ours = {*done, *(one.id for one in back)} - lost
        answers: Answers = []
        for settlement in settlements:
            id = self._base + settlement.delivery.token  # type: ignore[operator]  # as above
            fine = self._held.get(id, settlement.delivery) is settlement.delivery and id in ours
            if self._held.get(id) is settlement.delivery:
                del self._held[id]
            ours -= {id} if fine else set()
            answers.append(None if fine else AdapterError(Fault.LOST, "the message is not with this member"))
        if not self._held or len(self._held) + len(settlements) >= self._window:
            self.rung()  # there is room again
        return answers

    async def _settle(self, done: Sequence[int], back: Sequence[Back], within: float = 0.0) -> set[int]:
        spot, connection = self._spot, self._connection
        self._untrimmed += len(done)
        trimming = self._untrimmed >= TRIM

        def act(db: sqlite3.Connection) -> tuple[set[int], list[int]]:
            lost, others = settle(db, spot, done, back)
            if trimming:
                trim(db, spot.channel, connection.retention(self._channel), self._instant())
            return lost, listeners(db, spot.channel) if others else []

        lost, ports = await connection.file.write(act, within=within)
        if trimming:
            self._untrimmed = 0
        if back or ports:
            connection.bell.ring(spot.channel, ports)
        return lost

    async def extend(self, deliveries: Sequence[Delivery]) -> Answers:
        """Renew leases; one answer each."""
        self._usable()
        asked = [(self._base + one.token, one) for one in deliveries]  # type: ignore[operator]  # as above
        ours = {id for id, one in asked if self._perhaps_ours(id, one)}
        until, spot = self._clock.now() + self._lease, self._spot
        if ours:
            ours -= await self._connection.file.write(
                lambda db: extend(db, spot, ours, microseconds(self._clock.time(), self._lease)), durable=False
            )
        answers: Answers = []
        for id, delivery in asked:
            known = self._held.get(id, delivery) is delivery
            if known and id in ours:
                self._held[id] = delivery
                delivery.leased_until = until
                answers.append(None)
                continue
            if known:
                self._held.pop(id, None)
            answers.append(AdapterError(Fault.LOST, "the message is with another member"))
        self._ends = min(self._ends, until)
        return answers

    async def lag(self) -> int | None:
        """Return how many messages the group has not been given; delays that are not over do not count."""
        self._usable()
        spot = self._spot
        return await self._connection.file.read(lambda db: lag(db, spot, self._instant()))

    # -- ending

    async def stop(self) -> None:
        """Take no more; a waiting call ends at once, one that takes hands over what it took."""
        self._stopped = True
        self.rung()

    async def close(self) -> None:
        """Give back what is held, and leave. Idempotent."""
        if self._closed:
            return
        await self.stop()
        self._closed = True
        left = list(self._held.values())
        self._epoch.end()
        alone = self._connection.bell.remove(self._spot.channel, self)
        self._connection.left(self)
        if not self._connection.file.closed:
            await self._give_up(left)
            await self._leave(alone)

    async def _give_up(self, left: Sequence[Delivery]) -> None:
        """Let others take what was handed over here: it was tried, so its count stays."""
        ids = [self._base + one.token for one in left]  # type: ignore[operator]  # as above
        self._held.clear()
        if ids:
            await self._quietly(self._settle([], [Back(id, 0, 1) for id in ids], within=HAND_BACK))

    async def _leave(self, alone: bool) -> None:
        channel, port = self._spot.channel, self._connection.bell.port
        if alone and port:
            act = leave(channel, port)
            await self._quietly(self._connection.file.write(act, durable=False, within=HAND_BACK))

    async def _quietly(self, call: Awaitable[object]) -> None:
        try:
            await call
        except AdapterError as error:
            self._connection.site.log.info("%r: what it held goes back when its lease ends: %s", self, error)

    def _usable(self) -> None:
        if self._closed or self._connection.file.closed:
            raise AdapterError(Fault.LOST, "the receiver is closed")

    def __repr__(self) -> str:
        state = "closed" if self._closed else "stopped" if self._stopped else "open"
        return f"<SqliteReceiver {self._epoch.label} {state} held={len(self._held)}/{self._window}>"
