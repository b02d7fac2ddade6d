"""Short words for the calls of the adapter contract, as the tests of every adapter use them on its real server."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ductape.adapter import AdapterError, Delivery, Outgoing, Receiver, Settlement, Site, Verdict


class LoopClock:
    """The real time of the running loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time
        self.time = time.time
        self.call_later = loop.call_later
        self.sleep = asyncio.sleep


def site_of(adapter: str, *, create: bool = True) -> Site:
    """Where an adapter under test finds itself."""
    log = logging.getLogger(f"ductape.adapter.{adapter}")
    return Site(product="shop", env="test", broker="orders", clock=LoopClock(), log=log, create=create)


def record(number: int, **more: Any) -> Outgoing:
    """A record whose body and id tell its number."""
    return Outgoing(**{"body": b"%d" % number, "headers": {"ductape-id": f"id{number}"}, "id": f"id{number}", **more})


async def take(receiver: Receiver, number: int, within: float = 10.0) -> list[Delivery]:
    """Receives until `number` deliveries are there; fewer when the time is over. Counts them as the kernel does."""
    found: list[Delivery] = []
    end = time.monotonic() + within
    while len(found) < number and time.monotonic() < end:
        some = await receiver.receive(number - len(found), min(0.5, max(end - time.monotonic(), 0.0)))
        for one in some:
            one.epoch.held += 1
        found += some
    return found


async def settle(
    receiver: Receiver, deliveries: Sequence[Delivery], verdict: Verdict = Verdict.ACK, delay: float = 0.0
) -> list[AdapterError | None]:
    """Settles what `take` gave, all alike."""
    answers = list(await receiver.settle([Settlement(delivery, verdict, delay) for delivery in deliveries]))
    for one in deliveries:
        one.epoch.settled()
    return answers


async def patiently(call: Callable[[], Awaitable[Any]], within: float = 30.0) -> Any:
    """Repeats what may fail while a server is away, as the kernel does."""
    end = time.monotonic() + within
    while True:
        try:
            return await call()
        except AdapterError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)


def bodies(deliveries: Sequence[Delivery]) -> list[int]:
    """The numbers of records, sorted."""
    return sorted(int(delivery.body) for delivery in deliveries)
