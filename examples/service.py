"""A service with a manifest, typed payloads, two groups, a retry policy and a middleware.

python examples/service.py                            publishes three orders, handles them, ends
APP_ENV=prd REDIS_URL=redis://localhost:6379 …        the same on Redis
python examples/service.py serve                      runs until a signal
"""

import asyncio
import os
import sys
import time
from pathlib import Path

import msgspec

from ductape import Ductape, Event, Middleware, Reject, Retry, SubscriberSite


class Order(msgspec.Struct):
    order_id: str
    total: float


class Timing(Middleware):
    """Prints how long every attempt took. Built once per subscription; `site` is constant for all its messages."""

    def subscriber(self, next, site: SubscriberSite):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        async def timed(event: Event[Order]) -> object:
            begin = time.perf_counter()
            try:
                return await next(event)
            finally:
                spent = 1000 * (time.perf_counter() - begin)
                print(f"{site.group:<8} {event.message.order_id}  attempt {event.attempt}  {spent:6.2f} ms", flush=True)

        return timed


ductape = Ductape(
    product="shop",
    env=os.environ.get("APP_ENV", "dev"),
    catalog=Path(__file__).with_name("ductape.toml"),
    middleware=[Timing()],
)
done = asyncio.Semaphore(0)


@ductape.event.subscribe("shop-orders:placed", group="billing", retry=Retry(attempts=4, delay=0.1))
async def bill(order: Order, event: Event) -> None:
    if order.total < 0:
        done.release()
        raise Reject("a negative total will not become better")  # to the dead letters at once
    if event.attempt < 3:
        raise ConnectionError("the card service is busy")  # again after 0.1 s, then after 0.2 s
    done.release()


@ductape.event.subscribe("shop-orders:placed", group="mail", concurrency=2)
def mail(order: Order) -> None:  # a plain function runs in a thread
    done.release()


async def main() -> None:
    async with ductape:
        orders = [Order("1", 99.99), Order("2", 5.00), Order("3", -1.00)]
        await ductape.event.publish_many("shop-orders:placed", orders)
        for _ in range(2 * len(orders)):
            await done.acquire()
    print("all handled")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        ductape.run()
    else:
        asyncio.run(main())
