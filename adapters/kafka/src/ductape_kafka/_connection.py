"""A live client: an admin client, one producer for all senders, and a consumer for every receiver."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, OffsetAndMetadata, TopicPartition, errors
from aiokafka.admin import AIOKafkaAdminClient

from ductape.adapter import (
    AdapterError,
    Capabilities,
    Channel,
    Connection,
    Fault,
    Intake,
    Order,
    Purpose,
    Removable,
    Site,
    translate,
)

from . import KafkaAdapter
from ._client import CONNECT, Options, leave, quietly, reason
from ._config import KafkaConfig
from ._producer import Producers
from ._receiver import KafkaReceiver
from ._sender import KafkaSender
from ._topics import Topics
from ._wire import HOUR, OPENING, group_of, topics_of

__all__ = ["KafkaConnection"]

T = TypeVar("T")

CHECK = 4.0
BEGIN = 12.0
"""Seconds for settling where a new group begins."""


class KafkaConnection(Connection, Removable):
    """Topics of one cluster."""

    def __init__(self, config: KafkaConfig, site: Site, options: Options, admin: AIOKafkaAdminClient) -> None:
        """Hold an admin client that is connected."""
        self._config, self._site, self._options, self._admin = config, site, options, admin
        self._topics = Topics(config, admin, site)
        self._producers = Producers(config, options, site)
        self._receivers: list[KafkaReceiver] = []
        self._begun: set[tuple[str, str]] = set()
        self._closed = False

    @classmethod
    async def open(cls, config: KafkaConfig, site: Site) -> KafkaConnection:
        """Connect and authenticate.

        Raises:
            AdapterError: ``CONFIG`` or ``TRANSIENT``.
        """
        options = Options(config, site)
        admin = AIOKafkaAdminClient(**options.common, request_timeout_ms=int(CONNECT * 1000))
        try:
            async with asyncio.timeout(CONNECT - 3.0):
                await admin.start()
        except Exception as error:
            await quietly(admin.close(), 0.5)
            raise await reason(options, error) from error
        except BaseException:
            await quietly(admin.close(), 0.5)
            raise
        return cls(config, site, options, admin)

    def capabilities(self, channel: Channel) -> Capabilities:
        """Return what holds for a channel here: one partition keeps all in order, several those of a key."""
        topic = self._topics.like(channel)
        retry = channel.purpose is Purpose.RETRY
        return msgspec.structs.replace(
            KafkaAdapter.capabilities,
            order=Order.TOTAL if topic.partitions == 1 and not retry else Order.KEY,
            send_delay=float(HOUR) if retry else 0.0,
            max_body=topic.limit,
            max_message=topic.limit,
        )

    async def declare(self, channel: Channel) -> None:
        """Create the topics, or verify them, and settle where a new group begins. Groups need no creation."""
        self._live()
        await self._topics.declare(channel)
        await self._begin(channel, channel.group, channel.start)

    async def _begin(self, channel: Channel, group: str, start: str | None) -> None:
        """Commit where a group begins that has committed nothing, unless that is the earliest message.

        So what is published from now on reaches it, whoever joins first.
        """
        if start in (None, "earliest") or not group or (channel.name, group) in self._begun:
            return
        instant = _instant(start)
        names = topics_of(channel)
        with translate(OPENING):
            consumer = AIOKafkaConsumer(
                **self._options.common, group_id=group_of(channel, group), enable_auto_commit=False
            )
            try:
                async with asyncio.timeout(BEGIN):
                    await consumer.start()
                    partitions = [
                        TopicPartition(name, number)
                        for name in names
                        for number in range(self._topics.known[name].partitions)
                    ]
                    consumer.assign(partitions)
                    # In this order: what is confirmed once another has committed for the group is never skipped.
                    offsets = await _offsets(consumer, partitions, instant)
                    if not any([await consumer.committed(tp) is not None for tp in partitions]):
                        await consumer.commit({tp: OffsetAndMetadata(at, "") for tp, at in offsets.items()})
            except errors.CommitFailedError:
                pass  # it has members: it began already
            finally:
                await leave(consumer, 1.0)
        self._begun.add((channel.name, group))

    async def remove(self, channel: Channel) -> None:
        """Delete the group's marks, and its retry and dead-letter topics."""
        self._live()
        self._begun.discard((channel.name, channel.group))
        await self._topics.remove(channel)

    async def check(self) -> None:
        """Ask for the brokers, and no topic."""
        self._live()
        with translate(OPENING):
            async with asyncio.timeout(CHECK):
                await self._admin.describe_topics([])

    async def sender(self, channel: Channel) -> KafkaSender:
        """Open a sender; all of them share one producer."""
        self._live()
        await self._producers.get()
        total = channel.order is Order.TOTAL
        return KafkaSender(self._producers, topics_of(channel), self._topics.known, self._site.clock, total=total)

    async def receiver(self, channel: Channel, intake: Intake) -> KafkaReceiver:
        """Open a receiver and join the group."""
        self._live()
        await self._begin(channel, intake.group, intake.start)
        tiers = channel.purpose is Purpose.RETRY
        receiver = KafkaReceiver(
            self._config, intake, self._site.clock, tiers=tiers, left=lambda each: self._receivers.remove(each)
        )
        self._receivers.append(receiver)
        await receiver.join(topics_of(channel), group_of(channel, intake.group), self._options)
        return receiver

    def _live(self) -> None:
        if self._closed:
            raise AdapterError(Fault.LOST, "the connection is closed")

    async def close(self) -> None:
        """Close everything; idempotent."""
        if self._closed:
            return
        self._closed = True
        await asyncio.gather(
            *(receiver.close() for receiver in list(self._receivers)),
            self._producers.close(),
            quietly(self._admin.close(), 1.0),
        )

    def unwrap(self, kind: type[T]) -> T:
        """Return the `AIOKafkaAdminClient`, or the `AIOKafkaProducer` of now: it is replaced when a batch fails."""
        found: Any = next((each for each in (self._admin, self._producers.current) if isinstance(each, kind)), None)
        if found is None:
            hint = "; it is there once something was published" if kind is AIOKafkaProducer else ""
            raise TypeError(f"{type(self).__name__} has no {kind.__name__}{hint}")
        return found  # type: ignore[no-any-return]  # isinstance of `kind`

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<KafkaConnection {state} receivers={len(self._receivers)} producers={self._producers.made}>"


def _instant(start: str | None) -> int | None:
    """Return milliseconds since 1970; None for ``latest``.

    Raises:
        AdapterError: ``CONFIG`` if it is neither a word nor an RFC 3339 instant with an offset.
    """
    if start == "latest":
        return None
    try:
        instant = msgspec.convert(start, type=Annotated[datetime, msgspec.Meta(tz=True)])
    except msgspec.ValidationError:
        text = f"start {start!r}: use 'earliest', 'latest' or an RFC 3339 instant such as 2026-11-23T10:00:00Z"
        raise AdapterError(Fault.CONFIG, text) from None
    return int(instant.timestamp() * 1000)


async def _offsets(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], instant: int | None
) -> dict[TopicPartition, int]:
    ends = await consumer.end_offsets(partitions)
    if instant is None:
        return dict(ends)
    found = await consumer.offsets_for_times(dict.fromkeys(partitions, instant))
    return {tp: found[tp].offset if found.get(tp) is not None else ends[tp] for tp in partitions}
