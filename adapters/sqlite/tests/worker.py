"""A process of the tests: publishes to a file, or consumes from it, until it is killed or told to end.

python worker.py publish PATH LOG [MESSAGES]        writes the id of what was confirmed, a line each
python worker.py consume PATH LOG                   writes the id of what was handled, a line each
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time

from ductape import Ductape, Event

LEASE = 1.5


async def main(what: str, path: str, log: str, messages: str = "1000000000") -> None:
    ductape = Ductape(product="p", env="e", grace=5.0)
    config = {"path": path, "lease": LEASE}
    await ductape.broker.create(tag="b", envs=[{"slug": "e", "type": "SQLITE", "config": config}])
    await ductape.broker.topic.create(tag="b:t", groups=["billing"], order="key")
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(text: str) -> None:
        os.write(file, f"{text}\n".encode())  # one write: a kill leaves whole lines

    if what == "consume":

        async def handle(event: Event) -> None:
            write(f"{event.id} {event.key} {event.message['n']} {time.monotonic()}")

        await ductape.event.subscribe("b:t", callback=handle, group="billing", concurrency=16, order="key")
        os.write(1, b"ready\n")
        await ductape.serve()
        return

    numbers = iter(range(int(messages)))

    async def caller(key: str) -> None:
        for number in numbers:
            receipt = await ductape.event.publish("b:t", {"n": number}, key=f"{os.getpid()}-{key}")
            write(receipt.id)

    os.write(1, b"ready\n")
    await asyncio.gather(*(caller(str(each)) for each in range(20)))
    await ductape.close()


logging.basicConfig(level=logging.WARNING)
asyncio.run(main(*sys.argv[1:]))
