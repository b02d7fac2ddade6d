"""RabbitMQ as an application has it: the mission's page, poison over two members, and a handler that always raises."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import aio_pika
import pytest

from ductape import Ductape, Event, Retry
from ductape.errors import OpenError, PublishError
from ductape.types import MessageBrokerTypes
from tests.brokers import RabbitMQ

pytestmark = pytest.mark.broker


def own() -> str:
    return f"orders{secrets.token_hex(4)}"


def environment(server: RabbitMQ, **config: Any) -> Any:
    config = {"host": server.host, "port": server.port, "username": "guest", "password": "guest"} | config
    return {"slug": "dev", "type": MessageBrokerTypes.RABBITMQ, "config": config}


async def client(server: RabbitMQ, tag: str, topic: Mapping[str, Any] = {}, **config: Any) -> Ductape:
    ductape = Ductape(product="shop", env="dev")
    await ductape.broker.create(tag=tag, envs=[environment(server, **config)])
    await ductape.broker.topic.create(tag=f"{tag}:new", **topic)
    return ductape


async def test_the_missions_page_on_rabbitmq(rabbitmq_server: RabbitMQ) -> None:
    name = own()
    ductape = Ductape(product="my-product", env="dev")
    await ductape.broker.create({
        "name": "Order Events", "tag": "order-events", "description": "Handles all order-related messages",
        "envs": [environment(rabbitmq_server, queue=f"{name}.queue", routingKey=f"{name}.new")],
    })  # fmt: skip
    await ductape.broker.topic.create(
        name="New Orders", message_broker_tag="order-events", tag="order-events:new-orders",
        sample={"orderId": "12345", "total": 99.99},
    )  # fmt: skip
    seen: asyncio.Queue[Any] = asyncio.Queue()
    await ductape.event.subscribe(
        {"env": "dev", "product": "my-product", "event": "order-events:new-orders", "callback": seen.put}
    )
    await ductape.event.publish(
        {"event": "order-events:new-orders", "message": {"orderId": "12345"}, "session": {"tag": "s", "token": "eyJ"}}
    )
    assert await asyncio.wait_for(seen.get(), 10) == {"orderId": "12345"}
    await ductape.close()


async def test_a_poison_message_uses_exactly_its_attempts_over_two_members_that_come_and_go(
    rabbitmq_server: RabbitMQ,
) -> None:
    tag = own()
    members = [await client(rabbitmq_server, tag) for _ in range(2)]
    attempts: list[int] = []
    done: Counter[int] = Counter()

    async def handle(message: dict[str, int], event: Event[Any]) -> None:
        if message["n"] == 7:
            attempts.append(event.attempt)
            raise ValueError("never")
        done[message["n"]] += 1

    policy = Retry(attempts=5, delay=0.2, factor=1.0)
    for each in members:
        await each.event.subscribe(f"{tag}:new", callback=handle, retry=policy)
    await members[0].event.publish_many(f"{tag}:new", [{"n": n} for n in range(50)])
    letters: list[Any] = []
    end = time.monotonic() + 20
    while not letters and time.monotonic() < end:
        letters = [letter async for letter in members[1].event.dead(f"{tag}:new")]
    for each in members:
        await each.close()
    assert attempts == [1, 2, 3, 4, 5]
    assert [(letter.attempts, letter.reason) for letter in letters] == [(5, "exhausted")]
    assert done == Counter({n: 1 for n in range(50) if n != 7})


async def test_a_handler_that_always_raises_neither_spins_nor_blocks_others(
    rabbitmq_server: RabbitMQ,
) -> None:
    tag = own()
    ductape = await client(rabbitmq_server, tag, {"groups": ["bad", "good"]})
    calls = 0
    good = asyncio.Event()
    handled: set[int] = set()

    async def fail(message: dict[str, int]) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("always")

    async def work(message: dict[str, int]) -> None:
        handled.add(message["n"])
        if len(handled) == 100:
            good.set()

    await ductape.event.subscribe(f"{tag}:new", callback=fail, group="bad", retry=Retry(attempts=100, delay=0.5))
    await ductape.event.subscribe(f"{tag}:new", callback=work, group="good")
    began = time.process_time()
    await ductape.event.publish_many(f"{tag}:new", [{"n": n} for n in range(100)])
    await asyncio.wait_for(good.wait(), 5)
    await asyncio.sleep(1.0)
    assert time.process_time() - began < 1.0
    assert 100 <= calls <= 300  # at once, after 0.5 to 0.6 s, and after 1.0 to 1.2 s more
    await ductape.close()


async def test_what_an_operator_has_to_mend_is_told_when_it_opens(rabbitmq_server: RabbitMQ) -> None:
    tag = own()
    wrong = await client(rabbitmq_server, tag, password="hunter2")
    with pytest.raises(PublishError, match=r"config\.password") as refused:
        await wrong.event.publish(f"{tag}:new", {})
    assert refused.value.stored == "no"
    assert "hunter2" not in str(refused.value)
    with pytest.raises(OpenError, match=r"config\.password"):
        await wrong.event.subscribe(f"{tag}:new", callback=lambda message: None)
    await wrong.close()


async def test_a_queue_deleted_under_a_publisher_is_there_for_the_next_message(
    rabbitmq_server: RabbitMQ,
) -> None:
    tag = own()
    ductape = await client(rabbitmq_server, tag, exchange=f"{tag}.events")
    await ductape.event.publish(f"{tag}:new", {"n": 1})  # its default group is declared with it
    native = await ductape.native(tag, aio_pika.Connection)
    await native.connect()
    channel = await native.channel()
    await channel.queue_delete(f"{tag}.new.shop.new")
    receipt = await ductape.event.publish(f"{tag}:new", {"n": 2})  # declared again
    queue = await channel.declare_queue(f"{tag}.new.shop.new", passive=True)
    message = await queue.get()
    assert message.headers["ductape-id"] == receipt.id
    await ductape.close()
