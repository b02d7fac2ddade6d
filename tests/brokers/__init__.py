"""Real servers for tests: found or installed, started on free loopback ports, killed, restarted, and cleaned up.

A further server is one module with a `Server` subclass and one line in `SERVERS`: the fixtures `<name>_server` and
`<name>_proxy` follow from it. `server.py` tells what the subclass answers, `maven.py` provides servers written in Java.
The proxy that cuts, stalls and half-opens links is part of the conformance kit.
"""

from tests.brokers.kafka import Kafka
from tests.brokers.moto import Moto
from tests.brokers.nats import Nats, OldNats
from tests.brokers.pubsub import Pubsub
from tests.brokers.rabbitmq import RabbitMQ
from tests.brokers.redis import Redis
from tests.brokers.server import NotOurs, Server, Unavailable
from tests.brokers.sqs import Sqs

SERVERS: tuple[type[Server], ...] = (Kafka, Moto, Nats, OldNats, Pubsub, RabbitMQ, Redis, Sqs)

__all__ = [
    "SERVERS",
    "Kafka",
    "Moto",
    "Nats",
    "NotOurs",
    "OldNats",
    "Pubsub",
    "RabbitMQ",
    "Redis",
    "Server",
    "Sqs",
    "Unavailable",
]
