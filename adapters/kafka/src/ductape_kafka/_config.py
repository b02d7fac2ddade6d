"""What an environment's config may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from ductape.adapter import Secret, Tls

__all__ = ["KafkaConfig", "Sasl"]


class Sasl(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who we are."""

    mechanism: Literal["plain", "scram-sha-256", "scram-sha-512"]
    """How the password is proven; ``plain`` sends it, so it wants TLS."""
    username: str
    """The user."""
    password: Secret
    """The user's password."""


class KafkaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One Kafka cluster, and how its topics are used."""

    brokers: list[str]
    """Addresses to begin with, ``host:port``; the cluster tells the others."""
    client_id: str | None = None
    """How the brokers' logs and quotas name this client; None: made of product, environment and broker."""
    group_id: str | None = None
    """The default group."""
    topic: str | None = None
    """The one topic, literally."""
    ssl: bool | Tls = False
    """Encrypted, with the system's certificates, or with `ca`, `cert`, `key` (paths) and `verify`."""
    sasl: Sasl | None = None
    """`mechanism` (``plain``, ``scram-sha-256``, ``scram-sha-512``), `username` and `password`."""
    partitions: int = 6
    """Partitions of a topic that is created here: so many members of a group can share it."""
    replication: int | None = None
    """Replicas of a topic that is created here; None: the brokers' default."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    """How batches are compressed."""
    session: float = 15.0
    """Seconds after which the partitions of a silent consumer go to other members of its group."""
    drain: float = 20.0
    """Seconds that running handlers get to finish when partitions move to another member."""
    native: Mapping[str, object] = {}
    """Options for ``AIOKafkaProducer`` and ``AIOKafkaConsumer``, as they are; each gets those that it knows."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; the kernel makes a ``CONFIG_INVALID`` with its place of it.

        Raises:
            ValueError: Naming the field.
        """
        problem = _address_problem(self) or _topic_problem(self) or Tls.of(self.ssl).problem("ssl")
        if problem:
            raise ValueError(problem)


def _address_problem(config: KafkaConfig) -> str:
    if not config.brokers:
        return "brokers: is empty; name at least one as host:port"
    for address in config.brokers:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65_536 or "/" in address:
            return f"brokers: {address!r} is not host:port, such as 'kafka.example.com:9092'"
    if config.sasl is not None and not config.sasl.username:
        return "sasl.username: is empty"
    for field in ("client_id", "group_id", "topic"):
        if getattr(config, field) == "":
            return f"{field}: is empty"
    return ""


def _topic_problem(config: KafkaConfig) -> str:
    if config.partitions < 1:
        return f"partitions: {config.partitions} is less than 1"
    if config.replication is not None and config.replication < 1:
        return f"replication: {config.replication} is less than 1"
    if not 1.0 <= config.session <= 1800.0:
        return f"session: {config.session:g} is not between 1 and 1800 seconds"
    # Opening a receiver waits for what others drain, and the kernel allows it a minute.
    if not 0.0 < config.drain <= 30.0:
        return f"drain: {config.drain:g} is not between 0 and 30 seconds"
    return ""
