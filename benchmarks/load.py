"""The event that is measured with, and a client that knows where it goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ductape import Ductape, Registry

BROKER, TOPIC = "bench", "orders"
EVENT = f"{BROKER}:{TOPIC}"


class Item(msgspec.Struct):
    """A line of an order."""

    sku: str
    quantity: int
    price: float


class Order(msgspec.Struct):
    """An event of about 230 bytes of JSON; `number` tells a run's messages apart."""

    number: int
    order_id: str
    customer: str
    currency: str
    total: float
    items: list[Item]


ITEMS = [Item("ABC-000123", 2, 19.99), Item("XYZ-000987", 1, 59.9)]


def order(number: int) -> Order:
    """Return the event of a number."""
    return Order(number, f"order-{number:010d}", "customer-0012345", "EUR", 99.88, ITEMS)


async def client(
    env: dict[str, Any],
    *,
    registry: Registry | None = None,
    middleware: Sequence[object] = (),
    topic: dict[str, Any] | None = None,
) -> Ductape:
    """Return a client with one broker and one topic.

    Args:
        env: Type and config of the broker's only environment.
        registry: Adapters instead of those that are installed.
        middleware: As of `Ductape`.
        topic: Further options of the topic.
    """
    ductape = Ductape(product="bench", env="dev", registry=registry, middleware=middleware)
    environment: Any = {"slug": "dev", **env}
    await ductape.broker.create(name="Bench", tag=BROKER, envs=[environment])
    request: Any = {"name": "Orders", "tag": EVENT, **(topic or {})}
    await ductape.broker.topic.create(request)
    return ductape


class Ledger:
    """Counts every message of a run: what is missing or came twice is seen."""

    def __init__(self, messages: int) -> None:
        """Expect the numbers below `messages`."""
        self.seen = bytearray(messages)

    def faults(self) -> list[str]:
        """Return what went wrong, as notes for the report."""
        lost, twice = self.seen.count(0), sum(1 for count in self.seen if count > 1)
        return [text for number, text in ((lost, f"LOST {lost}"), (twice, f"TWICE {twice}")) if number]
