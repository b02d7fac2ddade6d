"""Options of the client's objects, what a failed start meant, and ends that never hang."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, errors
from aiokafka.conn import create_conn

from ductape.adapter import AdapterError, Fault, Site, Tls, translated

from ._config import KafkaConfig
from ._wire import OPENING

__all__ = ["CONNECT", "Options", "leave", "plainly", "quietly", "reason", "watch"]

CONNECT = 8.0
"""Seconds for connecting; the kernel allows 10."""
PROBE = 3.0

# What goes wrong with a connection or a group is an error or a log line of ductape's; the client would tell it first,
# in its own words, at every try. A level that somebody set stays.
if logging.getLogger("aiokafka").level == logging.NOTSET:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

_OURS: Final = (
    *("loop", "bootstrap_servers", "client_id", "group_id", "partitioner", "linger_ms", "max_poll_interval_ms"),
    *("enable_idempotence", "acks", "transactional_id", "enable_auto_commit"),
    *("key_serializer", "value_serializer", "key_deserializer", "value_deserializer"),
)
"""Options that promises depend on: not the user's."""


class Options:
    """The options of every object of the client on one connection."""

    def __init__(self, config: KafkaConfig, site: Site) -> None:
        """Read the config.

        Raises:
            AdapterError: ``CONFIG``: an option that nothing knows or that is ours, a certificate that cannot be read.
        """
        words = "-".join((site.product, site.env, site.broker, str(os.getpid()), secrets.token_hex(4)))
        self.common: dict[str, Any] = {
            "bootstrap_servers": list(config.brokers),
            "client_id": config.client_id or re.sub(r"[^A-Za-z0-9._-]", "_", words),
            # Partitions that are added, and brokers that moved, are seen after this at the latest.
            "metadata_max_age_ms": 60_000,
            **_security(config),
        }
        self.producer = _native(config.native, AIOKafkaProducer)
        self.consumer = _native(config.native, AIOKafkaConsumer)
        for name in config.native:
            if name in _OURS:
                raise AdapterError(Fault.CONFIG, f"config.native.{name}: ductape sets it")
            if name not in self.producer and name not in self.consumer:
                text = f"config.native.{name}: neither AIOKafkaProducer nor AIOKafkaConsumer has such an option"
                raise AdapterError(Fault.CONFIG, text)


def _native(native: Mapping[str, object], kind: type) -> dict[str, Any]:
    known = inspect.signature(kind).parameters
    return {name: value for name, value in native.items() if name in known}


def _security(config: KafkaConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if config.ssl:
        found["ssl_context"] = Tls.of(config.ssl).context("ssl")
    if config.sasl is not None:
        found["sasl_mechanism"] = config.sasl.mechanism.upper()
        found["sasl_plain_username"] = config.sasl.username
        found["sasl_plain_password"] = config.sasl.password.reveal()
    words = ("SASL" if config.sasl else "", "SSL" if config.ssl else "PLAINTEXT")
    found["security_protocol"] = "_".join(filter(None, words))
    return found


async def quietly(call: Awaitable[object], seconds: float) -> bool:
    """Await a call that closes something, for so long; tell whether it came to its end.

    aiokafka's `stop` raises a `CancelledError` that nobody asked for while its broker is away.
    """
    task = asyncio.ensure_future(call)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)
    return bool(done) and not task.cancelled() and task.exception() is None


def plainly(consumer: AIOKafkaConsumer) -> None:
    """Have what is fetched handed out as it was read.

    The client copies every record into a class of its own, which takes longer than reading it; both have offset,
    timestamp, key, value and headers. What it fetches later it still copies.
    """
    for found in consumer._fetcher._records.values():
        records = getattr(found, "_partition_records", None)  # an error has none, nor what was handed out whole
        if records is not None:
            records._consumer_record = _as_read


def _as_read(_: object, record: Any) -> Any:
    return record


def watch(consumer: AIOKafkaConsumer, ended: Callable[[AdapterError], None]) -> None:
    """Have `ended` called when one of the tasks that make a consumer work fails.

    Without its fetcher it is a member of its group that gets nothing for ever, and says nothing. uvloop ends it: it
    raises `RuntimeError` for a write to a connection that broke a moment ago, where the client expects `OSError`.
    """

    def look(task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            lost = AdapterError(
                Fault.LOST, f"the client's consumer broke down ({type(error.__cause__ or error).__name__})"
            )
            lost.__cause__ = error
            ended(lost)

    for task in (consumer._fetcher._fetch_task, consumer._coordinator._coordination_task, consumer._client._sync_task):
        task.add_done_callback(look)


async def leave(consumer: AIOKafkaConsumer, seconds: float) -> None:
    """Leave the group and end the consumer.

    Its `stop` does one thing after the other: where leaving takes longer, nothing behind it is ended.
    """
    await quietly(consumer.stop(), seconds)
    consumer._closed = True
    fetcher, coordinator = consumer._fetcher, consumer._coordinator
    left = [] if fetcher is None else [fetcher._fetch_task, *fetcher._pending_tasks]
    if coordinator is not None:
        left += [coordinator._coordination_task, coordinator._heartbeat_task, coordinator._commit_refresh_task]
    tasks = [task for task in left if task is not None]
    for task in tasks:
        task.cancel()
    await quietly(asyncio.gather(*tasks, return_exceptions=True), 0.5)
    await quietly(consumer._client.close(), 0.5)


async def reason(options: Options, error: BaseException) -> AdapterError:
    """Return why the client could not start: it says "unable to bootstrap" for everything, so ask one broker ourselves.

    Args:
        options: Of the connection.
        error: What the client raised.
    """
    if not isinstance(error, errors.KafkaConnectionError | TimeoutError):
        return translated(OPENING, error)
    common = options.common
    last: BaseException = error
    address = ""
    for address in common["bootstrap_servers"]:
        host, _, port = address.rpartition(":")
        wanted = {name: value for name, value in common.items() if name.startswith(("sasl", "ssl", "security"))}
        try:
            async with asyncio.timeout(PROBE):
                link = await create_conn(host.strip("[]"), int(port), client_id=common["client_id"], **wanted)
            link.close()
        except Exception as raised:
            last = raised
            if _told(raised, address) is not None:
                break
    if (told := _told(last, address)) is not None:
        return told
    known = isinstance(last, OSError | TimeoutError | errors.KafkaError)
    return _unreachable(last, common) if known else translated(OPENING, last)


def _told(error: BaseException, address: str) -> AdapterError | None:
    """Return what only an operator can mend."""
    found: BaseException | None = error
    while found is not None:
        text = ""
        if isinstance(found, errors.SaslAuthenticationFailed):
            text = "refuses config.sasl: check username, password and mechanism"
        elif isinstance(found, errors.UnsupportedSaslMechanismError):
            text = "does not offer config.sasl.mechanism; its administrator knows which it does"
        elif isinstance(found, errors.IllegalSaslStateError | errors.UnsupportedVersionError):
            text = "wants no config.sasl on this port"
        elif isinstance(found, ssl.SSLCertVerificationError):
            text = (
                f"has a certificate that is not trusted ({found.verify_message}): name its authority in config.ssl.ca"
            )
        elif isinstance(found, ssl.SSLError):
            text = f"does not agree on TLS ({found.reason}): check config.ssl, and that the port is for TLS"
        if text:
            result = AdapterError(Fault.CONFIG, f"broker {address} {text}")
            result.__cause__ = error
            return result
        found = found.__cause__ or found.__context__
    return None


def _unreachable(error: BaseException, common: Mapping[str, Any]) -> AdapterError:
    where = ", ".join(common["bootstrap_servers"])
    found: BaseException | None = error
    why = type(error).__name__
    while found is not None:
        if isinstance(found, socket.gaierror):
            why = "the name is unknown"
        elif isinstance(found, ConnectionRefusedError):
            why = "nobody listens there"
        elif isinstance(found, TimeoutError):
            why = "no answer"
        found = found.__cause__ or found.__context__
    tls = common["security_protocol"].endswith("SSL")
    hint = "is not for TLS, leave config.ssl out" if tls else "is for TLS, set config.ssl"
    result = AdapterError(Fault.TRANSIENT, f"config.brokers: none of {where} can be reached: {why}; if the port {hint}")
    result.__cause__ = error
    return result
