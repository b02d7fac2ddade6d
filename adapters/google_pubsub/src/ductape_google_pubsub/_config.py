"""What an environment's config may say."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["GooglePubSubConfig"]


class GooglePubSubConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One Google Cloud project, and how its topics and subscriptions are used."""

    project_id: str | None = None
    """The project; None: the one of the key file or of the default credentials."""
    topic_name: str | None = None
    """The one topic: its id, or its whole name ``projects/…/topics/…``."""
    subscription_name: str | None = None
    """The default group, which is the id of its subscription."""
    key_filename: str | None = None
    """Path of a service account's key; None: Google's default credentials."""
    emulator_host: str | None = None
    """``host:port`` of an emulator, without TLS and credentials; None: ``PUBSUB_EMULATOR_HOST``, where it is set."""
    endpoint: str = "pubsub.googleapis.com:443"
    """The service; a regional one (``europe-west1-pubsub.googleapis.com:443``) for order and exactly-once."""
    lease: int = 30
    """Seconds after which a message whose consumer is silent goes to another member of its group."""
    poll: float = 3.0
    """Seconds for which a poll that finds nothing is held open, at most a third of the lease; stopping waits for it."""
    exactly_once: bool = False
    """Create subscriptions with exactly-once delivery: acknowledgements are confirmed, at a higher latency."""
    dead_letter_policy: bool = True
    """Create subscriptions with a dead-letter policy of 100 attempts: without one, Pub/Sub counts no deliveries."""
    native: Mapping[str, str | int] = {}
    """Options of the gRPC channel, as they are (``grpc.keepalive_time_ms`` …)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; the kernel makes a ``CONFIG_INVALID`` with its place of it.

        Raises:
            ValueError: Naming the field.
        """
        problem = _name_problem(self) or _place_problem(self) or _time_problem(self)
        if problem:
            raise ValueError(problem)


def _name_problem(config: GooglePubSubConfig) -> str:
    for field in ("project_id", "topic_name", "subscription_name", "key_filename", "emulator_host", "endpoint"):
        if getattr(config, field) == "":
            return f"{field}: is empty"
    if "/" in (config.project_id or ""):
        return f"project_id: {config.project_id!r} is a path; give the id alone, such as 'shop-prod'"
    if "/" in (config.subscription_name or ""):
        return f"subscription_name: {config.subscription_name!r} is a path; give the id alone, such as 'billing'"
    topic = config.topic_name or ""
    parts = topic.split("/")
    if "/" in topic and (len(parts) != 4 or parts[::2] != ["projects", "topics"] or not all(parts)):
        return f"topic_name: {topic!r} is neither an id nor 'projects/PROJECT/topics/TOPIC'"
    return ""


def _place_problem(config: GooglePubSubConfig) -> str:
    for field in ("emulator_host", "endpoint"):
        address = getattr(config, field) or ""
        if "://" in address or (address and not address.rpartition(":")[2].isdigit()):
            return f"{field}: {address!r} is not host:port"
    if config.emulator_host and config.key_filename:
        return "key_filename: config.emulator_host takes no credentials; give one of them"
    return ""


def _time_problem(config: GooglePubSubConfig) -> str:
    if not 1 <= config.lease <= 600:
        return f"lease: {config.lease} is not between 10 and 600 seconds"
    if not 0.1 <= config.poll <= 3.5:
        return f"poll: {config.poll:g} is not between 0.1 and 3.5 seconds"
    return ""
