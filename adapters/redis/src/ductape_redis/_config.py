"""What an environment's config may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from ductape.adapter import Secret, SecretUrl, Tls

__all__ = ["RedisConfig"]


class RedisConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One Redis server, and how its streams are used."""

    host: str = "localhost"
    """The server's name or address."""
    port: int = 6379
    """Its port."""
    username: str | None = None
    """An ACL user."""
    password: Secret | None = None
    """The user's, or the server's alone."""
    db: int = 0
    """The number of the database."""
    url: SecretUrl | None = None
    """``redis://``, ``rediss://`` or ``unix://``; instead of the fields above."""
    tls: bool | Tls = False
    """Encrypted, with the system's certificates, or with `ca`, `cert`, `key` (paths) and `verify`."""
    mode: Literal["stream", "pubsub"] = "stream"
    """``stream`` keeps messages for groups; ``pubsub`` gives them to whoever listens now and keeps nothing."""
    channel: str | None = None
    """The one stream or pub/sub channel, literally."""
    group: str | None = None
    """The default group."""
    lease: float = 30.0
    """Seconds after which a message whose consumer is silent goes to another member of its group."""
    max_length: int | None = 10_000
    """Settled entries that a stream keeps as history; None: all of them. Others are never dropped, however many."""
    body_field: str | None = None
    """The field that is the body in entries of producers that do not use ductape; None: their fields as JSON."""
    native: Mapping[str, object] = {}
    """Options for ``redis.asyncio.Redis``, as they are."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; the kernel makes a ``CONFIG_INVALID`` with its place of it.

        Raises:
            ValueError: Naming the field.
        """
        problem = _url_problem(self) if self.url else _address_problem(self)
        problem = problem or _stream_problem(self) or Tls.of(self.tls).problem()
        if problem:
            raise ValueError(problem)


def _url_problem(config: RedisConfig) -> str:
    url = config.url.reveal() if config.url else ""
    if not url.startswith(("redis://", "rediss://", "unix://")):
        return "url: begins with none of redis://, rediss://, unix://"
    default = RedisConfig()
    for field in ("host", "port", "db"):
        if getattr(config, field) != getattr(default, field):
            return f"{field}: config.url says where the server is; give one of them"
    if config.tls and not url.startswith("rediss://"):
        return "tls: config.url is not encrypted; write rediss://"
    return ""


def _address_problem(config: RedisConfig) -> str:
    if not config.host:
        return "host: is empty"
    if not 0 < config.port < 65_536:
        return f"port: {config.port} is not between 1 and 65535"
    if config.db < 0:
        return f"db: {config.db} is negative"
    if config.username and config.password is None:
        return "username: needs config.password"
    return ""


def _stream_problem(config: RedisConfig) -> str:
    if not 0.2 <= config.lease <= 86_400:
        return f"lease: {config.lease:g} is not between 0.2 and 86400 seconds"
    if config.max_length is not None and config.max_length < 0:
        return f"max_length: {config.max_length} is negative"
    for field in ("channel", "group", "body_field"):
        if getattr(config, field) == "":
            return f"{field}: is empty"
    if config.mode == "pubsub" and config.body_field:
        return "body_field: pub/sub messages have no fields"
    return ""
