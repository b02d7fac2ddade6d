"""One program in two terminals, on one file; it needs ductape-sqlite.

    python examples/terminals.py publish    as often as you like
    python examples/terminals.py consume    until Ctrl-C

A third word names another file than terminals.db.
"""

import asyncio
import sys

from ductape import Ductape, Event

EVENT = "order-events:new-orders"


async def main(what: str, path: str = "terminals.db") -> None:
    ductape = Ductape(product="shop", env="dev")
    await ductape.broker.create(
        tag="order-events",
        envs=[{"slug": "dev", "type": "SQLITE", "config": {"path": path}}],
    )
    await ductape.broker.topic.create(tag=EVENT, groups=["billing"])

    async def bill(order: dict[str, str], event: Event) -> None:
        name = order["orderId"]
        print(f"consume: {name} paid, stored at {event.position}", flush=True)

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
