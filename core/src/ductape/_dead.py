"""Dead letters: list, replay, drop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from . import _headers as h
from ._bounds import CLOSE, wait_until
from ._codec import Decoding, Unreadable
from ._engine import Engine
from ._event import Delivered
from ._group import LAG
from ._intake import Source
from ._lanes import GONE, MOVING, READY, Item
from ._moves import plain
from ._names import check_group, ids
from ._places import Place
from ._records import Delivery, Intake, Outgoing, Purpose, Verdict
from .errors import AdapterError, OpenError, StateError

QUIET, IDLE = 1.0, 5.0
"""Seconds without a further letter that end a listing: where the provider tells that nothing is left, and anywhere."""


class DeadLetter(Delivered):
    """A message that a group gave up.

    Attributes:
        event: ``brokerTag:topicTag``.
        group: Whose it is.
    """

    def __init__(self, event: str, group: str, item: Item, desk: _Desk) -> None:
        """Wrap a delivery of a DEAD channel. For the kernel."""
        super().__init__(item.delivery)
        self.event, self.group = event, group
        self._item, self._desk = item, desk

    @property
    def reason(self) -> str:
        """``exhausted``, ``rejected``, ``unreadable``, ``crash-loop`` or ``unmatched``."""
        return self._text(h.DEAD_REASON)

    @property
    def error(self) -> str:
        """Class and text of the last error."""
        return self._text(h.DEAD_ERROR)

    @property
    def attempts(self) -> int:
        """How often it was tried."""
        text = self._text(h.DEAD_ATTEMPTS)
        return int(text) if text.isdigit() else 0

    @property
    def origin(self) -> str:
        """Where the original was stored."""
        return self._text(h.DEAD_ORIGIN)

    @property
    def at(self) -> datetime | None:
        """When it was given up."""
        return _instant(self._text(h.DEAD_AT))

    @property
    def stored_at(self) -> datetime | None:
        """When the original was stored, where the provider tells."""
        return _instant(self._text(h.DEAD_STORED_AT))

    @property
    def message(self) -> Any:
        """The payload, or the bytes if no codec reads them."""
        try:
            return self._desk.decoding.read(self.body, self._delivery.headers.get(h.CONTENT_TYPE))
        except Unreadable:
            return self.body

    def _text(self, header: str) -> str:
        return self._delivery.headers.get(header, "")

    async def replay(self) -> None:
        """Hand it to its group once more, and to no other: attempts begin anew, the id stays.

        Raises:
            PublishError: It could not be stored; it stays a dead letter.
            StateError: ``ALREADY_SETTLED``, or ``NOT_SETTLED``: it was replayed, and may be listed again.
        """
        await self._desk.replay(self._item)

    async def drop(self) -> None:
        """Remove it for good.

        Raises:
            StateError: ``ALREADY_SETTLED``, or ``NOT_SETTLED``: it may be listed again.
        """
        await self._desk.discard(self._item)

    def __repr__(self) -> str:
        return (
            f"<DeadLetter {self.event} id={self.id} group={self.group} reason={self.reason} attempts={self.attempts}>"
        )


class _Desk:
    """One listing: what it holds, and what is done with it."""

    def __init__(self, engine: Engine, place: Place, group: str, idle: float) -> None:
        self._idle = idle
        self.decoding = Decoding(engine.settings.codecs, Any)
        self._engine, self._place, self._group = engine, place, group
        self._letters: asyncio.Queue[Item] = asyncio.Queue()
        self._source: Source | None = None

    async def open(self, limit: int) -> None:
        link, bounds = self._place.link, self._engine.bounds
        channel = self._place.private(Purpose.DEAD, self._group)
        intake = Intake(group=self._group, window=limit, start="earliest")

        opening = partial(link.open_receiver, channel, (), intake)
        name = f"{channel.name}/{self._group}/dead"
        self._source = Source(name, opening, self._take, limit, bounds, link.backoff())
        await self._source.start()

    def _take(self, source: Source, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            item = Item(delivery, source, self)
            source.hold(item)
            self._letters.put_nowait(item)
        source.arrived()

    async def next(self) -> Item | None:
        """Return the next letter, or None if there is none; raises `OpenError` if the broker could not say."""
        source, clock = self._source, self._engine.clock
        assert source is not None  # it is open
        getting, began = asyncio.ensure_future(self._letters.get()), clock.now()
        quiet = began + min(QUIET, self._idle)
        if not await wait_until(getting, clock, quiet) and not await self._empty(source):
            await wait_until(getting, clock, began + self._idle)
        if getting.done():
            return getting.result()
        getting.cancel()
        if source.error is not None:
            raise self.failed(source.error) from source.error
        return None

    def failed(self, error: AdapterError) -> OpenError:
        """Say which listing failed, and how."""
        where = f"dead letters of {self._place.event!r} in group {self._group!r}"
        return OpenError("CONNECT_FAILED", f"{where}: {error.text}.")

    async def _empty(self, source: Source) -> bool:
        """Tell whether the provider says that nothing is left; a slow poll may still bring what there is."""
        measured = source.measured
        try:
            return measured is not None and await self._engine.bounds.call(measured.lag(), LAG) == 0
        except AdapterError:
            return False

    def drop(self, item: Item) -> None:
        """It is with somebody else now; its state tells."""
        item.state = GONE

    def moved(self, item: Item, where: str, reason: str) -> None:
        """Nothing waits for it."""

    async def replay(self, item: Item) -> None:
        """Store a copy on the group's own way back, then remove the letter."""
        self._check(item)
        channel = self._place.private(Purpose.RETRY, self._group)
        delivery, clock = item.delivery, self._engine.clock
        headers = plain(delivery)
        id = headers.setdefault(h.ID, ids.next())
        size = len(delivery.body) + 1024
        record = Outgoing(
            delivery.body, headers, id, delivery.key, 0.0, f"{id}~replay~{clock.time():.3f}", delivery, size
        )
        outbox = self._engine.outbox(self._place.link, channel)
        item.state = MOVING
        try:
            await outbox.publish(record, clock.now() + self._engine.settings.deadline)
        finally:
            item.state = READY if item.state == MOVING else item.state
        await self.discard(item)

    async def discard(self, item: Item) -> None:
        """Remove the letter."""
        self._check(item)
        source = self._source
        assert source is not None  # it gave the item
        lost = source.settling.lost
        source.settle(item, Verdict.ACK)
        if not await source.flush(CLOSE) or source.settling.lost > lost:
            text = "the broker did not confirm that the letter is removed; it may be listed again."
            raise StateError("NOT_SETTLED", text)

    @staticmethod
    def _check(item: Item) -> None:
        if item.state != READY:
            raise StateError("ALREADY_SETTLED", "this dead letter was replayed or dropped, or its listing has ended.")

    async def close(self) -> None:
        """Give back what was only looked at."""
        source = self._source
        if source is not None:
            await source.stop()
            for item in [item for item in source.held if item.state == READY]:
                source.settle(item, Verdict.RELEASE)
            await source.close(CLOSE)


async def dead_letters(
    engine: Engine, event: str, group: str | None, env: str | None, limit: int, idle: float
) -> AsyncIterator[DeadLetter]:
    """List the dead letters of a group; those that are neither replayed nor dropped stay."""
    place = await engine.atlas.place(event, env)
    name = check_group(group) if group is not None else place.group
    desk = _Desk(engine, place, name, idle)
    try:
        await desk.open(limit)
    except AdapterError as error:
        raise desk.failed(error) from error
    seen: set[str] = set()
    try:
        for _ in range(limit):
            item = await desk.next()
            if item is None:
                return
            letter = DeadLetter(item.delivery.headers.get(h.EVENT, event), name, item, desk)
            if letter.id not in seen:  # one that was replayed here and failed again is for the next listing
                seen.add(letter.id)
                yield letter
    finally:
        await desk.close()


def _instant(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
