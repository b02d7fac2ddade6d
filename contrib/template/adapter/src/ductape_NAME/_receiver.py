"""Taking messages and settling them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ductape.adapter import AdapterError, Delivery, Epoch, Fault, Intake, Receiver, Settlement, Site, Verdict, each

from ._wire import FAULTS, Message, delivery_of

if TYPE_CHECKING:
    from ._connection import CamelConnection

__all__ = ["CamelReceiver"]


class CamelReceiver(Receiver):
    """One consumer of a queue."""

    def __init__(self, connection: CamelConnection, name: str, intake: Intake, site: Site) -> None:
        """Begin an epoch: for as long as it lives, what is delivered is ours."""
        self._connection, self._name, self._window, self._clock = connection, name, intake.window, site.clock
        self._epoch = Epoch(name, site.clock)
        self._out: dict[Delivery, Message] = {}
        self._stopped = self._closed = False

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return as soon as there is one; a real one waits for its socket in place of the sleep."""
        end = self._clock.now() + wait
        while True:
            queue = self._connection.queue(self._name)
            room = 0 if self._stopped else min(limit, self._window - len(self._out), len(queue))
            taken = [queue.popleft() for _ in range(room)]
            left = end - self._clock.now()
            if taken or self._stopped or left <= 0 or limit == 0:
                break
            await self._clock.sleep(min(left, 0.125))
        found = {delivery_of(message, self._name, self._epoch): message for message in taken}
        self._out.update(found)
        return list(found)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[AdapterError | None]:
        """Settle; one answer each. A bulk call of the client is better than `each`."""
        return each(FAULTS, self._settle, settlements)

    def _settle(self, settlement: Settlement) -> None:
        message = self._out.pop(settlement.delivery, None)
        if message is None:  # settled before, or from another epoch
            raise AdapterError(Fault.LOST, "the message is not with this receiver")
        if settlement.verdict is not Verdict.ACK:
            self._connection.queue(self._name).appendleft(message)

    async def stop(self) -> None:
        """Take no more; settling still works."""
        self._stopped = True

    async def close(self) -> None:
        """Hand back what is out, and end the epoch."""
        if not self._closed:
            self._stopped = self._closed = True
            self._epoch.end()
            self._connection.queue(self._name).extendleft(reversed(self._out.values()))
            self._out.clear()
