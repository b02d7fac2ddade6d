"""A live client: a connection to publish, one to settle, a few to read, one for pub/sub; each when it is needed."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from typing import Any, TypeVar

import hiredis
import msgspec
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from ductape.adapter import (
    AdapterError,
    Capabilities,
    Channel,
    Connection,
    Count,
    Durability,
    Fault,
    Groups,
    Intake,
    Purpose,
    Receiver,
    Removable,
    Sender,
    Site,
    Tls,
)

from . import RedisAdapter
from ._config import RedisConfig
from ._hub import Hub
from ._keeper import Keeper
from ._link import CONNECT, Endpoint, Link, pack, reply_fault
from ._pubsub import ChannelReceiver, Listener
from ._receiver import StreamReceiver
from ._scripts import LEAVE, MAKE, SWEEP
from ._sender import ChannelSender, StreamSender
from ._source import Desk, Source
from ._wire import Keys, keys_of, start_id

__all__ = ["RedisConnection"]

T = TypeVar("T")

HUBS = 4
"""Connections for reading. Up to as many groups have one each; more share them."""
FORGET = 3_600_000
"""Milliseconds after which a consumer that holds nothing and was not seen counts as dead."""
LEAVING = 1.0
"""Seconds for leaving groups; what stays behind is swept by others."""
PUBSUB_BYTES = 8_000_000
"""Redis closes the connection of a listener that lags behind by more for a minute."""


class RedisConnection(Connection, Removable):
    """Streams and pub/sub channels of one server."""

    def __init__(self, config: RedisConfig, site: Site, client: redis.asyncio.Redis, endpoint: Endpoint) -> None:
        """Prepare; nothing is connected."""
        self._config, self._site, self._client, self._endpoint = config, site, client, endpoint
        self._publish, self._control = Link(endpoint), Link(endpoint)
        self._desk = Desk(config, site.clock, site.log, self._control, endpoint.name)
        self._keeper = Keeper(self._desk, lambda stream: self._groups.get(stream, ()), self._expired)
        self._sources: dict[tuple[str, str], Source] = {}
        self._hubs: list[Hub] = []
        self._groups: dict[str, dict[str, None]] = {}
        self._listener: Listener | None = None
        self._opening = asyncio.Lock()
        self._durability = Durability.BUFFERED

    @classmethod
    async def open(cls, config: RedisConfig, site: Site) -> RedisConnection:
        """Connect and read how durable the server is.

        Raises:
            AdapterError: ``CONFIG`` or ``TRANSIENT``.
        """
        client = _client(config)
        try:
            endpoint = _endpoint(client, site)
        except (TypeError, ValueError, redis.RedisError) as error:
            text = f"config: redis-py refuses the url or the native options ({type(error).__name__})"
            raise AdapterError(Fault.CONFIG, text) from None
        except OSError as error:
            text = f"config.tls: a certificate or key cannot be read ({type(error).__name__})"
            raise AdapterError(Fault.CONFIG, text) from error
        connection = cls(config, site, client, endpoint)
        try:
            await connection._examine()
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _examine(self) -> None:
        """Read the settings on which promises depend. Where reading them is refused, the weaker promise holds."""
        names = ("appendonly", "appendfsync", "maxmemory-policy", "maxmemory")
        replies = await self._control.calls([pack(("CONFIG", "GET", name)) for name in names], CONNECT)
        found = {name: _setting(reply) for name, reply in zip(names, replies, strict=True)}
        if found["appendonly"] == "yes" and found["appendfsync"] == "always":
            self._durability = Durability.STORED
        elif self._config.mode == "stream":
            self._site.log.warning(
                "broker %s: a confirmed message can be lost when Redis is killed (appendonly %s, appendfsync %s); "
                "set appendonly yes and appendfsync always",
                self._site.broker, found["appendonly"] or "unknown", found["appendfsync"] or "unknown",
            )  # fmt: skip
        if found["maxmemory-policy"] not in ("", "noeviction") and found["maxmemory"] != "0":
            self._site.log.warning(
                "broker %s: maxmemory-policy %s lets Redis delete whole streams; set noeviction",
                self._site.broker, found["maxmemory-policy"],
            )  # fmt: skip

    def capabilities(self, channel: Channel) -> Capabilities:
        """Return what holds for a channel here."""
        if self._lossy(channel):
            return Capabilities(
                durability=Durability.NONE, groups=Groups.NONE, count=Count.NONE, confirmed_ack=False, headers=False,
                max_body=PUBSUB_BYTES, max_message=PUBSUB_BYTES,
            )  # fmt: skip
        return msgspec.structs.replace(RedisAdapter.capabilities, durability=self._durability, lease=self._config.lease)

    def _lossy(self, channel: Channel) -> bool:
        """Whether the channel is a pub/sub channel: a topic may differ from its broker."""
        mode = channel.options.get("mode", self._config.mode)
        if mode not in ("stream", "pubsub"):
            raise AdapterError(Fault.CONFIG, f"options.mode: {mode!r} is not one of stream, pubsub")
        return mode == "pubsub" and channel.purpose is Purpose.EVENTS

    async def declare(self, channel: Channel) -> None:
        """Create the stream and the group, or verify them."""
        if not self._lossy(channel):
            await self._declare(keys_of(channel, channel.group).stream, channel.group, channel.start)

    async def _declare(self, stream: str, group: str, start: str | None) -> None:
        known = self._groups.setdefault(stream, {})
        if not self._site.create:
            await self._verify(stream, group)
        elif not group:
            await self._control.call(*MAKE.run([stream]))
        else:
            # A group that was there and is gone (a flush, a failover) must not miss what was stored meanwhile.
            begin = "0" if group in known else start_id(start)
            [reply] = await self._control.calls([pack(("XGROUP", "CREATE", stream, group, begin, "MKSTREAM"))])
            if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("BUSYGROUP"):
                raise reply_fault(self._control, reply, f"{stream}/{group}")
        if group:
            known[group] = None

    async def _verify(self, stream: str, group: str) -> None:
        [reply] = await self._control.calls([pack(("XINFO", "GROUPS", stream))])
        if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("ERR no such key"):
            raise reply_fault(self._control, reply, stream)
        if not isinstance(reply, list):
            raise AdapterError(Fault.CONFIG, f"stream {stream!r} is missing, and may not be created here")
        names = [dict(zip(flat[::2], flat[1::2], strict=False)).get(b"name") for flat in reply]
        if group and group.encode() not in names:
            text = f"stream {stream!r} has no group {group!r}, and it may not be created here"
            raise AdapterError(Fault.CONFIG, text)

    async def sender(self, channel: Channel) -> Sender:
        """Open a sender; all of them share one connection."""
        keys = keys_of(channel, channel.group)
        await self._publish.open()
        if self._lossy(channel):
            return ChannelSender(self._publish, keys.stream)
        copies = channel.purpose is Purpose.RETRY
        return StreamSender(self._publish, keys, keep_origin=copies, delayed=self._keeper.delayed)

    async def receiver(self, channel: Channel, intake: Intake) -> Receiver:
        """Open a receiver and join the group."""
        keys = keys_of(channel, intake.group)
        if self._lossy(channel):
            return await self._listen(keys.stream, intake.window)
        start = intake.start if intake.start is not None else channel.start
        await self._declare(keys.stream, intake.group, start)
        if keys.back != keys.stream:
            await self._declare(keys.back, intake.group, None)
        await self._control.calls([pack(SWEEP.run([name], intake.group, FORGET)) for name in {keys.stream, keys.back}])
        sources = [self._source(keys.stream, intake.group, keys, private=channel.purpose is not Purpose.EVENTS)]
        if keys.back != keys.stream:
            sources.append(self._source(keys.back, intake.group, keys, private=True))
        hub = self._hub(intake.group)
        receiver = StreamReceiver(hub, sources, intake.window, delayed=self._keeper.delayed, left=self._left)
        self._keeper.watch(self._sources.values())
        return receiver

    async def _listen(self, name: str, window: int) -> Receiver:
        async with self._opening:
            await self._control.open()
            if self._listener is None or self._listener.dead:
                self._listener = Listener(self._endpoint, self._site.clock)
            receiver = ChannelReceiver(self._listener, name, window, self._site.clock)
            await receiver.open()
            return receiver

    def _source(self, stream: str, group: str, keys: Keys, *, private: bool) -> Source:
        source = self._sources.get((stream, group))
        if source is None:
            due = keys.back_due if private else keys.due
            source = Source(self._desk, stream, group, due, back=keys.back, back_due=keys.back_due, private=private)
            self._sources[stream, group] = source
        return source

    def _hub(self, group: str) -> Hub:
        """The hub that reads for a group: its own while there are connections left, else the least busy one."""
        for hub in self._hubs:
            if any(source.group == group for source in hub.sources):
                return hub
        if len(self._hubs) < HUBS:
            self._hubs.append(Hub(self._desk, Link(self._endpoint)))
            return self._hubs[-1]
        return min(self._hubs, key=lambda hub: len(hub.sources))

    def _expired(self, source: Source) -> None:
        for hub in self._hubs:
            if source in hub.sources:
                hub.interrupt()

    async def _left(self, receiver: StreamReceiver) -> None:
        """Let go of what nobody reads any more, and of our place in its groups if nothing is pending with us."""
        done = [source for source in receiver.sources if not source.takers]
        for source in done:
            self._sources.pop((source.name, source.group), None)
        self._keeper.watch(self._sources.values())
        for hub in list(self._hubs):
            if hub.release(done) and hub in self._hubs:  # several may leave at a time
                self._hubs.remove(hub)
                await hub.end()
        if not self._sources:
            await self._keeper.end()
        if done:
            leaves = [pack(LEAVE.run([source.name], source.group, self._desk.consumer)) for source in done]
            try:
                async with asyncio.timeout(LEAVING):
                    await self._control.calls(leaves)
            except (AdapterError, TimeoutError) as error:
                self._site.log.debug("consumer %s stays registered: %s", self._desk.consumer, error)

    async def remove(self, channel: Channel) -> None:
        """Destroy the group, and delete its private streams."""
        keys = keys_of(channel, channel.group)
        dead = keys_of(msgspec.structs.replace(channel, purpose=Purpose.DEAD), channel.group)
        self._groups.get(keys.stream, {}).pop(channel.group, None)
        calls = [("XGROUP", "DESTROY", keys.stream, channel.group), ("DEL", keys.back, keys.back_due, dead.stream)]
        for reply in await self._control.calls([pack(call) for call in calls]):
            if isinstance(reply, hiredis.ReplyError) and "requires the key to exist" not in str(reply):
                raise reply_fault(self._control, reply, f"{keys.stream}/{channel.group}")

    async def check(self) -> None:
        """Send a PING."""
        try:
            async with asyncio.timeout(CONNECT):
                await self._control.call("PING")
        except TimeoutError:
            raise AdapterError(Fault.TRANSIENT, f"no answer within {CONNECT:g} s") from None

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        await self._keeper.end()
        for hub in self._hubs:
            await hub.end()
            for taker in {taker for source in hub.sources for taker in source.takers}:
                taker.fail(AdapterError(Fault.LOST, "the connection was closed"))
        self._hubs.clear()
        if self._listener is not None:
            self._listener.close()
        self._publish.end()
        self._control.end()
        await self._client.aclose()

    def unwrap(self, kind: type[T]) -> T:
        """Return the `redis.asyncio.Redis` for this server; it connects when it is used."""
        if isinstance(self._client, kind):
            return self._client
        return super().unwrap(kind)

    def __repr__(self) -> str:
        return f"<RedisConnection {self._endpoint!r} streams={len(self._sources)} hubs={len(self._hubs)}>"


def _client(config: RedisConfig) -> redis.asyncio.Redis:
    """Make redis-py's client, which retries nothing and limits no wait: that is ours and the kernel's."""
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0), "socket_timeout": None, "socket_connect_timeout": CONNECT, "protocol": 2,
        "max_connections": 4,
    }  # fmt: skip
    if config.username is not None:
        options["username"] = config.username
    if config.password is not None:
        options["password"] = config.password.reveal()
    if isinstance(config.tls, Tls):
        options |= {"ssl_ca_certs": config.tls.ca, "ssl_certfile": config.tls.cert, "ssl_keyfile": config.tls.key}
        if not config.tls.verify:
            options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    try:
        if config.url is not None:
            return redis.asyncio.Redis.from_url(config.url.reveal(), **(options | dict(config.native)))
        options |= {"host": config.host, "port": config.port, "db": config.db, "ssl": bool(config.tls)}
        return redis.asyncio.Redis(**(options | dict(config.native)))
    except (TypeError, ValueError, redis.RedisError) as error:  # the text may quote the URL
        text = f"config: redis-py refuses the url or the native options ({type(error).__name__})"
        raise AdapterError(Fault.CONFIG, text) from None


def _endpoint(client: redis.asyncio.Redis, site: Site) -> Endpoint:
    """Read where and how to connect off a connection that redis-py has configured and never opens."""
    pool: Any = client.connection_pool  # make_connection has no annotations
    model = pool.make_connection()

    async def login() -> tuple[str, ...]:
        if model.credential_provider is not None:
            return tuple(await model.credential_provider.get_credentials_async())
        if not model.password:
            return ()
        return (model.username, model.password) if model.username else (model.password,)

    words = "-".join((site.product, site.env, site.broker, str(os.getpid()), secrets.token_hex(4)))
    tls = getattr(model, "ssl_context", None)
    return Endpoint(
        host=getattr(model, "host", ""),
        port=int(getattr(model, "port", 0)),
        path=getattr(model, "path", ""),
        tls=tls.get() if tls is not None else None,
        login=login,
        db=int(model.db or 0),
        name=re.sub(r"[^!-~]", "_", words),
    )


def _setting(reply: object) -> str:
    """Return the value of a CONFIG GET; empty if it was refused or is unknown there."""
    return reply[1].decode() if isinstance(reply, list) and len(reply) == 2 else ""
