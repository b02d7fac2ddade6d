"""An adapter that does nothing: what remains is the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from ductape import Registry
from ductape.adapter import (
    Adapter,
    AdapterError,
    Capabilities,
    Channel,
    Connection,
    Delivery,
    Epoch,
    Intake,
    Limits,
    Order,
    Outgoing,
    Receiver,
    Sender,
    Settlement,
    Site,
    Stored,
)

from .load import BROKER

__all__ = ["ENV", "NullAdapter", "registry_of"]

ENV: dict[str, Any] = {"type": "null"}
"""The environment of a broker on this adapter."""


class NoConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing can be set."""


class NullAdapter(Adapter[NoConfig]):
    """Answers every record at once, and hands a backlog to the first receiver.

    Attributes:
        calls: Calls to `Sender.send`.
        records: Records in them.
        settles: Calls to `Receiver.settle`.
        settled: Deliveries in them.
        done: Set once the whole backlog is.
        last: The record that was sent last.
    """

    api = 1
    config = NoConfig
    capabilities = Capabilities(order=Order.KEY, history=True, retry_joins=True)

    def __init__(self, backlog: Sequence[bytes] = (), keys: int = 0) -> None:
        """Prepare the backlog.

        Args:
            backlog: Bodies; a long backlog may name one body many times.
            keys: Number of keys they are spread over; 0: none has one.
        """
        self.backlog, self.keys = backlog, keys
        self.calls = self.records = self.settles = self.settled = self.taken = 0
        self.headers: dict[str, str] = {}
        self.last: Outgoing | None = None
        self.done = asyncio.Event()

    async def connect(self, config: NoConfig, site: Site) -> Connection:
        """Return a connection without a server."""
        return _Connection(self)


class _Connection(Connection):
    def __init__(self, adapter: NullAdapter) -> None:
        self._adapter = adapter

    async def sender(self, channel: Channel) -> Sender:
        return _Sender(self._adapter)

    async def receiver(self, channel: Channel, intake: Intake) -> Receiver:
        return _Receiver(self._adapter)


class _Sender(Sender):
    limits = Limits(records=1000, calls=1)

    def __init__(self, adapter: NullAdapter) -> None:
        self._adapter = adapter

    async def send(self, records: Sequence[Outgoing]) -> Sequence[Stored | AdapterError]:
        adapter = self._adapter
        adapter.calls += 1
        adapter.records += len(records)
        adapter.last = records[-1]
        await asyncio.sleep(0)
        stored = Stored(BROKER)
        return [stored] * len(records)


class _Receiver(Receiver):
    def __init__(self, adapter: NullAdapter) -> None:
        self._adapter = adapter
        self._epoch = Epoch("null")
        self._stopped = asyncio.Event()

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        adapter, epoch = self._adapter, self._epoch
        begin, end = adapter.taken, min(adapter.taken + limit, len(adapter.backlog))
        if begin == end:
            timer = asyncio.get_running_loop().call_later(wait, self._stopped.set)
            await self._stopped.wait()
            timer.cancel()
            return []
        adapter.taken = end
        bodies, headers, keys = adapter.backlog[begin:end], adapter.headers, adapter.keys
        if not keys:
            return [Delivery(body, headers, epoch) for body in bodies]
        numbers = range(begin, end)
        return [
            Delivery(body, headers, epoch, None, f"key-{number % keys}")
            for body, number in zip(bodies, numbers, strict=True)
        ]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[AdapterError | None]:
        adapter = self._adapter
        adapter.settles += 1
        adapter.settled += len(settlements)
        if adapter.settled >= len(adapter.backlog):
            adapter.done.set()
        return [None] * len(settlements)

    async def stop(self) -> None:
        self._stopped.set()

    async def close(self) -> None:
        self._epoch.end()


def registry_of(adapter: NullAdapter) -> Registry:
    """Return a registry of this adapter and no other."""
    return Registry.of({"null": adapter})
