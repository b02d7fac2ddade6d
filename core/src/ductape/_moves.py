"""Storing a message again before its original is settled: dead letters, and copies on a group's own way back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime

import msgspec

from . import _headers as h
from ._bounds import wait_until
from ._capabilities import Capabilities
from ._clock import Clock
from ._lanes import MOVING, Holder, Item
from ._names import ids
from ._outbox import Outbox
from ._records import Delivery, Outgoing, Purpose, Verdict
from .errors import AdapterError, PublishError

DEADLINE, PAUSE = 30.0, 5.0
"""Seconds for one try to store the copy; seconds until the next. The original stays, with its lease, meanwhile."""
ERROR_TEXT = 1000

log = logging.getLogger("ductape.moves")

OpenOutbox = Callable[[Purpose], Awaitable[tuple[Outbox, Capabilities]]]


class Moves:
    """The moves of one group on one channel. A move counts as running until its original's settlement is queued."""

    def __init__(self, group: str, outbox: OpenOutbox, clock: Clock) -> None:
        """Describe where messages go.

        Args:
            group: Whose dead letters and retries these are.
            outbox: Opens the outbox of the group's DEAD or RETRY channel.
            clock: The client's.
        """
        self.error: PublishError | AdapterError | None = None
        """Why the last copy could not be stored; None once one was."""
        self._group, self._outbox, self._clock = group, outbox, clock
        self._tasks: dict[asyncio.Task[None], Item] = {}

    @property
    def running(self) -> int:
        """How many are under way."""
        return len(self._tasks)

    def bury(self, item: Item, reason: str, error: BaseException | str) -> None:
        """Store a dead letter, then settle the original."""
        self._begin(item, self._move(item, Purpose.DEAD, self._dead_letter(item, reason, error), reason))

    def later(self, item: Item, delay: float) -> None:
        """Store a copy on the RETRY channel that is due after `delay` seconds, then settle the original."""
        self._begin(item, self._move(item, Purpose.RETRY, self._retry(item, delay), "retry"))

    def _begin(self, item: Item, move: Coroutine[object, object, None]) -> None:
        item.state = MOVING
        task = asyncio.get_running_loop().create_task(move)
        self._tasks[task] = item
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        item = self._tasks.pop(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("group %s: a move of %r failed", self._group, item.delivery, exc_info=task.exception())

    async def _move(self, item: Item, purpose: Purpose, record: Outgoing, reason: str) -> None:
        stored = ""
        while item.delivery.epoch.alive:
            try:
                outbox, can = await self._outbox(purpose)
                if record.delay > can.send_delay:  # its receiver keeps to NOT_BEFORE for the rest
                    record = msgspec.structs.replace(record, delay=can.send_delay)
                await outbox.publish(record, self._clock.now() + DEADLINE)
            except (PublishError, AdapterError) as error:
                self.error = error
                log.error("group %s: %s copy of %s not stored: %s", self._group, purpose.value, record.id, error)
                await self._clock.sleep(PAUSE)
                continue
            self.error = None
            stored = purpose.value
            break
        item.source.settle(item, Verdict.ACK)
        item.holder.moved(item, stored, reason)

    def _dead_letter(self, item: Item, reason: str, error: BaseException | str) -> Outgoing:
        delivery = item.delivery
        text = error if isinstance(error, str) else _told(error)
        room = min(ERROR_TEXT, item.source.can.max_header or ERROR_TEXT)
        headers = plain(delivery)
        headers |= {
            h.DEAD_REASON: reason,
            h.DEAD_ERROR: cut(text, room),
            h.DEAD_ATTEMPTS: str(item.attempt),
            h.DEAD_AT: rfc3339(self._clock.time()),
            h.DEAD_GROUP: self._group,
            h.DEAD_ORIGIN: cut(delivery.position, room),
        }
        if delivery.stored_at is not None:
            headers[h.DEAD_STORED_AT] = rfc3339(delivery.stored_at)
        return self._copy(item, headers)

    def _retry(self, item: Item, delay: float) -> Outgoing:
        headers = plain(item.delivery)
        headers |= {h.ATTEMPT: str(item.attempt), h.NOT_BEFORE: repr(round(self._clock.time() + delay, 3))}
        return self._copy(item, headers, delay)

    def _copy(self, item: Item, headers: dict[str, str], delay: float = 0.0) -> Outgoing:
        delivery = item.delivery
        id = headers.setdefault(h.ID, ids.next())
        dedup = f"{id}~{item.attempt}~{self._clock.time():.3f}"
        size = len(delivery.body) + sum(len(name) + len(value) for name, value in headers.items())
        return Outgoing(delivery.body, headers, id, delivery.key, delay, dedup, delivery, size)

    async def calm(self, seconds: float, holders: Sequence[Holder] | None = None) -> None:
        """Wait for the moves of these (None: all), for at most `seconds`; end the others. Their originals stay."""
        tasks = [task for task, item in self._tasks.items() if holders is None or item.holder in holders]
        if tasks:
            gathered = asyncio.gather(*tasks, return_exceptions=True)
            await wait_until(gathered, self._clock, self._clock.now() + seconds)
        for task in tasks:
            task.cancel()

    def __repr__(self) -> str:
        return f"<Moves {self._group} running={self.running}>"


def plain(delivery: Delivery) -> dict[str, str]:
    """Return a delivery's headers as its publisher wrote them: what earlier moves added is replaced, not appended."""
    return {
        name: value
        for name, value in delivery.headers.items()
        if name not in (h.ATTEMPT, h.NOT_BEFORE) and not name.startswith(h.DEAD)
    }


def _told(error: BaseException) -> str:
    """Class and text of an application's error, whose text may be broken itself."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def cut(text: str, room: int) -> str:
    """Return `text` in at most `room` bytes of UTF-8, without line breaks."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line.encode()) <= room else line.encode()[: room - 3].decode(errors="ignore") + "…"


def rfc3339(seconds: float) -> str:
    """Return seconds since 1970 as RFC 3339 text in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
