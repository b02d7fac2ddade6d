"""Storing records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ductape.adapter import AdapterError, Outgoing, Sender, Stored

from ._wire import message_of

if TYPE_CHECKING:
    from ._connection import CamelConnection

__all__ = ["CamelSender"]


class CamelSender(Sender):
    """Stores records in one queue. `limits` tells the kernel how to fill a call."""

    def __init__(self, connection: CamelConnection, name: str) -> None:
        """Open."""
        self._connection, self._name = connection, name

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Stored | AdapterError]:
        """Store the records in one operation; one answer each."""
        self._connection.queue(self._name).extend(message_of(record) for record in records)
        return [Stored(f"{self._name}@{record.id}") for record in records]
