"""The shapes of the dictionaries that ductape's calls take, so that a type checker reads them too.

Every key may be written in snake_case or in camelCase. At run time they are plain dictionaries, checked when they
arrive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from ._retry import Retry

__all__ = [
    "BrokerChanges",
    "BrokerEnvRequest",
    "BrokerRequest",
    "MessageBrokerTypes",
    "PublishRequest",
    "QueueUrlCamel",
    "QueueUrlSnake",
    "SessionDict",
    "SubscribeRequest",
    "TagRequest",
    "TopicChanges",
    "TopicRequest",
]


class MessageBrokerTypes(StrEnum):
    """The providers that ductape has adapters for. A third-party adapter's name is written as a string."""

    KAFKA = "KAFKA"
    RABBITMQ = "RABBITMQ"
    REDIS = "REDIS"
    AWS_SQS = "AWS_SQS"
    GOOGLE_PUBSUB = "GOOGLE_PUBSUB"
    NATS = "NATS"
    MEMORY = "MEMORY"


class BrokerEnvRequest(TypedDict):
    """A broker in one environment."""

    slug: str
    type: str
    config: NotRequired[Mapping[str, object]]
    create: NotRequired[bool]


class BrokerChanges(TypedDict, total=False):
    """What `broker.update` takes: given fields replace, environments are keyed by their slug."""

    product: str
    name: str
    description: str
    envs: Sequence[BrokerEnvRequest]
    remove_envs: Sequence[str]
    removeEnvs: Sequence[str]


class BrokerRequest(TypedDict):
    """What `broker.create` takes."""

    tag: str
    product: NotRequired[str]
    name: NotRequired[str]
    description: NotRequired[str]
    envs: NotRequired[Sequence[BrokerEnvRequest]]


class QueueUrlSnake(TypedDict):
    """The address of a topic's channel in one environment."""

    env_slug: str
    url: str


class QueueUrlCamel(TypedDict):
    """The same, in camelCase."""

    envSlug: str
    url: str


class _TopicFields(TypedDict, total=False):
    product: str
    name: str
    description: str
    sample: object
    queue_url: Sequence[QueueUrlSnake | QueueUrlCamel] | Mapping[str, str]
    queueUrl: Sequence[QueueUrlSnake | QueueUrlCamel] | Mapping[str, str]
    order: Literal["none", "key", "total"]
    groups: Sequence[str]
    type: Any
    options: Mapping[str, object]


class TopicChanges(_TopicFields, total=False):
    """What `broker.topic.update` takes: given fields replace, `queue_url` is keyed by environment."""

    remove_envs: Sequence[str]
    removeEnvs: Sequence[str]


class TopicRequest(_TopicFields):
    """What `broker.topic.create` takes. The broker is named by `message_broker_tag` or by a full tag."""

    tag: str
    message_broker_tag: NotRequired[str]
    messageBrokerTag: NotRequired[str]


class TagRequest(TypedDict):
    """What `fetch` and `delete` take, if not the tag alone."""

    tag: str
    product: NotRequired[str]


class SessionDict(TypedDict):
    """On whose behalf a message is published. The token reaches handlers and is shown nowhere."""

    tag: str
    token: str


class PublishRequest(TypedDict):
    """What `event.publish` takes."""

    event: str
    message: object
    env: NotRequired[str]
    product: NotRequired[str]
    session: NotRequired[SessionDict]
    key: NotRequired[str]
    headers: NotRequired[Mapping[str, str]]
    id: NotRequired[str]
    delay: NotRequired[float]


class SubscribeRequest(TypedDict):
    """What `event.subscribe` takes."""

    event: str
    callback: Callable[..., object]
    env: NotRequired[str]
    product: NotRequired[str]
    group: NotRequired[str]
    concurrency: NotRequired[int]
    order: NotRequired[Literal["none", "key", "total"]]
    prefetch: NotRequired[int]
    retry: NotRequired[Retry]
    on_poison: NotRequired[Literal["dead_letter", "drop", "stop"]]
    onPoison: NotRequired[Literal["dead_letter", "drop", "stop"]]
    on_unmatched: NotRequired[Literal["dead_letter", "ignore", "stop"]]
    onUnmatched: NotRequired[Literal["dead_letter", "ignore", "stop"]]
    batch: NotRequired[int]
    timeout: NotRequired[float]
    start: NotRequired[Literal["earliest", "latest"] | datetime]
