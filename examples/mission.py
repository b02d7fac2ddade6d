"""The whole of it on one page: declare, subscribe, publish, serve. Runs until a signal.

    python examples/mission.py             on Redis at localhost:6379, or where REDIS_HOST and REDIS_PORT say
    python examples/mission.py local       the same code on the embedded broker, no server

`prd` is declared and not used: its provider need not even be installed.
"""

import asyncio
import sys

from ductape import Ductape
from ductape.types import MessageBrokerTypes

ENV = sys.argv[1] if len(sys.argv) > 1 else "dev"


async def process_new_order(message: dict[str, object]) -> None:
    print("new order:", message, flush=True)


async def main() -> None:
    ductape = Ductape(product="my-product", env=ENV)

    await ductape.broker.create({
        "name": "Order Events", "tag": "order-events", "description": "Handles all order-related messages",
        "envs": [
            {"slug": "prd", "type": MessageBrokerTypes.KAFKA, "config": {
                "brokers": ["kafka-prod.example.com:9092"], "clientId": "order-service", "groupId": "order-consumers",
                "topic": "orders", "ssl": True,
                "sasl": {"mechanism": "scram-sha-256", "username": "prod-user", "password": "${KAFKA_PASSWORD}"}}},
            {"slug": "dev", "type": MessageBrokerTypes.REDIS,
             "config": {"host": "${REDIS_HOST:-localhost}", "port": "${REDIS_PORT:-6379}"}},
            {"slug": "local", "type": MessageBrokerTypes.MEMORY},
        ]})  # fmt: skip
    await ductape.broker.topic.create(
        name="New Orders",
        message_broker_tag="order-events",
        tag="order-events:new-orders",
        sample={"orderId": "12345", "total": 99.99},
    )
    await ductape.broker.topic.update("order-events:new-orders", {"description": "Updated description"})
    topic = await ductape.broker.topic.fetch("order-events:new-orders")
    topics = await ductape.broker.topic.fetch_all("order-events")
    print(f"{topic.name}: {topic.description}; {len(topics)} topic", flush=True)

    async def on_order(message: dict[str, object]) -> None:
        await process_new_order(message)

    await ductape.event.subscribe({
        "env": ENV, "product": "my-product", "event": "order-events:new-orders", "callback": on_order,
    })  # fmt: skip
    await ductape.event.publish(
        {
            "event": "order-events:new-orders",
            "message": {"orderId": "12345"},
            "session": {"tag": "user-session", "token": "eyJ…"},
        }
    )
    await ductape.serve()  # until a signal


if __name__ == "__main__":
    asyncio.run(main())
