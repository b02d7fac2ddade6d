"""A process that consumes until it is killed: one line of input says what, and it prints the ids of what is done."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from ductape import Ductape, Event

__all__: list[str] = []


async def main() -> None:
    """Consume, as an application would."""
    task = json.loads(sys.stdin.readline())
    client = Ductape(product="kit", env="test")
    env: Any = {"slug": "test", "type": task["adapter"], "config": task["config"]}
    await client.broker.create(tag=task["namespace"], envs=[env])
    await client.broker.topic.create(tag=task["event"], groups=("billing",))

    async def handle(event: Event[Any]) -> None:
        await asyncio.sleep(0.03)
        sys.stdout.write(f"{event.id}\n")
        sys.stdout.flush()

    await client.event.subscribe(task["event"], callback=handle, group="billing", concurrency=4)
    await asyncio.sleep(120.0)  # whoever started it is gone by then
    await client.close(0.0)


if __name__ == "__main__":
    asyncio.run(main())
