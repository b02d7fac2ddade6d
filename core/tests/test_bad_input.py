"""Bad input: a typed error with a code and a text that says what to do, and nothing else is disturbed."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from core.tests.fake import Fake
from core.tests.kit import EVENT, Shop, opened
from ductape import Ductape, Retry, RetryLater
from ductape.adapter import Capabilities
from ductape.errors import DuctapeError


class Left(msgspec.Struct):
    a: int


class Right(msgspec.Struct):
    b: int


async def fine(message: Any) -> None:
    """A handler."""


async def no_argument() -> None: ...


async def two_payloads(a: int, b: int) -> None: ...


async def keyword_only(message: int, *, more: int) -> None: ...


async def star(*messages: int) -> None: ...


async def unknown_type(message: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037


async def ambiguous(message: Left | Right) -> None: ...


async def no_list(message: int) -> None: ...


class Cyclic:
    def __init__(self) -> None:
        self.me = [self]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def publish(*args: Any, **options: Any) -> Callable[[Shop], Awaitable[Any]]:
    return lambda shop: shop.event.publish(*args, **options)


def subscribe(handler: Any = fine, event: Any = EVENT, **options: Any) -> Callable[[Shop], Awaitable[Any]]:
    async def call(shop: Shop) -> Any:
        return await shop.event.subscribe(event, callback=handler, **options)

    return call


PUBLISHING = {
    "unknown topic": (publish("orders:nww", 1), "TOPIC_NOT_FOUND", "Did you mean 'orders:new'"),
    "unknown broker": (publish("order:new", 1), "BROKER_NOT_FOUND", "Did you mean 'orders'"),
    "no colon": (publish("orders", 1), "TAG_INVALID", "broker"),
    "empty event": (publish("", 1), "TAG_INVALID", "broker"),
    "event of a wrong type": (publish(5, 1), "TAG_INVALID", "broker"),
    "two colons": (publish("orders:new:x", 1), "TAG_INVALID", "broker"),
    "unknown env": (publish(EVENT, 1, env="prod"), "ENV_NOT_FOUND", "prd"),
    "wrong product": (publish(EVENT, 1, product="shopp"), "PRODUCT_NOT_FOUND", "Did you mean 'shop'"),
    "no message": (publish({"event": EVENT}), "OPTION_INVALID", "message"),
    "unknown option": (publish(EVENT, 1, kye="k"), "OPTION_INVALID", "Did you mean 'key'"),
    "unknown key of a mapping": (publish({"event": EVENT, "message": 1, "hedders": {}}), "OPTION_INVALID", "headers"),
    "object": (publish(EVENT, object()), "PAYLOAD_INVALID", "object"),
    "cyclic": (publish(EVENT, Cyclic()), "PAYLOAD_INVALID", "Cyclic"),
    "too deep": (publish(EVENT, nested(100_000)), "PAYLOAD_INVALID", "list"),
    "key of a wrong type": (publish(EVENT, 1, key=5), "OPTION_INVALID", "key"),
    "id of a wrong type": (publish(EVENT, 1, id=5), "OPTION_INVALID", "id"),
    "empty id": (publish(EVENT, 1, id=""), "OPTION_INVALID", "id"),
    "id of two lines": (publish(EVENT, 1, id="a\nb"), "OPTION_INVALID", "id"),
    "negative delay": (publish(EVENT, 1, delay=-1), "OPTION_INVALID", "delay"),
    "delay of a wrong type": (publish(EVENT, 1, delay="5"), "OPTION_INVALID", "delay"),
    "delay that is no number": (publish(EVENT, 1, delay=math.nan), "OPTION_INVALID", "delay"),
    "timeout of a wrong type": (publish(EVENT, 1, timeout="5"), "OPTION_INVALID", "timeout"),
    "timeout of nothing": (publish(EVENT, 1, timeout=0), "OPTION_INVALID", "timeout"),
    "timeout that is no number": (publish(EVENT, 1, timeout=math.nan), "OPTION_INVALID", "timeout"),
    "unknown codec": (
        lambda shop: shop.event.publisher(EVENT, codec="text/plain"),
        "PAYLOAD_INVALID",
        "application/json",
    ),
}

SUBSCRIBING = {
    "unknown topic": (subscribe(event="orders:nww"), "TOPIC_NOT_FOUND", "Did you mean 'orders:new'"),
    "event of a wrong type": (subscribe(event=5), "TAG_INVALID", "broker"),
    "unknown env": (subscribe(env="prod"), "ENV_NOT_FOUND", "prd"),
    "wrong product": (subscribe(product="x"), "PRODUCT_NOT_FOUND", "shop"),
    "unknown option": (subscribe(concurency=4), "OPTION_INVALID", "Did you mean 'concurrency'"),
    "no callback": (lambda shop: shop.event.subscribe({"event": EVENT}), "OPTION_INVALID", "callback"),
    "no argument": (subscribe(no_argument), "HANDLER_INVALID", "payload"),
    "two payloads": (subscribe(two_payloads), "HANDLER_INVALID", "annotate one of them Event"),
    "keyword only": (subscribe(keyword_only), "HANDLER_INVALID", "'more'"),
    "star": (subscribe(star), "HANDLER_INVALID", "name the parameter"),
    "unknown annotation": (subscribe(unknown_type), "HANDLER_INVALID", "Nowhere"),
    "no list for a batch": (subscribe(no_list, batch=5), "HANDLER_INVALID", "list["),
    "ambiguous type": (subscribe(ambiguous), "PAYLOAD_INVALID", "Left"),
    "not callable": (subscribe("handler"), "HANDLER_INVALID", "called"),
    "no concurrency": (subscribe(concurrency=0), "OPTION_INVALID", "at least 1"),
    "concurrency of a wrong type": (subscribe(concurrency="4"), "OPTION_INVALID", "concurrency"),
    "small prefetch": (subscribe(concurrency=10, prefetch=5), "OPTION_INVALID", "prefetch"),
    "unknown order": (subscribe(order="keys"), "OPTION_INVALID", "none, key or total"),
    "more order than the topic": (subscribe(order="key"), "OPTION_INVALID", "topic.update"),
    "retry of a wrong type": (subscribe(retry="5"), "OPTION_INVALID", "retry"),
    "unknown on_poison": (subscribe(on_poison="ignore"), "OPTION_INVALID", "on_poison"),
    "unknown on_unmatched": (subscribe(on_unmatched="x"), "OPTION_INVALID", "on_unmatched"),
    "timeout of nothing": (subscribe(timeout=0), "OPTION_INVALID", "timeout"),
    "start without a zone": (subscribe(start="2026-01-01T00:00:00"), "OPTION_INVALID", "time zone"),
    "start of words": (subscribe(start="yesterday"), "OPTION_INVALID", "earliest, latest"),
    "history that is not kept": (subscribe(start="earliest"), "CAPABILITY_MISSING", "Leave start out"),
    "batch of nothing": (subscribe(batch=0), "OPTION_INVALID", "batch"),
    "group like a derived channel": (subscribe(group="a.dead"), "OPTION_INVALID", "another name"),
}


async def still_works(shop: Shop) -> None:
    log = shop.log()
    await shop.subscribe(log)
    await shop.publish("fine", headers={"check": "1"})
    await shop.until(lambda: log.calls)
    assert log.messages == ["fine"]


@pytest.mark.parametrize(("call", "code", "text"), PUBLISHING.values(), ids=PUBLISHING)
@pytest.mark.parametrize("warm", [False, True], ids=["first", "later"])
async def test_a_publish_that_cannot_be_meant_is_refused(call: Any, code: str, text: str, warm: bool) -> None:
    async with opened() as shop:
        if warm:
            await shop.publish("warm")
            await shop.run(shop.event.publisher(EVENT))
            shop.broker.messages("orders.new").clear()
        with pytest.raises(DuctapeError) as caught:
            await shop.run(call(shop))
        assert caught.value.code == code
        assert str(caught.value).startswith(f"{code}: ")
        assert text in str(caught.value)
        if not warm:
            await still_works(shop)
        await shop.publish("after")


@pytest.mark.parametrize(("call", "code", "text"), SUBSCRIBING.values(), ids=SUBSCRIBING)
async def test_a_subscription_that_cannot_be_meant_is_refused(call: Any, code: str, text: str) -> None:
    async with opened() as shop:
        with pytest.raises(DuctapeError) as caught:
            await shop.run(call(shop))
        assert caught.value.code == code
        assert text in str(caught.value)
        await still_works(shop)
        health = await shop.run(shop.client.health())
        assert health.healthy
        assert len(health.subscriptions) == 1


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"delay": -1}, {"factor": 0.5}, {"attempts": 2, "delay": math.nan}])
def test_a_retry_policy_that_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DuctapeError) as caught:
        Retry(**wrong)
    assert caught.value.code == "OPTION_INVALID"


@pytest.mark.parametrize("delay", [-1, math.nan])
def test_retry_later_takes_seconds_from_now(delay: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        RetryLater(delay)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"product": "with space"}, "TAG_INVALID"),
        ({"env": ""}, "TAG_INVALID"),
        ({"deadline": 0}, "OPTION_INVALID"),
        ({"grace": "long"}, "OPTION_INVALID"),
        ({"codec": "text/plain"}, "PAYLOAD_INVALID"),
    ],
    ids=["product", "env", "deadline", "grace", "codec"],
)
def test_a_client_that_cannot_be_meant_is_refused(options: dict[str, Any], code: str) -> None:
    with pytest.raises(DuctapeError) as caught:
        Ductape(**{"product": "shop", "env": "dev", **options})
    assert caught.value.code == code


async def test_a_message_that_is_too_large_says_how_large_it_may_be() -> None:
    async with opened(Capabilities(max_message=100_000)) as shop:
        with pytest.raises(DuctapeError, match="83616") as caught:
            await shop.publish(b"x" * 200_000)
        assert caught.value.code == "MESSAGE_TOO_LARGE"
        await still_works(shop)


async def test_errors_of_others_are_never_shown_with_their_text() -> None:
    async with opened(fake := Fake()) as shop:
        fake.always["send"] = RuntimeError("password=hunter2")
        with pytest.raises(DuctapeError) as caught:
            await shop.publish(1, timeout=3)
        assert "hunter2" not in str(caught.value)
        assert "RuntimeError" in str(caught.value)
