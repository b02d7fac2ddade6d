"""What an environment's config may say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from ductape.adapter import Secret, SecretUrl, Tls

__all__ = ["CHARACTERS", "NAME", "RabbitMQConfig"]

NAME: Final = re.compile(r"[A-Za-z0-9_.:@#,/+ -]*")
"""The names of queues and exchanges that pamqp can say."""
CHARACTERS: Final = "ASCII letters, digits, spaces and _.:@#,/+-"


class RabbitMQConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One RabbitMQ server, and how its exchange and queues are used."""

    host: str = "localhost"
    """The server's name or address."""
    port: int | None = None
    """Its port; None: 5672, or 5671 with TLS."""
    username: str | None = None
    """The user; None: the one of the URL, or ``guest``."""
    password: Secret | None = None
    """The user's; None: the one of the URL, or ``guest``."""
    vhost: str = "/"
    """The virtual host."""
    url: SecretUrl | None = None
    """``amqp://`` or ``amqps://``; instead of `host`, `port` and `vhost`."""
    tls: bool | Tls = False
    """Encrypted, with the system's certificates, or with `ca`, `cert`, `key` (paths) and `verify`."""
    exchange: str = "amq.topic"
    """The exchange; a topic exchange of this name is created if it is missing."""
    routing_key: str | None = None
    """The one channel: the routing key with which messages are published and queues are bound, literally."""
    queue: str | None = None
    """The default group: its queue, literally."""
    queue_type: Literal["quorum", "classic"] = "quorum"
    """Of the queues of groups and dead letters. What waits for its time is in quorum queues always."""
    consumer_timeout: float = 1800.0
    """Seconds after which the server ends a consumer that does not acknowledge: its own setting, told here."""
    max_message_size: int | None = None
    """Bytes of a body that the server takes: its own setting, told here; None: the default of its version."""
    native: Mapping[str, object] = {}
    """Options of ``aio_pika.connect``, as they are: ``heartbeat``, ``name``, ``auth``, ``cafile`` …"""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; the kernel makes a ``CONFIG_INVALID`` with its place of it.

        Raises:
            ValueError: Naming the field.
        """
        problem = _url_problem(self) if self.url else _address_problem(self)
        problem = problem or _names_problem(self) or _bounds_problem(self) or Tls.of(self.tls).problem()
        if problem:
            raise ValueError(problem)


def _url_problem(config: RabbitMQConfig) -> str:
    url = config.url.reveal() if config.url else ""
    if not url.startswith(("amqp://", "amqps://")):
        return "url: begins with none of amqp://, amqps://"
    try:
        host = urlsplit(url).hostname
        urlsplit(url).port  # noqa: B018 - reading it is the check
    except ValueError:
        return "url: its host or port cannot be read"
    if not host:
        return "url: names no host"
    default = RabbitMQConfig()
    for field in ("host", "port", "vhost"):
        if getattr(config, field) != getattr(default, field):
            return f"{field}: config.url says where the server is; give one of them"
    if len(unquote(urlsplit(url).path[1:])) > 127:
        return "url: its vhost has more than 127 characters"
    if config.tls and not url.startswith("amqps://"):
        return "tls: config.url is not encrypted; write amqps://"
    return ""


def _address_problem(config: RabbitMQConfig) -> str:
    if not config.host:
        return "host: is empty"
    if config.port is not None and not 0 < config.port < 65_536:
        return f"port: {config.port} is not between 1 and 65535"
    if not config.vhost:
        return "vhost: is empty; the default one is /"
    if len(config.vhost) > 127:
        return "vhost: has more than 127 characters"
    return ""


def _names_problem(config: RabbitMQConfig) -> str:
    if not config.exchange:
        return "exchange: is empty; RabbitMQ's default exchange has no bindings, so groups could not share a channel"
    for field in ("username", "exchange", "routing_key", "queue"):
        name = getattr(config, field)
        if name == "":
            return f"{field}: is empty"
        if name is not None and len(name.encode()) > 200:  # 255 with what groups and delays add
            return f"{field}: has more than 200 bytes"
    if len(config.exchange) > 127:
        return "exchange: has more than 127 characters"
    for field, name in (("exchange", config.exchange), ("queue", re.sub(r"\{\w+\}", "", config.queue or ""))):
        if not NAME.fullmatch(name):
            return f"{field}: has characters other than {CHARACTERS}"
    if config.queue is not None and config.queue.startswith("amq."):
        return "queue: names that begin with amq. are RabbitMQ's own"
    return ""


def _bounds_problem(config: RabbitMQConfig) -> str:
    if not 1.0 <= config.consumer_timeout <= 365 * 86_400:
        return f"consumer_timeout: {config.consumer_timeout:g} is not between 1 second and a year"
    if config.max_message_size is not None and not 0 < config.max_message_size <= 512 * 1024 * 1024:
        return f"max_message_size: {config.max_message_size} is not between 1 and 512 MiB"
    return ""
