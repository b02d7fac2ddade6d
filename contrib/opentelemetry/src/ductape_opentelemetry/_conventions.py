"""Names of OpenTelemetry's semantic conventions for messaging, v1.44.0: they stand in this module alone.

Source: https://opentelemetry.io/docs/specs/semconv/messaging/ (spans, metrics, and the pages of the systems).
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Mapping
from typing import NamedTuple

from ductape.errors import HandlerTimeout

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
PARTITION = "messaging.destination.partition.id"
SUBSCRIPTION = "messaging.destination.subscription.name"
GROUP = "messaging.consumer.group.name"
MESSAGE_ID = "messaging.message.id"
BATCH_COUNT = "messaging.batch.message_count"
ERROR_TYPE = "error.type"
KAFKA_KEY = "messaging.kafka.message.key"
KAFKA_OFFSET = "messaging.kafka.offset"
ROUTING_KEY = "messaging.rabbitmq.destination.routing_key"
ORDERING_KEY = "messaging.gcp_pubsub.message.ordering_key"

EVENT = "ductape.event"
"""The event as the application names it. Ours, as are the next four."""
ENVIRONMENT = "ductape.env"
ATTEMPT = "ductape.attempt"
REASON = "ductape.reason"
OUTCOME = "ductape.outcome"

SENT = "messaging.client.sent.messages"
CONSUMED = "messaging.client.consumed.messages"
OPERATION_DURATION = "messaging.client.operation.duration"
PROCESS_DURATION = "messaging.process.duration"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Boundaries of both histograms, in seconds."""


class System(NamedTuple):
    """What the conventions say of one system."""

    name: str
    send: str = "send"
    process: str = "process"
    settle: str = "ack"
    group: str = GROUP
    """The attribute that holds the group."""
    key: str = ""
    """The attribute that holds the key; empty: there is none."""
    routing: str = ""
    """The attribute that holds the routing key, which is the channel; empty: there is none."""
    located: bool = False
    """Whether positions tell partition and offset."""


_SYSTEMS: Mapping[str, System] = {
    "KAFKA": System("kafka", settle="commit", key=KAFKA_KEY, located=True),
    "RABBITMQ": System("rabbitmq", send="publish", process="consume", routing=ROUTING_KEY),
    "AWS_SQS": System("aws_sqs", settle="delete"),
    "GOOGLE_PUBSUB": System("gcp_pubsub", process="subscribe", group=SUBSCRIPTION, key=ORDERING_KEY),
    # Not registered: the names that their own proposals use, and the verbs of their protocols.
    "NATS": System("nats", send="publish"),
    "REDIS": System("redis"),
}


def system_of(provider: str) -> System:
    """Return the system of a provider; one that the conventions do not know keeps its name, in lower case."""
    name = provider.upper().replace("-", "_")
    return _SYSTEMS.get(name) or System(name.lower())


def error_type(error: BaseException) -> str:
    """Return the canonical name of an error's class: never its text, which may hold what a message says."""
    timed_out = isinstance(error, CancelledError) and error.args == ("HANDLER_TIMEOUT",)
    kind = HandlerTimeout if timed_out else type(error)
    # As it is imported: `ductape.Reject`, wherever the package keeps it.
    module = kind.__module__.partition("._")[0]
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def place(position: str) -> dict[str, str | int]:
    """Return partition and offset of a position on Kafka (``orders[3]@1042``); nothing of one that tells neither."""
    _, found, rest = position.rpartition("[")
    partition, at, offset = rest.partition("]@")
    if not (found and at and partition.isdecimal() and offset.isdecimal()):
        return {}
    return {PARTITION: partition, KAFKA_OFFSET: int(offset)}
