"""Order: the one member of a group that the server pins, and what it has to wait for before it goes on.

The server gives messages to the pinned member alone, until that is silent for a while. It does not wait for what others
have not settled, and gives those redeliveries as they fall due, not as they were stored. So a member that was just
pinned, or lost its connection, holds back what it gets until everything that is pending is in its own hands, and hands
it over in the order of the stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set

from ductape.adapter import AdapterError, Clock, Delivery, Epoch, Fault

from ._link import Link
from ._streams import PIN_GROUP, PIN_MORE, Group, refused
from ._wire import PIN, Token

__all__ = ["Pin"]

LOOK = 0.2
"""Seconds between looks at what is pending."""


class Pin:
    """One receiver's place in a pinned consumer.

    Attributes:
        evicted: Another member is pinned, and what was not handed over yet is for that one.
        missing: How many messages are pending and not in this member's hands, as far as it knows.
        told: What the server was told the end of, confirmed or not: it may count it off already.
        renew: Seconds for which a request waits at most: a pinned member that asks for nothing loses its place.
    """

    def __init__(self, link: Link, group: Group, clock: Clock) -> None:
        """Begin without a place."""
        self.evicted = False
        self.missing = 0
        self.told: set[Delivery] = set()
        self.renew = (group.lease + PIN_MORE) / 3
        self._link, self._group, self._clock = link, group, clock
        self._id = self._server = ""
        self._sure = False
        self._asked = self._looked = 0.0

    def joined(self, epoch: Epoch) -> None:
        """Begin on another connection, where something may have been delivered and not have arrived.

        Raises:
            AdapterError: ``LOST``, see `check`.
        """
        self._server = self._server or self._link.server
        self._sure = False
        self.check(epoch)

    def check(self, epoch: Epoch) -> None:
        """Give everything up if the server is another process.

        It may have forgotten that it delivered what is here, and give it to somebody else: our acknowledgements
        would then count for that one's, who could not tell any more what still runs here.

        Raises:
            AdapterError: ``LOST``; the epoch has ended.
        """
        if self._server != self._link.server:
            epoch.end()
            raise AdapterError(Fault.LOST, f"{epoch.label}: the server is not the one that delivered this")

    def doubt(self) -> None:
        """Something may have been delivered and not have arrived."""
        self._sure = False

    def lost(self) -> None:
        """Another member is pinned, or the server has forgotten."""
        self._id, self._sure, self.evicted = "", False, True

    def seen(self, delivery: Delivery) -> None:
        """Take the pin off a delivery. One that came before may have been overtaken by what came since."""
        if delivery.count != 1:
            self._sure = False
        id_ = delivery.headers.pop(PIN, "")  # type: ignore[attr-defined]  # a dict: see delivery_of
        if id_ and id_ != self._id:
            self._id, self._sure = id_, False

    def claim(self, now: float) -> dict[str, object]:
        """Return what a request says of us."""
        self._asked = now
        return {"group": PIN_GROUP, "id": self._id} if self._id else {"group": PIN_GROUP}

    def due(self, now: float) -> bool:
        """Tell whether it is time to show that we are there."""
        return bool(self._id) and now - self._asked >= self.renew

    async def ready(self, held: Set[Delivery], buffer: deque[Delivery]) -> bool:
        """Tell whether the buffer may be handed over; sorts it when it may again.

        Args:
            held: What is not settled, the buffer included.
            buffer: What was not handed over.

        Raises:
            AdapterError: The server does not tell; ``LOST`` if the consumer is gone.
        """
        if self._sure or not buffer:
            return True
        now = self._clock.now()
        if now - self._looked < LOOK:
            return False
        self._looked = now
        found = await self._link.api(f"CONSUMER.INFO.{self._group.stream}.{self._group.name}")
        if "error" in found:
            raise refused(found, f"{self._group.stream}/{self._group.name}")
        self.told &= held
        last = int(found["delivered"]["consumer_seq"])  # what was delivered since then is not among the pending
        tokens = [token for each in held - self.told if isinstance(token := each.token, Token)]
        ours = {token.sequence for token in tokens if token.number <= last}
        self.missing = max(0, int(found["num_ack_pending"]) - len(ours))
        if self.missing:
            return False
        self._sure = True
        ordered = sorted(buffer, key=lambda each: each.token.sequence if isinstance(each.token, Token) else 0)
        buffer.clear()
        buffer.extend(ordered)
        return True

    async def release(self) -> None:
        """Give the place up, so that the next member need not wait for our silence."""
        if self._id:
            self._id = ""
            await self._link.api(f"CONSUMER.UNPIN.{self._group.stream}.{self._group.name}", {"group": PIN_GROUP}, 1.0)
