"""Promises with the kernel on a real server: the mission's page, and consumers that are killed, stopped and cut off."""

import asyncio
import collections
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ductape import Ductape, Event, Retry
from ductape.errors import CapabilityError, OpenError, PublishError
from ductape.types import MessageBrokerTypes
from ductape_conformance.proxy import TcpProxy

from .conftest import World, until

pytestmark = pytest.mark.broker

Make = Callable[..., Awaitable[Ductape]]


@pytest.fixture
async def make(world: World) -> AsyncIterator[Make]:
    """Makes clients of one queue; closes them in the end."""
    clients: list[Ductape] = []

    async def client(url: str = "", *, topic: dict[str, Any] | None = None, **config: Any) -> Ductape:
        ductape = Ductape(product="shop", env="dev")
        keys = {"region": "us-east-1", "accessKeyId": "test", "secretAccessKey": "test"}
        config = {**keys, "endpoint": url or world.url, "queue": world.name, "lease": 3, "poll": 1, **config}
        await ductape.broker.create(tag="orders", envs=[{"slug": "dev", "type": "AWS_SQS", "config": config}])
        await ductape.broker.topic.create(tag="orders:new", **(topic or {}))
        clients.append(ductape)
        return ductape

    yield client
    await asyncio.gather(*(client.close(1.0) for client in clients))


async def ignore(message: object) -> None:
    """A handler that is never called."""


async def test_the_mission_s_page_works_as_it_is_written(world: World) -> None:
    native = await world.native()
    url = (await native.create_queue(QueueName=world.name))["QueueUrl"]
    ductape = Ductape(product="my-product", env="dev")
    keys = {"region": "us-east-1", "accessKeyId": "AKIA", "secretAccessKey": "opensesame"}
    await ductape.broker.create(
        {
            "name": "Order Events",
            "tag": "order-events",
            "description": "Handles all order-related messages",
            "envs": [{"slug": "dev", "type": MessageBrokerTypes.AWS_SQS, "config": {**keys, "endpoint": world.url}}],
        }
    )
    await ductape.broker.topic.create(
        {
            "name": "New Orders",
            "messageBrokerTag": "order-events",
            "tag": "order-events:new-orders",
            "queueUrl": [{"env_slug": "dev", "url": url}],
            "sample": {"orderId": "12345", "total": 99.99},
        }
    )
    seen: asyncio.Queue[Any] = asyncio.Queue()
    request: Any = {"env": "dev", "product": "my-product", "event": "order-events:new-orders", "callback": seen.put}
    await ductape.event.subscribe(request)
    session = {"tag": "user-session", "token": "eyJ"}
    message: Any = {"event": "order-events:new-orders", "message": {"orderId": "12345"}, "session": session}
    await ductape.event.publish(message)
    assert await asyncio.wait_for(seen.get(), 10) == {"orderId": "12345"}
    assert "opensesame" not in repr(await ductape.broker.fetch("order-events")) + repr(await ductape.health())
    await ductape.close()


@pytest.mark.timeout(300)
async def test_consumers_that_are_killed_lose_nothing_and_those_that_are_stopped_repeat_nothing(
    make: Make, world: World, tmp_path: Path
) -> None:
    ductape = await make()
    done = tmp_path / "done"
    done.touch()
    confirmed: list[str] = []
    lived = asyncio.Event()

    async def publish() -> None:
        part = 0
        while not lived.is_set():  # or a quick consumer would leave the others nothing
            if len(confirmed) > len(handled()) + 400:  # and a slow one too much
                await asyncio.sleep(0.02)
                continue
            part += 1
            receipts = await ductape.event.publish_many("orders:new", [{"n": part * 20 + n} for n in range(20)])
            confirmed.extend(receipt.id for receipt in receipts)
            await asyncio.sleep(0.02)

    def handled() -> list[str]:
        return done.read_text().split()

    async def start() -> asyncio.subprocess.Process:
        here = Path(__file__).with_name("consumer.py")
        return await asyncio.create_subprocess_exec(sys.executable, here, world.url, world.name, done)

    async def lives(how: signal.Signals, after: int) -> None:
        process = await start()
        before = len(handled())
        await until(lambda: len(handled()) >= before + after, 60)
        process.send_signal(how)
        await asyncio.wait_for(process.wait(), 20)

    publishing = asyncio.create_task(publish())
    await lives(signal.SIGTERM, 200)
    twice = [id for id, times in collections.Counter(handled()).items() if times > 1]
    assert twice == [], "an orderly end settles what was handled and hands the rest back"
    for _ in range(2):
        await lives(signal.SIGKILL, 100)
    process = await start()
    lived.set()
    await publishing
    await until(lambda: set(handled()) >= set(confirmed), 60)
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.wait(), 20)
    assert set(handled()) == set(confirmed)
    assert len(handled()) <= len(confirmed) + 2 * 64, "at most what a killed consumer had in hand comes twice"


@pytest.mark.parametrize("fault", ["cut", "stall"])
async def test_a_link_that_breaks_or_stalls_under_load_loses_nothing(
    make: Make, sqs_proxy: TcpProxy, fault: str
) -> None:
    ductape = await make(f"http://127.0.0.1:{sqs_proxy.port}")
    handled: list[str] = []

    async def handle(event: Event[Any]) -> None:
        handled.append(event.id)

    await ductape.event.subscribe("orders:new", callback=handle)
    confirmed: list[str] = []

    async def caller(number: int) -> None:
        for turn in range(40):
            receipt = await ductape.event.publish("orders:new", {"n": number * 40 + turn})
            confirmed.append(receipt.id)

    async def trouble() -> None:
        for wanted in (100, 300, 500):
            while len(confirmed) < wanted:
                await asyncio.sleep(0.005)
            if fault == "cut":
                sqs_proxy.cut()
            else:
                sqs_proxy.stall()
                await asyncio.sleep(1.0)
                sqs_proxy.resume()

    await asyncio.gather(trouble(), *(caller(number) for number in range(20)))
    assert len(confirmed) == 800
    await until(lambda: set(handled) >= set(confirmed), 30)


async def test_a_long_handler_keeps_its_lease_beside_another_member(make: Make) -> None:
    members = [await make(), await make()]
    runs: list[str] = []

    async def handle(event: Event[Any]) -> None:
        runs.append(event.id)
        await asyncio.sleep(5.0)

    opened = [await member.event.subscribe("orders:new", callback=handle) for member in members]
    await members[0].event.publish("orders:new", {"n": 1})
    await until(lambda: sum(each.stats()["handled"] for each in opened) == 1)
    assert len(runs) == 1


async def test_an_ordered_topic_has_a_fifo_queue_of_its_own_accord(make: Make) -> None:
    ductape = await make(queue=None, topic={"order": "key"})
    seen: dict[str | None, list[int]] = collections.defaultdict(list)
    failed: set[int] = set()

    async def handle(message: dict[str, int], event: Event[Any]) -> None:
        if message["n"] % 7 == 0 and message["n"] not in failed:
            failed.add(message["n"])
            raise ValueError("once")
        seen[event.key].append(message["n"])

    retry = Retry(delay=0.1, factor=1.0)
    await ductape.event.subscribe("orders:new", callback=handle, order="key", retry=retry)
    await ductape.event.publish_many("orders:new", [{"n": n} for n in range(60)], key=lambda one: f"k{one['n'] % 4}")
    await until(lambda: sum(map(len, seen.values())) == 60)
    assert all(numbers == sorted(numbers) for numbers in seen.values())


async def test_order_on_a_standard_queue_is_refused_when_it_opens(make: Make) -> None:
    ductape = await make(queue=None, fifo=False, topic={"order": "key"})
    with pytest.raises(CapabilityError, match="order"):
        await ductape.event.subscribe("orders:new", callback=ignore, order="key")


async def test_topics_that_share_a_queue_share_a_receiver(make: Make) -> None:
    ductape = await make()
    await ductape.broker.topic.create(tag="orders:old")
    seen: dict[str, list[int]] = {"new": [], "old": []}

    async def new(message: dict[str, int]) -> None:
        seen["new"].append(message["n"])

    async def old(message: dict[str, int]) -> None:
        seen["old"].append(message["n"])

    await ductape.event.subscribe("orders:new", callback=new)
    await ductape.event.subscribe("orders:old", callback=old)
    for number in range(10):
        await ductape.event.publish("orders:new" if number % 2 else "orders:old", {"n": number})
    await until(lambda: sum(map(len, seen.values())) == 10)
    assert {name: sorted(numbers) for name, numbers in seen.items()} == {
        "new": [1, 3, 5, 7, 9],
        "old": [0, 2, 4, 6, 8],
    }


async def test_what_is_missing_is_told_when_it_opens_and_when_it_publishes(world: World) -> None:
    ductape = Ductape(product="shop", env="dev")
    keys = {"region": "us-east-1", "accessKeyId": "test", "secretAccessKey": "opensesame"}
    env: Any = {"slug": "dev", "type": "AWS_SQS", "config": {**keys, "endpoint": world.url}, "create": False}
    await ductape.broker.create(tag=world.name, envs=[env])
    await ductape.broker.topic.create(tag=f"{world.name}:new")
    with pytest.raises(OpenError, match="is missing, and may not be created here") as refused:
        await ductape.event.subscribe(f"{world.name}:new", callback=ignore)
    assert refused.value.code == "SUBSCRIBE_FAILED"
    with pytest.raises(PublishError, match="is missing") as failed:
        await ductape.event.publish(f"{world.name}:new", {})
    assert failed.value.stored == "no"
    assert "opensesame" not in f"{refused.value} {failed.value}"
    await ductape.close()


async def test_a_publish_that_nobody_answers_ends_with_its_deadline(make: Make, sqs_proxy: TcpProxy) -> None:
    ductape = await make(f"http://127.0.0.1:{sqs_proxy.port}")
    await ductape.event.publish("orders:new", {"n": 0})
    sqs_proxy.stall()
    with pytest.raises(PublishError, match="publish it again with id=") as late:
        await ductape.event.publish("orders:new", {"n": 1}, timeout=1.0)
    assert (late.value.code, late.value.stored) == ("PUBLISH_TIMEOUT", "maybe")
    sqs_proxy.resume()
