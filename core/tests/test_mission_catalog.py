"""The catalog's half of the mission's page, literally; mypy reads it too."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from ductape._catalog import BrokerDoor, Catalog
from ductape._config import read_config
from ductape._secrets import Secret
from ductape._store import MemoryStore
from ductape.types import MessageBrokerTypes, PublishRequest, SessionDict, SubscribeRequest


class Sasl(Struct, frozen=True, kw_only=True):
    mechanism: str
    username: str
    password: Secret


class Kafka(Struct, frozen=True, kw_only=True):
    brokers: list[str]
    client_id: str
    group_id: str
    topic: str
    ssl: bool
    sasl: Sasl


class Ductape:
    def __init__(self) -> None:
        self.broker = BrokerDoor(Catalog("my-product", MemoryStore()), publish=self.publish, subscribe=self.subscribe)

    def publish(self, request: PublishRequest) -> str:
        return request["event"]

    def subscribe(self, request: SubscribeRequest) -> Callable[..., object]:
        return request["callback"]


async def test_the_page_works_as_written() -> None:
    ductape = Ductape()
    await ductape.broker.create({
        "name": "Order Events", "tag": "order-events", "description": "Handles all order-related messages",
        "envs": [
            {"slug": "prd", "type": MessageBrokerTypes.KAFKA, "config": {
                "brokers": ["kafka-prod.example.com:9092"], "clientId": "order-service", "groupId": "order-consumers",
                "topic": "orders",
                "ssl": True,
                "sasl": {"mechanism": "scram-sha-256", "username": "prod-user", "password": "${KAFKA_PASSWORD}"}}},
            {"slug": "dev", "type": MessageBrokerTypes.REDIS, "config": {"host": "localhost", "port": 6379}},
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

    assert topics == [topic] == await ductape.broker.topic.fetchAll("order-events")
    assert (topic.name, topic.description, topic.broker) == ("New Orders", "Updated description", "order-events")
    assert topic.sample == {"orderId": "12345", "total": 99.99}

    env = (await ductape.broker.fetch("order-events")).env("prd")
    where = "broker 'order-events', env 'prd'"
    config = read_config(env.config, Kafka, where=where, environ={"KAFKA_PASSWORD": "hunter2"})
    assert (config.client_id, config.sasl.password.reveal()) == ("order-service", "hunter2")
    assert "hunter2" not in repr(config) + repr(env)

    session: SessionDict = {"tag": "user-session", "token": "t"}
    event = ductape.broker.publish({"event": "order-events:new-orders", "message": {}, "session": session})
    assert event == "order-events:new-orders"
    assert ductape.broker.subscribe({"env": "dev", "product": "my-product", "event": event, "callback": print}) is print
