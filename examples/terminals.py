"""One program in two terminals, on one file:

    python examples/terminals.py consume        in the first; Ctrl-C ends it
    python examples/terminals.py publish        in the second, as often as you like

It needs ductape-core and ductape-sqlite. Publish first, kill either, restart both: what was published is handled, from
the file `shop.db` or the one that a third word names.
"""

import asyncio
import sys

from ductape import Ductape, Event

EVENT = "order-events:new-orders"


async def main(what: str, path: str = "shop.db") -> None:
    ductape = Ductape(product="shop", env="dev")
    await ductape.broker.create(tag="order-events", envs=[{"slug": "dev", "type": "SQLITE", "config": {"path": path}}])
    await ductape.broker.topic.create(tag=EVENT, groups=["billing"])

    async def bill(order: dict[str, str], event: Event) -> None:
        print(f"consume: {order['orderId']} paid, stored at {event.position}", flush=True)

    if what == "publish":
        async with ductape:
            receipt = await ductape.event.publish(EVENT, {"orderId": "12345"})
            print(f"publish: stored at {receipt.position}")
    else:
        await ductape.event.subscribe(EVENT, callback=bill, group="billing")
        print(f"consume: waiting for orders in {path}", flush=True)
        await ductape.serve()


if __name__ == "__main__":
    if sys.argv[1:2] not in (["publish"], ["consume"]):
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:3]))
