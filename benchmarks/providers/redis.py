"""Redis streams: redis-py as people use it, its pipelines, FastStream."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from . import CHANNEL, GROUP, HEADERS, FastStream, Provider, Raw, Ways, Work

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client

    from tests.brokers import Server

MEMBER = "member-1"
POOL = 100
COUNT = 100


class RedisRaw(Raw):
    """redis-py."""

    ways = Ways(
        publish="XADD, each awaited",
        publish_bulk="pipelines of 1,000 XADD",
        consume="XREADGROUP, one XACK a message",
        consume_bulk="XREADGROUP, one XACK a read",
    )
    client: Client

    async def open(self, callers: int) -> None:
        """Connect, with a pool that waits for a connection: the default one raises at 1,000 callers."""
        from redis.asyncio import BlockingConnectionPool, Redis

        pool = BlockingConnectionPool.from_url(self.url, max_connections=min(callers, POOL), timeout=None)
        self.client = Redis(connection_pool=pool)
        await self.client.ping()

    async def close(self) -> None:
        """Close the pool."""
        await self.client.aclose()

    async def declare(self) -> None:
        """Create stream and group."""
        from redis.exceptions import ResponseError

        try:
            await self.client.xgroup_create(CHANNEL, GROUP, "0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def publish(self, body: bytes, id: str) -> Awaitable[object]:
        """Add an entry."""
        fields: Any = {"body": body, "id": id, **HEADERS}
        return self.client.xadd(CHANNEL, fields)

    async def publish_bulk(self, messages: Sequence[tuple[bytes, str]]) -> None:
        """Add entries by one pipeline."""
        pipe: Any = self.client.pipeline(transaction=False)
        for body, id in messages:
            pipe.xadd(CHANNEL, {"body": body, "id": id, **HEADERS})
        await pipe.execute()

    async def consume(self, work: Work) -> None:
        """Read up to 100 at a time."""
        await self._read(work, each=True)

    async def consume_bulk(self, work: Work) -> None:
        """Read up to 100 at a time."""
        await self._read(work, each=False)

    async def _read(self, work: Work, *, each: bool) -> None:
        redis, decode, handle, done = self.client, work.decode, work.handle, 0
        while done < work.messages:
            answer: Any = await redis.xreadgroup(GROUP, MEMBER, {CHANNEL: ">"}, count=COUNT, block=1000)
            for _, entries in answer.items() if isinstance(answer, dict) else answer or ():
                # Protocol 3 wraps a stream's entries once more.
                found = entries[0] if isinstance(answer, dict) else entries
                for id, fields in found:
                    await handle(decode(fields[b"body"]))
                    if each:
                        await redis.xack(CHANNEL, GROUP, id)
                if not each:
                    await redis.xack(CHANNEL, GROUP, *[id for id, _ in found])
                done += len(found)

    async def empty(self) -> None:
        """Drop all keys."""
        await self.client.flushall()

    async def stored(self) -> int:
        """Count the entries of all streams."""
        return sum([await self.client.xlen(key) async for key in self._streams()])

    async def left(self) -> int:
        """Add up what groups have pending and have not read."""
        number = 0
        async for key in self._streams():
            for group in await self.client.xinfo_groups(key):
                number += group["pending"] + (group.get("lag") or 0)
        return number

    async def connections(self) -> int:
        """Count the server's clients."""
        return len(await self.client.client_list()) - 1

    def _streams(self) -> Any:
        return self.client.scan_iter(count=1000, _type="stream")


class Redis(Provider):
    """Redis streams with a consumer group."""

    distribution = "ductape-redis"
    type = "REDIS"
    settings = f"append-only file, appendfsync everysec; pool of {POOL} for redis-py; COUNT {COUNT}"
    raw = RedisRaw
    faststream_module = "faststream.redis"
    packages = ("redis", "hiredis")

    def server(self) -> Server:
        """Return a server that writes to disk once a second."""
        from tests.brokers import Redis as RedisServer

        return RedisServer(appendfsync="everysec")

    def config(self, url: str) -> dict[str, Any]:
        """Name the server."""
        return {"url": url}

    def faststream(self, url: str, callers: int) -> FastStream:
        """Return a broker with a connection for every caller: its pool raises when it is exhausted."""
        from faststream import AckPolicy
        from faststream.redis import RedisBroker, StreamSub

        stream = StreamSub(CHANNEL, group=GROUP, consumer=MEMBER, max_records=COUNT)
        silent: Any = None
        return FastStream(
            broker=RedisBroker(url, logger=silent, max_connections=callers + 10),
            publish={"stream": CHANNEL, "headers": HEADERS},
            subscribe={"stream": stream, "ack_policy": AckPolicy.NACK_ON_ERROR},
        )


PROVIDER = Redis()
