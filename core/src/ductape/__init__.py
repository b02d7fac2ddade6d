"""One API for publishing and consuming events over Kafka, RabbitMQ, Redis, SQS, Pub/Sub and NATS.

Applications import from here; authors of adapters from `ductape.adapter`; everybody from `ductape.errors`.
"""

from ._client import Ductape
from ._codec import Codec, JsonCodec, MsgpackCodec, RawCodec
from ._dead import DeadLetter
from ._definitions import Broker, BrokerEnv, Topic
from ._event import Event, Message, Receipt, Session
from ._health import BrokerHealth, Health, SubscriptionHealth
from ._middleware import Middleware, PublisherSite, SubscriberSite
from ._publisher import Publisher
from ._registry import Registry
from ._retry import Reject, Retry, RetryLater
from ._store import Store
from ._stream import Stream, StreamEvent
from ._subscription import Subscription
from .errors import DuctapeError, PublishError

__all__ = [
    "Broker",
    "BrokerEnv",
    "BrokerHealth",
    "Codec",
    "DeadLetter",
    "Ductape",
    "DuctapeError",
    "Event",
    "Health",
    "JsonCodec",
    "Message",
    "Middleware",
    "MsgpackCodec",
    "PublishError",
    "Publisher",
    "PublisherSite",
    "RawCodec",
    "Receipt",
    "Registry",
    "Reject",
    "Retry",
    "RetryLater",
    "Session",
    "Store",
    "Stream",
    "StreamEvent",
    "SubscriberSite",
    "Subscription",
    "SubscriptionHealth",
    "Topic",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("ductape-core")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
