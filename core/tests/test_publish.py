"""What a publish promises on a working broker, and while it is away: receipts, limits, delays, environments."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from core.tests.fake import Fake
from core.tests.kit import EVENT, opened, quiet
from ductape import Session
from ductape.adapter import Capabilities, Durability, Fault
from ductape.errors import CapabilityError, MessageTooLarge, PayloadError, PublishError, StateError


async def test_a_receipt_tells_where_the_message_went() -> None:
    async with opened() as shop:
        receipt = await shop.publish({"a": 1}, id="m1")
        assert (receipt.event, receipt.id, receipt.position, receipt.duplicate) == (EVENT, "m1", "orders.new@1", False)
        assert receipt.id != (await shop.publish({"a": 1})).id


async def test_the_body_is_exactly_what_the_codec_made_and_the_rest_is_in_the_headers() -> None:
    async with opened() as shop:
        await shop.publish({"ü": [1, None]}, id="m1", key="k", headers={"x": "y"}, session=Session("user", "t"))
        [entry] = shop.broker.messages("orders.new")
        assert entry.body == '{"ü":[1,null]}'.encode()
        assert entry.key == "k"
        assert entry.headers == {
            "ductape-event": EVENT,
            "ductape-id": "m1",
            "content-type": "application/json",
            "x": "y",
            "ductape-session-tag": "user",
            "ductape-session-token": "t",
        }


async def test_the_mission_s_spellings_publish_the_same() -> None:
    async with opened() as shop:
        await shop.run(shop.event.publish({"event": EVENT, "message": 1, "product": "shop", "env": "dev"}))
        await shop.run(shop.client.broker.publish({"event": EVENT, "message": 2}))
        await shop.publish(3, product="shop", env="dev")
        await shop.run(shop.event.publish(EVENT, message=4))
        assert [entry.body for entry in shop.broker.messages("orders.new")] == [b"1", b"2", b"3", b"4"]


async def test_an_env_of_a_call_reaches_that_environment_s_broker() -> None:
    connected: list[str] = []

    class Named(Fake):
        async def connect(self, config: Any, site: Any) -> Any:
            connected.append(site.env)
            return await super().connect(config, site)

    async with opened(fake := Named()) as shop:
        await shop.publish(1)
        await shop.publish(2, env="prd")
        await shop.publish(3)
        await shop.publish(4, env="prd")
        assert connected == ["dev", "prd"]
        assert len(fake.senders) == 2
        health = await shop.run(shop.client.health())
        assert [(each.env, each.state) for each in health.brokers] == [("dev", "connected"), ("prd", "connected")]


async def test_a_topic_s_type_validates_what_is_published() -> None:
    class Order(msgspec.Struct):
        id: int

    async with opened(topics={"new": {"type": Order}}) as shop:
        await shop.publish(Order(1))
        await shop.publish({"id": 2})
        with pytest.raises(PayloadError, match="id") as caught:
            await shop.publish({"id": "secret"})
        assert caught.value.code == "PAYLOAD_INVALID"
        assert "secret" not in str(caught.value)
        log: list[Any] = []

        async def handler(order) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
            log.append(order)

        await shop.subscribe(handler)
        await shop.settled()
        assert log == [Order(1), Order(2)]


async def test_a_bound_publisher_converts_to_its_type() -> None:
    class Order(msgspec.Struct):
        id: int

    async with opened() as shop:
        publisher = await shop.event.publisher(EVENT, type=Order)
        await shop.run(publisher.publish(Order(1)))
        with pytest.raises(PayloadError):
            await shop.run(publisher.publish({"id": "x"}))  # type: ignore[arg-type]
        assert repr(publisher) == f"<Publisher {EVENT} stored=1 pending=0>"


# ---- limits


async def test_a_message_above_the_limit_less_the_reserve_is_refused_and_one_below_passes() -> None:
    async with opened(Capabilities(max_message=100_000)) as shop:
        with pytest.raises(MessageTooLarge) as caught:
            await shop.publish(b"x" * 90_000)
        assert caught.value.code == "MESSAGE_TOO_LARGE"
        assert caught.value.fields["limit"] == 100_000 - 16 * 1024
        await shop.publish(b"x" * 80_000)


async def test_headers_count_too() -> None:
    async with opened(Capabilities(max_message=100_000)) as shop:
        with pytest.raises(MessageTooLarge):
            await shop.publish(b"x" * 50_000, headers={f"x{n}": "y" * 1000 for n in range(40)})


async def test_the_largest_message_that_passes_can_still_be_a_dead_letter() -> None:
    async with opened(Capabilities(max_message=40_000, retry_delay=0)) as shop:
        size = 40_000
        while True:
            try:
                await shop.publish(b"x" * size)
            except MessageTooLarge:
                size -= 100
            else:
                break
        await shop.subscribe(shop.log(lambda event: ValueError("y" * 50_000)), group=None)
        await shop.until(lambda: shop.left() == 0, within=300)
        [letter] = await shop.dead()
        assert len(letter.body) == size


async def test_a_body_limit_is_told_of_the_body() -> None:
    async with opened(Capabilities(max_body=1000)) as shop:
        with pytest.raises(MessageTooLarge) as caught:
            await shop.publish(b"x" * 1001)
        assert (caught.value.fields["size"], caught.value.fields["limit"]) == (1001, 1000)
        await shop.publish(b"x" * 1000)


async def test_middleware_that_makes_a_message_too_large_is_told() -> None:
    class Adds:
        def publisher(self, next: Any, site: Any) -> Any:
            async def send(message: Any) -> Any:
                message.headers["x-big"] = "y" * 100_000
                return await next(message)

            return send

    async with opened(Capabilities(max_message=100_000), middleware=[Adds()]) as shop:
        with pytest.raises(MessageTooLarge):
            await shop.publish(1)


# ---- delays


async def test_a_delayed_message_comes_when_it_is_due() -> None:
    async with opened() as shop:
        log = shop.log()
        await shop.subscribe(log)
        began = shop.clock.now()
        await shop.publish(1, delay=90)
        await shop.settled()
        assert 90 <= log.times[0] - began < 91


@pytest.mark.parametrize(
    ("can", "delay", "word"), [(Capabilities(), 1, "nothing"), (Capabilities(send_delay=900.0), 901, "900 s at most")]
)
async def test_a_delay_beyond_the_provider_is_refused(can: Capabilities, delay: float, word: str) -> None:
    async with opened(can) as shop:
        with pytest.raises(CapabilityError, match=word) as caught:
            await shop.publish(1, delay=delay)
        assert (caught.value.code, caught.value.fields["capability"]) == ("CAPABILITY_MISSING", "send_delay")
        await shop.publish(1)


# ---- the broker is away


async def test_a_publish_waits_for_a_broker_that_is_away_and_stores_once_it_is_back() -> None:
    async with opened() as shop:
        await shop.publish(0)
        shop.broker.faults.restart(keep=True, away=12)
        receipt = await shop.publish(1)
        assert 12 <= shop.clock.now() - 1000 < 16
        assert receipt.position
        assert shop.broker.messages("orders.new")[-1].body == b"1"


async def test_while_the_broker_is_away_every_publish_ends_within_its_deadline() -> None:
    async with opened(deadline=8) as shop:
        await shop.publish(0)
        shop.broker.faults.restart(keep=True, away=1000)
        tasks = [asyncio.ensure_future(shop.event.publish(EVENT, n)) for n in range(200)]
        answers = await shop.run(asyncio.gather(*tasks, return_exceptions=True))
        assert shop.clock.now() - 1000 < 10
        assert {type(answer) for answer in answers} == {PublishError}
        health = await shop.run(shop.client.health())
        assert (health.healthy, health.brokers[0].state) == (False, "failing")


async def test_after_the_broker_is_back_health_is_green_again() -> None:
    async with opened() as shop:
        await shop.publish(0)
        shop.broker.faults.restart(keep=True, away=5)
        with pytest.raises(PublishError):
            await shop.publish(1, timeout=2)
        await shop.advance(20)
        await shop.publish(2)
        health = await shop.run(shop.client.health())
        assert health.healthy


@pytest.mark.parametrize("stored", [False, True], ids=["not stored", "stored"])
async def test_nothing_confirmed_is_lost_through_cuts_in_every_call(stored: bool) -> None:
    async with opened() as shop:
        await shop.publish("first")
        log = shop.log()
        await shop.subscribe(log)
        confirmed: list[str] = []

        async def caller(number: int) -> None:
            for n in range(10):
                receipt = await shop.event.publish(EVENT, f"{number}-{n}")
                confirmed.append(f"{number}-{n}")
                assert receipt.id

        shop.broker.faults.fail("send", Fault.AMBIGUOUS, nth=3, times=2, stored=stored)
        shop.broker.faults.fail("send", Fault.LOST, nth=5)
        callers = asyncio.ensure_future(asyncio.gather(*(caller(number) for number in range(10))))
        for _ in range(3):
            await quiet(3)
            shop.broker.faults.restart(keep=True, away=0.5)
            await shop.advance(1)
        await shop.run(callers)
        await shop.settled()
        assert len(confirmed) == 100
        assert set(confirmed) <= set(log.messages)


async def test_a_buffered_broker_shows_in_health() -> None:
    async with opened(Capabilities(durability=Durability.BUFFERED)) as shop:
        await shop.publish(1)
        health = await shop.run(shop.client.health())
        assert health.brokers[0].durability == "buffered"


# ---- loops


async def test_a_client_that_is_open_on_another_loop_says_so_and_goes_on_here() -> None:
    async with opened() as shop:
        await shop.publish(1)
        publisher = await shop.event.publisher(EVENT)

        def elsewhere(call: Any) -> BaseException | None:
            async def main() -> Any:
                return await asyncio.wait_for(call(), 5)

            try:
                asyncio.run(main())
            except BaseException as error:
                return error
            return None

        for call in (
            lambda: shop.event.publish(EVENT, 2),
            lambda: shop.event.subscribe(EVENT, callback=shop.log()),
            lambda: shop.event.publish_many(EVENT, [1]),
            lambda: publisher.publish(3),
        ):
            error = await asyncio.to_thread(elsewhere, call)
            assert isinstance(error, StateError)
            assert error.code == "WRONG_LOOP"
        await shop.publish(4)
        assert [entry.body for entry in shop.broker.messages("orders.new")] == [b"1", b"4"]
