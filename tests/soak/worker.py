"""A consumer process that the runs kill: writes a line for every message that it handled."""

import asyncio
import json
import os
import sys
import time
from typing import Any

from ductape import Event
from tests.soak.ground import GROUP, TOPIC, declared


async def main(order: dict[str, Any]) -> None:
    """Consume until a signal."""
    ductape = await declared(order["env"], order["topic"], grace=order.get("grace", 10.0))
    file = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    async def handle(event: Event[Any]) -> None:
        await asyncio.sleep(order["seconds"])
        # One write: a kill leaves whole lines.
        os.write(file, f"{event.id} {event.key or '-'} {event.message['n']} {time.monotonic()}\n".encode())

    await ductape.event.subscribe(TOPIC, callback=handle, group=GROUP, **order["options"])
    print("ready", flush=True)
    await ductape.serve()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
