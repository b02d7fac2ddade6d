"""Storing records."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ductape.adapter import AdapterError, Fault, Limits, Outgoing, Sender, Stored, translated

from ._wire import File, fault_of, file_of, oversize

if TYPE_CHECKING:
    from ._connection import DirectoryConnection

__all__ = ["DirectorySender"]


class DirectorySender(Sender):
    """Writes a record once, and links it into the directory of every group."""

    limits = Limits(records=100, calls=4)

    def __init__(self, connection: DirectoryConnection, channel: Path) -> None:
        """Open."""
        self._connection, self._channel = connection, channel
        self._sync, self._clock = connection.config.sync, connection.site.clock

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Stored | AdapterError]:
        """Store the records; one answer each."""
        answers: Sequence[Stored | AdapterError] = await self._connection.call(self._send, records, self._clock.time())
        return answers

    def _send(self, records: Sequence[Outgoing], now: float) -> list[Stored | AdapterError]:
        groups = [entry for entry in self._channel.iterdir() if entry.is_dir()]
        answers = [self._store(record, groups, now) for record in records]
        try:
            for folder in groups if self._sync else ():
                sync(folder)
        except OSError as error:
            failed = AdapterError(Fault.AMBIGUOUS, f"stored, but the disk did not confirm it: {error.strerror}")
            return [failed if isinstance(answer, Stored) else answer for answer in answers]
        return answers

    def _store(self, record: Outgoing, groups: Sequence[Path], now: float) -> Stored | AdapterError:
        if problem := oversize(record):
            return AdapterError(Fault.MESSAGE, problem)
        file = File.new(now, record.delay)
        draft = self._channel / f".{secrets.token_hex(8)}"
        linked = 0
        try:
            with draft.open("wb") as stream:
                stream.write(file_of(record))
                stream.flush()
                if self._sync:
                    os.fsync(stream.fileno())
            for group in groups:
                (group / str(file)).hardlink_to(draft)
                linked += 1
        except OSError as error:
            # Some groups may have it: the kernel sends it again under the same id.
            return AdapterError(Fault.AMBIGUOUS, "linked in part") if linked else translated(fault_of, error)
        finally:
            draft.unlink(missing_ok=True)
        return Stored(f"{self._channel.name}/{file.id}")


def sync(folder: Path) -> None:
    """Have the disk keep a directory's names."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
