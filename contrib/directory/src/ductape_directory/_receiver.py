"""Taking messages and settling them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ductape.adapter import AdapterError, Delivery, Epoch, Fault, Measurable, Receiver, Settlement, Verdict, each

from ._wire import File, delivery_of, due_at, fault_of

if TYPE_CHECKING:
    from ._connection import DirectoryConnection

__all__ = ["DirectoryReceiver"]

Answers = Sequence[AdapterError | None]


class DirectoryReceiver(Receiver, Measurable):
    """One member of a group."""

    def __init__(self, connection: DirectoryConnection, group: Path, window: int) -> None:
        """Open."""
        self._connection, self._group, self._window = connection, group, window
        self._config, self._clock = connection.config, connection.site.clock
        self._epoch = Epoch(group.name, self._clock)
        self._out: dict[Delivery, File] = {}
        self._stopped = self._closed = False

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Look until there is something, or until `wait` is over."""
        end = self._clock.now() + wait
        self._connection.usable()
        while not self._stopped:
            found: dict[Delivery, File] = {}
            if room := min(limit, self._window - self._held()):
                found = await self._connection.call(self._take, room)
            self._out.update(found)
            if self._closed:  # meanwhile: nobody would handle them
                await self._give_up()
                break
            left = end - self._clock.now()
            if found or left <= 0 or limit == 0:
                return list(found)
            await self._clock.sleep(min(self._config.poll, left))
        return []

    def _held(self) -> int:
        """Return how many places of the window are taken; what lapsed is another member's, and frees its place."""
        now = self._clock.now()
        for lapsed in [one for one in self._out if (one.leased_until or 0.0) <= now]:
            del self._out[lapsed]
        return len(self._out)

    def _files(self) -> list[File]:
        return [file for name in os.listdir(self._group) if (file := File.parse(name)) is not None]

    def _take(self, limit: int) -> dict[Delivery, File]:
        now = due_at(self._clock.time(), 0.0)
        taken: dict[Delivery, File] = {}
        for file in sorted(file for file in self._files() if file.due <= now):
            if len(taken) == limit:
                break
            until = self._clock.now() + self._config.lease
            try:
                mine = self._rename(file, self._config.lease, file.tries + 1)
                content = (self._group / str(mine)).read_bytes()
            except FileNotFoundError:
                continue  # another member was quicker
            delivery = delivery_of(content, mine, self._epoch, self._group.parent.name)
            delivery.leased_until = until
            taken[delivery] = mine
        return taken

    def _rename(self, file: File, delay: float, tries: int) -> File:
        new = File(due_at(self._clock.time(), delay), tries, file.id)
        os.rename(self._group / str(file), self._group / str(new))
        return new

    async def settle(self, settlements: Sequence[Settlement]) -> Answers:
        """Settle; one answer each."""
        answers: Answers = await self._connection.call(each, fault_of, self._settle, settlements)
        for settlement, answer in zip(settlements, answers, strict=True):
            if answer is None or answer.fault is Fault.LOST:
                self._out.pop(settlement.delivery, None)
        return answers

    def _settle(self, settlement: Settlement) -> None:
        file = self._file(settlement.delivery)
        if settlement.verdict is Verdict.ACK:
            os.unlink(self._group / str(file))
        elif settlement.verdict is Verdict.RETRY:
            self._rename(file, settlement.delay, file.tries)
        else:
            self._rename(file, 0.0, file.tries - 1)

    async def extend(self, deliveries: Sequence[Delivery]) -> Answers:
        """Renew leases; one answer each."""
        answers: Answers = await self._connection.call(each, fault_of, self._extend, deliveries)
        return answers

    def _extend(self, delivery: Delivery) -> None:
        until, file = self._clock.now() + self._config.lease, self._file(delivery)
        self._out[delivery] = self._rename(file, self._config.lease, file.tries)
        delivery.leased_until = until

    def _file(self, delivery: Delivery) -> File:
        """Return the file of a delivery that is ours; any other is, or will be, with somebody else."""
        if delivery not in self._out:
            raise AdapterError(Fault.LOST, "the message is not with this member")
        return self._out[delivery]

    async def lag(self) -> int | None:
        """Return how many messages the group was never given."""
        files: list[File] = await self._connection.call(self._files)
        return sum(file.tries == 0 for file in files)

    async def stop(self) -> None:
        """Take no more; a waiting call ends at its next look."""
        self._stopped = True

    async def close(self) -> None:
        """End the epoch, and give up what is out: others may take it at once."""
        self._stopped = self._closed = True
        self._epoch.end()
        if not self._connection.closed:
            await self._give_up()

    async def _give_up(self) -> None:
        """Make due what is out. It was tried, so its count stays; what was settled meanwhile is not found."""
        left, self._out = list(self._out.values()), {}
        if left:
            await self._connection.call(each, fault_of, lambda file: self._rename(file, 0.0, file.tries), left)
