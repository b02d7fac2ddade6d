"""The one producer of a connection, replaced whenever a batch of it failed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from aiokafka import AIOKafkaProducer, errors

from ductape.adapter import AdapterError, Fault, Site, translated

from ._client import CONNECT, Options, quietly
from ._config import KafkaConfig
from ._wire import OPENING

__all__ = ["BATCH", "DEADLINE", "Producers"]

BATCH = 262_144
"""Bytes of a batch. Below a topic's ``max.message.bytes`` (1 MiB as a rule), which the broker holds against whole
batches, and large: a partition has one batch under way."""
DEADLINE = 18.0
"""Seconds in which a batch is stored: above the time of a leader's failover (11 s with a broker's defaults)."""
FINISH = 4.0
"""Seconds for the other batches of a producer that is replaced."""


class Producers:
    """Gives the producer that may be used now.

    aiokafka's idempotent producer counts on after a batch that failed for good, and the broker then refuses all that
    follows on that partition: so none is used after that. One whose answer is late would store its batch later, behind
    what was sent again: so it is abandoned at once.
    """

    def __init__(self, config: KafkaConfig, options: Options, site: Site) -> None:
        """Prepare; the first producer is started when it is asked for."""
        self.locks: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        """One batch a partition at a time: aiokafka lets later calls overtake those that wait."""
        self.made = 0
        self.current: AIOKafkaProducer | None = None
        self._config, self._options, self._log = config, options, site.log
        self._starting: asyncio.Task[AIOKafkaProducer] | None = None
        """One start for all that wait: its failure answers them all."""
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def get(self, end: float | None = None) -> AIOKafkaProducer:
        """Return a started producer.

        Args:
            end: Wait no longer than until this instant of the loop.

        Raises:
            AdapterError: ``TRANSIENT`` if none can be started now; ``CONFIG``; ``LOST`` once this is closed.
        """
        if self.current is not None:
            return self.current
        loop = asyncio.get_running_loop()
        task = self._starting
        if task is None:
            task = self._starting = loop.create_task(self._start())
            task.add_done_callback(self._started)
        done, _ = await asyncio.wait({task}, timeout=None if end is None else max(end - loop.time(), 0.0))
        if not done:
            raise AdapterError(Fault.TRANSIENT, "no broker could be reached")
        return task.result()

    def _started(self, task: asyncio.Task[AIOKafkaProducer]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # those that waited for it may be gone: else asyncio complains that nobody asked

    async def _start(self) -> AIOKafkaProducer:
        self._live()
        compression = self._config.compression
        options: dict[str, Any] = {
            "max_batch_size": BATCH,
            "max_request_size": 2**31 - 1,  # the broker knows its own limit, and we ask for the topic's
            "request_timeout_ms": int((DEADLINE + 2) * 1000),
            "compression_type": None if compression == "none" else compression,
            **self._options.producer,
        }
        try:
            producer = AIOKafkaProducer(**self._options.common, enable_idempotence=True, linger_ms=0, **options)
        except (ValueError, TypeError, RuntimeError) as error:
            text = f"config.native: aiokafka refuses the options ({type(error).__name__}: {error})"
            raise AdapterError(Fault.CONFIG, text) from error
        try:
            async with asyncio.timeout(CONNECT):
                await producer.start()
            self._live()
        except (Exception, asyncio.CancelledError) as error:
            await _abandon(producer)
            self._live()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise translated(OPENING, error) from error
        self.made += 1
        self.current = producer
        return producer

    def _live(self) -> None:
        if self._closed:
            raise AdapterError(Fault.LOST, "the connection is closed")

    def replace(self, producer: AIOKafkaProducer, *, at_once: bool) -> None:
        """Use this one no more; `at_once`: nothing of it shall be stored from now on."""
        if self.current is producer:
            self.current = None
        self._log.debug("a producer of %s is replaced", self._options.common["client_id"])
        task = asyncio.get_running_loop().create_task(_abandon(producer) if at_once else _finish(producer))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End all producers; idempotent, and bounded by what the kernel allows."""
        self._closed = True
        if self.current is not None:
            self.replace(self.current, at_once=False)
        ending: set[asyncio.Task[Any]] = {*self._ending}
        if self._starting is not None:
            self._starting.cancel()
            ending.add(self._starting)
        if ending:
            await asyncio.wait(ending, timeout=FINISH + 0.7)


async def _finish(producer: AIOKafkaProducer) -> None:
    """Let what is under way be stored, then end; `stop` waits for ever while the broker is away."""
    waiting = producer._message_accumulator.flush()
    if await quietly(waiting, FINISH):
        await quietly(producer.stop(), 0.5)
    await _abandon(producer)


async def _abandon(producer: AIOKafkaProducer) -> None:
    """End a producer so that nothing is stored any more: aiokafka has no call for that."""
    producer._closed = True
    sender, batches = producer._sender, producer._message_accumulator
    if sender is not None and sender.sender_task is not None:
        # What it does with a task that ended early fails, and is logged.
        sender.sender_task.remove_done_callback(sender._fail_all)
        sender.sender_task.add_done_callback(lambda task: task.cancelled() or task.exception())
        sender.sender_task.cancel()
    await quietly(producer.client.close(), 0.5)
    batches.fail_all(errors.KafkaError("its producer was given up"))  # they may be stored
    left = [*batches._pending_batches, *(batch for queue in batches._batches.values() for batch in queue)]
    for batch in left:
        if batch.future.done() and not batch.future.cancelled():
            batch.future.exception()  # its caller was answered before: else asyncio complains that nobody asked
        if batch._drain_waiter.done() and not batch._drain_waiter.cancelled():
            batch._drain_waiter.exception()
