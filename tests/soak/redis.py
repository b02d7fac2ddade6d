"""Redis streams on a server that stores every entry before it answers."""

import asyncio
import collections
from collections.abc import Mapping
from typing import Any, ClassVar

import redis.asyncio as raw

from tests.brokers import Redis
from tests.soak.ground import Ground, Row, Run
from tests.soak.runs import CALLERS, EACH, PAUSE


class RedisGround(Ground):
    """Redis."""

    name: ClassVar[str] = "redis"
    packages: ClassVar[tuple[str, ...]] = ("ductape-redis", "redis")
    settings: ClassVar[str] = "`appendfsync always`"

    def make(self) -> Redis:
        """Return a server that loses nothing it confirmed."""
        return Redis(appendfsync="always")

    def env(self, port: int | None = None) -> Mapping[str, Any]:
        """Return a short lease."""
        url = f"redis://127.0.0.1:{port or self.server.port}/0"
        return {"type": "REDIS", "config": {"url": url, "lease": self.lease}}

    async def stored(self) -> collections.Counter[str]:
        """Count the entries of the stream."""
        server: Any = raw.Redis.from_url(self.server.url)  # its answers are typed for every protocol at once
        counts: collections.Counter[str] = collections.Counter()
        at = b"-"
        while entries := await server.xrange("b.t", min=at, count=5000):
            counts.update(entry[b"ductape-id"].decode() for _, entry in entries)
            at = b"(" + entries[-1][0]
        await server.aclose()
        return counts

    def more(self) -> Mapping[str, Run]:
        """Return the same load on the client as it comes."""
        return {"publish, 10 × kill -9 of the server, the raw client": raw_through_kills}


async def raw_through_kills(ground: Ground, times: int = 10) -> Row:
    """What an application sees that awaits XADD."""
    with ground.running() as server:
        plain: Any = raw.Redis.from_url(server.url, max_connections=CALLERS + 10)
        confirmed: list[str] = []
        failed: list[str] = []

        async def caller(number: int) -> None:
            for turn in range(EACH):
                try:
                    await plain.xadd("raw", {"id": f"{number}-{turn}"})
                    confirmed.append(f"{number}-{turn}")
                except (raw.RedisError, OSError) as error:
                    failed.append(type(error).__name__)
                await asyncio.sleep(PAUSE)

        async def kills() -> None:
            for number in range(1, times + 1):
                while len(confirmed) + len(failed) < CALLERS * EACH * number / (times + 1):
                    await asyncio.sleep(0.01)
                await ground.killed()

        await asyncio.gather(kills(), *(caller(each) for each in range(CALLERS)))
        entries = {fields[b"id"].decode() for _, fields in await plain.xrange("raw")}
        await plain.aclose()
    return {
        "kills of the server": times,
        "confirmed": len(confirmed),
        "failed": len(failed),
        "confirmed and lost": sum(id not in entries for id in confirmed),
    }


GROUND = RedisGround()
