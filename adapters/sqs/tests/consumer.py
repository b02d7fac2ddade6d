"""A consumer as a process of its own: it writes down what it handled, and is killed by a test."""

import asyncio
import os
import sys

from ductape import Ductape, Event


async def main(url: str, queue: str, path: str) -> None:
    ductape = Ductape(product="shop", env="dev", grace=5.0)
    keys = {"region": "us-east-1", "accessKeyId": "test", "secretAccessKey": "test"}
    config = {**keys, "endpoint": url, "queue": queue, "lease": 3, "poll": 1}
    await ductape.broker.create(tag="orders", envs=[{"slug": "dev", "type": "AWS_SQS", "config": config}])
    await ductape.broker.topic.create(tag="orders:new")
    done = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    async def handle(event: Event[object]) -> None:
        await asyncio.sleep(0.005)
        os.write(done, f"{event.id}\n".encode())

    await ductape.event.subscribe("orders:new", callback=handle, concurrency=16)
    await ductape.serve()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
