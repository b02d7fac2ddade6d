"""Names of queues, their arguments, and declaring them. What exists with other arguments is refused, never changed."""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from pamqp import commands
from pamqp.base import Frame

from ductape.adapter import AdapterError, Channel, Fault, Order, Purpose, Site

from ._channel import Channel as Wire
from ._config import CHARACTERS, NAME, RabbitMQConfig
from ._link import BOUND, Link

__all__ = ["Topology", "bucket"]

DECLARE = 20.0
"""Seconds for creating a queue: the nodes of a cluster agree on it."""
LIMIT: Final = 1_000_000
"""Deliveries after which a quorum queue drops a message; RabbitMQ 4 does after 20 by itself. ductape counts failures
and buries what fails; neither hand-backs nor the deaths of consumers may lose anything."""


BUCKETS: Final = tuple(sorted({1 << power for power in range(23)} | {3 << power for power in range(21)}))
"""Seconds of the delay queues: 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on to 48 days."""


def bucket(delay: float) -> int:
    """Return the seconds of the delay queue for a delay.

    A message leaves a delay queue when it is due and nothing in front of it waits. So it is never early, and late by
    half its delay at most (by a second, up to two), where a message that waits longer was stored shortly before.
    """
    return BUCKETS[bisect_left(BUCKETS, delay)]


def _must_fit(queue: str) -> None:
    """Refuse the name of a queue that cannot be said.

    Raises:
        AdapterError: ``CONFIG``.
    """
    why = "more than 255 bytes" if len(queue.encode()) > 255 else f"characters other than {CHARACTERS}"
    if len(queue.encode()) > 255 or not NAME.fullmatch(queue):
        what = "config.queue, or the tags or the group it is made of"
        raise AdapterError(Fault.CONFIG, f"the name of queue {queue[:60]!r} has {why}; change {what}")


class Topology:
    """Exchange and queues, as the config names them."""

    def __init__(self, config: RabbitMQConfig, site: Site, link: Link) -> None:
        """Prepare.

        Args:
            config: Names and types.
            site: Whether anything may be created, and what the holes in names stand for.
            link: Carries the channel on which all this is said.
        """
        self._config, self._site, self._link = config, site, link
        self._channel: Wire | None = None
        self._lock = asyncio.Lock()

    # -- names

    def queue(self, channel: Channel, group: str = "") -> str:
        """Return the queue of a group, or of its dead letters.

        The default group's is `config.queue` as it is written; another group's name is added to that, or to the
        channel where the config names no queue for it.
        """
        group = group or channel.group
        own = self._default(channel, group)
        whole = self._config.routing_key is not None and self._config.queue is not None
        base = group if own else f"{channel.name}.{group}"
        if not own and whole and "{" not in f"{self._config.queue}{self._config.routing_key}":
            base = f"{self._config.queue}.{group}"
        return base + ".dead" if channel.purpose is Purpose.DEAD else base

    def _default(self, channel: Channel, group: str) -> bool:
        """Whether a group is the one that `config.queue` names, holes filled."""
        queue = self._config.queue
        if queue is None:
            return False
        names = {"product": self._site.product, "env": self._site.env, "broker": self._site.broker}
        if self._config.routing_key is None:  # then the channel is called after broker and topic, and the group ends so
            names["topic"] = channel.name.removeprefix(f"{self._site.broker}.")
            queue += ".{topic}"
        filled = re.sub(r"\\\{(\w+)\\\}", lambda hole: re.escape(names.get(hole[1], "")) or ".+", re.escape(queue))
        return re.fullmatch(filled, group) is not None

    def delay_queue(self, channel: Channel, seconds: int) -> str:
        """Return the queue in which messages of a channel wait."""
        if channel.purpose is Purpose.RETRY:
            return f"{self.queue(channel)}.retry.{seconds}"
        exchange = self._config.exchange
        return f"{'' if exchange == 'amq.topic' else exchange + '.'}{channel.name}.delay.{seconds}"

    def route(self, channel: Channel) -> tuple[str, str]:
        """Return exchange and routing key for what is stored on a channel without a delay."""
        if channel.purpose is Purpose.EVENTS:
            return self._config.exchange, channel.name
        return "", self.queue(channel)

    # -- declaring

    async def declare(self, channel: Channel, group: str = "") -> None:
        """Create or verify what a channel and a group of it need.

        Raises:
            AdapterError: ``CONFIG`` if something is missing and may not be created, or is there and different.
        """
        group = group or channel.group
        if len(channel.name.encode()) > 255:
            raise AdapterError(Fault.CONFIG, f"the routing key {channel.name[:60]!r}… has more than 255 bytes")
        if channel.purpose is Purpose.DEAD:
            await self._queue(self.queue(channel), self._arguments())
            return
        await self._exchange()
        if group:
            single = {"x-single-active-consumer": True} if channel.order is not Order.NONE else {}
            queue = self.queue(channel, group)
            await self._queue(queue, self._arguments() | single)
            if self._site.create:  # AMQP cannot ask whether a binding is there
                await self.call(
                    commands.Queue.Bind(queue=queue, exchange=self._config.exchange, routing_key=channel.name)
                )

    async def delay(self, channel: Channel, seconds: int) -> str:
        """Create or verify a delay queue, and return its name.

        It has no expiry of its own: RabbitMQ does not count publishing as use, and would delete it with what waits.
        """
        name = self.delay_queue(channel, seconds)
        exchange, key = self.route(channel)
        await self._queue(name, {
            "x-queue-type": "quorum", "x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": key,
            "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
        })  # fmt: skip
        return name

    async def remove(self, channel: Channel) -> None:
        """Delete the queues of a group, and those that lead back to it; missing ones do not matter."""
        queue = self.queue(channel)
        _must_fit(queue)
        retry = msgspec.structs.replace(channel, purpose=Purpose.RETRY)
        for name in (queue, f"{queue}.dead", *(self.delay_queue(retry, seconds) for seconds in BUCKETS)):
            await self.call(commands.Queue.Delete(queue=name))

    def _arguments(self) -> dict[str, Any]:
        if self._config.queue_type == "classic":
            return {"x-queue-type": "classic"}
        return {"x-queue-type": "quorum", "x-delivery-limit": LIMIT}

    async def _exchange(self) -> None:
        name = self._config.exchange
        if name.startswith("amq."):
            return
        try:
            await self.call(commands.Exchange.Declare(exchange=name, passive=True))
        except AdapterError as error:
            if not error.text.startswith("404"):
                raise
            if not self._site.create:
                text = f"exchange {name!r} is missing, and may not be created here: create it, or remove create: false"
                raise AdapterError(Fault.CONFIG, text) from error
            await self.call(commands.Exchange.Declare(exchange=name, exchange_type="topic", durable=True))

    async def _queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        _must_fit(name)
        if self._site.create:
            await self.call(commands.Queue.Declare(queue=name, durable=True, arguments=dict(arguments)))
            return
        try:
            await self.call(commands.Queue.Declare(queue=name, passive=True))
        except AdapterError as error:
            if error.text.startswith("404") and error.fault is Fault.CONFIG:
                text = f"queue {name!r} is missing, and may not be created here: create it, or remove create: false"
                raise AdapterError(Fault.CONFIG, text) from error
            raise

    async def depth(self, queue: str) -> int:
        """Return how many messages wait in a queue and are with nobody."""
        answer = await self.call(commands.Queue.Declare(queue=queue, passive=True))
        return int(answer.message_count or 0)

    async def call(self, method: Frame) -> Any:
        """Say something on the channel for this; one that was closed by an error is replaced.

        Raises:
            AdapterError: The server refuses, or did not answer in time.
        """
        async with self._lock:
            channel = self._channel
            if channel is None or channel.error is not None:
                channel = self._channel = await self._link.channel()
            try:
                return await channel.call(method, DECLARE if self._site.create else BOUND)
            except AdapterError:
                self._channel = None
                await channel.close(0.0)
                raise
