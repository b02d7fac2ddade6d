"""The same program on every provider: python examples/everywhere.py memory|sqlite|redis|kafka|rabbitmq|nats|sqs|pubsub

Publish, handle, a retry, a dead letter and its replay. Nothing but the environment's name differs; everywhere.toml has
the addresses, which environment variables may change.
"""

import asyncio
import sys
from pathlib import Path

import msgspec

from ductape import Ductape, Event, Retry

EVENT = "orders:placed"


class Order(msgspec.Struct):
    number: int


async def main(env: str) -> None:
    log: list[str] = []
    mended = False
    enough = asyncio.Semaphore(0)

    async def bill(order: Order, event: Event) -> None:
        if order.number == 2 and event.attempt == 1:
            raise ConnectionError("the card service is busy")  # again, after a delay
        if order.number == 3 and not mended:
            raise LookupError("no customer 3")  # until its attempts are used up
        log.append(f"order {order.number} billed at attempt {event.attempt}")
        enough.release()

    catalog = Path(__file__).with_name("everywhere.toml")
    async with Ductape(product="everywhere", env=env, catalog=catalog) as ductape:
        await ductape.event.subscribe(EVENT, callback=bill, group="billing", retry=Retry(attempts=2, delay=0.2))
        await ductape.event.publish_many(EVENT, [Order(1), Order(2), Order(3)])
        for _ in range(2):
            await enough.acquire()
        while not mended:
            async for letter in ductape.event.dead(EVENT, group="billing"):
                log.append(f"order 3 is a dead letter: {letter.reason} after {letter.attempts}, {letter.error}")
                mended = True
                await letter.replay()
        await enough.acquire()
    print("\n".join(sorted(log)))


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(main(*sys.argv[1:2] or ["memory"]), 60))
