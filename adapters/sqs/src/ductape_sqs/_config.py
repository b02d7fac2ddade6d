"""What an environment's config may say."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from ductape.adapter import Secret

__all__ = ["SqsConfig"]

LONGEST = 12 * 3600 - 60
"""Seconds for which SQS leaves a message with one consumer, waiting included; a minute is for the way."""

_QUEUE = re.compile(r"[A-Za-z0-9_{}-]+(\.fifo)?\Z")
_URL = re.compile(r"https?://[^\s@/]+(/\S*)?\Z")


class SqsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One account and region, and how its queues are used."""

    region: str | None = None
    """``eu-west-1``, say; None: what the environment or the profile says."""
    access_key_id: str | None = None
    """The key's id; without it credentials come from where AWS's tools find them, and are renewed."""
    secret_access_key: Secret | None = None
    """The key."""
    session_token: Secret | None = None
    """The token of temporary keys, which nothing renews."""
    endpoint: str | None = None
    """Another address than AWS's own: ``http://localhost:9324`` for ElasticMQ, or a VPC endpoint."""
    queue: str | None = None
    """The one queue, by name, literally; its topics share it."""
    fifo: bool | None = None
    """Queues named after a topic are FIFO: always, never, or (None) where the topic asks for order."""
    lease: int = 30
    """Seconds after which a message whose consumer is silent goes to another."""
    poll: int = 4
    """Seconds of one long poll, 1 to 4: closing a subscription waits for it."""
    native: Mapping[str, object] = {}
    """Options for aiobotocore's ``AioConfig``, as they are, and ``verify`` for its client."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; the kernel makes a ``CONFIG_INVALID`` with its place of it.

        Raises:
            ValueError: Naming the field.
        """
        problem = _key_problem(self) or _address_problem(self)
        if problem:
            raise ValueError(problem)


def _key_problem(config: SqsConfig) -> str:
    if config.access_key_id is not None and config.secret_access_key is None:
        return "secret_access_key: is missing; give it with config.access_key_id, or neither"
    if config.access_key_id is None and config.secret_access_key is not None:
        return "access_key_id: is missing; give it with config.secret_access_key, or neither"
    if config.session_token is not None and config.access_key_id is None:
        return "session_token: needs config.access_key_id and config.secret_access_key"
    if config.access_key_id == "":
        return "access_key_id: is empty"
    return ""


def _address_problem(config: SqsConfig) -> str:
    if config.region is not None and not re.fullmatch(r"[a-z0-9-]+", config.region):
        return f"region: {config.region!r} is none; write it as in eu-west-1"
    if config.endpoint is not None and not _URL.match(config.endpoint):
        return "endpoint: is not http://host[:port] or https://host[:port]"
    if config.queue is not None and not _QUEUE.match(config.queue):
        return (
            f"queue: {config.queue!r} is not of letters, digits, '-' and '_', with '.fifo' at the end of a FIFO queue"
        )
    if config.queue is not None and config.fifo is not None:
        return "fifo: config.queue says by its name whether it is FIFO; give one of them"
    if not 1 <= config.poll <= 4:
        return f"poll: {config.poll} is not between 1 and 4 seconds"
    if not config.poll < config.lease <= LONGEST:
        return f"lease: {config.lease} is not above config.poll ({config.poll}) and at most {LONGEST} seconds"
    return ""
