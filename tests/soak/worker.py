"""A consumer process that the soak runs kill: writes the id of every message that it handled, a line each."""

import asyncio
import os
import sys

from ductape import Ductape, Event


async def main(url: str, log: str, lease: float) -> None:
    """Consume until a signal."""
    ductape = Ductape(product="soak", env="dev", grace=10.0)
    await ductape.broker.create(
        tag="b", envs=[{"slug": "dev", "type": "REDIS", "config": {"url": url, "lease": lease}}]
    )
    await ductape.broker.topic.create(tag="b:t", groups=["billing"])
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    async def handle(event: Event) -> None:
        await asyncio.sleep(0.002)
        os.write(file, f"{event.id}\n".encode())  # one write: a kill leaves whole lines

    await ductape.event.subscribe("b:t", callback=handle, group="billing", concurrency=16, prefetch=64)
    print("ready", flush=True)
    await ductape.serve()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
