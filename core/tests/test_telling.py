"""What an application is told, at the time, of what goes wrong: by whom, where, and what to do. Never a payload."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from typing import Any

import msgspec
import pytest

from core.tests.fake import Fake, failing
from core.tests.kit import EVENT, opened
from ductape import Codec, Ductape, Event, Reject, Retry, RetryLater
from ductape._runner import Signals
from ductape.adapter import Fault
from ductape.errors import CatalogError, ConfigError, HandlerError, OpenError, PayloadError, PublishError
from ductape.sync import Ductape as Blocking

ADVICE = "Is the server there, and is the address right?"


def warnings(caplog: pytest.LogCaptureFixture, logger: str = "ductape") -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= 30 and each.name.startswith(logger)]


def fail(secret: str) -> None:
    raise AttributeError(f"{secret} is secret")


# ---- failures of handlers


async def test_the_first_failure_of_a_kind_and_its_dead_letter_name_class_file_and_line_and_no_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened() as shop:
        caplog.set_level(logging.DEBUG, "ductape")
        await shop.subscribe(shop.log(lambda event: fail(event.message)), retry=Retry(attempts=3, delay=1))
        await shop.publish("hunter2", id="m-1")
        await shop.settled()
    line = fail.__code__.co_firstlineno + 1
    first, dead = warnings(caplog)
    assert first.startswith(
        f"orders:new in 'shop.new': attempt 1 of 3 failed: AttributeError at test_telling.py:{line}; "
    )
    assert "it is tried again in 1" in first
    assert dead == (
        "orders:new in 'shop.new': message 'm-1' goes to the dead letters (exhausted after 3): "
        f"AttributeError at test_telling.py:{line}. See: ductape dead list orders:new --group shop.new"
    )
    assert "hunter2" not in caplog.text
    assert caplog.text.count("was raised at\n") == 1
    assert f"line {line}, in fail" in caplog.text
    [last] = [each for each in caplog.records if each.getMessage() == dead]
    assert (last.__dict__["event"], last.__dict__["message_id"]) == (EVENT, "m-1")


async def test_the_place_of_an_error_in_a_library_is_the_line_that_called_it(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(message: str) -> None:
        json.loads(message)

    async with opened() as shop:
        await shop.subscribe(handler, retry=Retry(attempts=1))
        await shop.publish("no JSON")
        await shop.settled()
    assert f"JSONDecodeError at test_telling.py:{handler.__code__.co_firstlineno + 1}." in warnings(caplog)[0]


async def test_a_handler_that_is_ended_by_its_timeout_is_named_by_where_it_hung(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(message: int) -> None:
        await asyncio.Event().wait()

    async with opened() as shop:
        await shop.subscribe(handler, retry=Retry(attempts=1), timeout=5)
        await shop.publish(1)
        await shop.settled()
    assert f"HandlerTimeout at test_telling.py:{handler.__code__.co_firstlineno + 1}." in warnings(caplog)[0]


async def test_a_thousand_dead_letters_are_a_line_and_a_count(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as shop:
        await shop.subscribe(shop.log(lambda event: Reject()), retry=Retry(attempts=1))
        await shop.run(shop.event.publish_many(EVENT, range(1000)))
        await shop.settled()
        await shop.advance(5)
        told = warnings(caplog)
        more = [
            line.split("'shop.new': ")[1].partition(" more went to the dead letters within a second")
            for line in told[1:]
        ]
        assert sum(int(number) for number, _, _ in more) == 999
        assert len(told) <= 1 + 3, "a line a second"
        await shop.publish(1)
        await shop.settled()
        assert len(warnings(caplog)) == len(told) + 1, "and after a quiet second the next is told again"


async def test_a_body_that_cannot_be_read_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as shop:
        await shop.subscribe(typed := handler_of(int))
        await shop.publish("hunter2")
        await shop.settled()
    [told] = warnings(caplog)
    assert (
        "goes to the dead letters (unreadable): PAYLOAD_UNREADABLE: application/json: Expected `int`, got `str`. See"
        in told
    )
    assert "hunter2" not in caplog.text
    assert typed.calls == []


async def test_a_handler_that_asks_for_a_later_time_has_not_failed(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as shop:
        await shop.subscribe(shop.log(lambda event: RetryLater(1) if event.attempt == 1 else None))
        await shop.publish(1)
        await shop.settled()
    assert warnings(caplog) == []


def handler_of(kind: Any) -> Any:
    calls: list[Any] = []

    async def handler(message: Any) -> None:
        calls.append(message)

    handler.__annotations__["message"] = kind
    handler.calls = calls  # type: ignore[attr-defined]
    return handler


# ---- a server that is not there


async def test_a_missing_server_is_told_at_the_first_try_and_the_last_says_what_to_look_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened(fake := Fake()) as shop:
        fake.always["connect"] = failing(Fault.TRANSIENT)
        opening = asyncio.ensure_future(shop.event.subscribe(EVENT, callback=shop.log()))
        await shop.advance(5)
        [told] = warnings(caplog)
        assert told.startswith("orders:new in group 'shop.new': ")
        assert told.endswith(f"; trying for another 30 s. {ADVICE}")
        with pytest.raises(OpenError) as caught:
            await shop.run(opening)
        assert str(caught.value).endswith(f". {ADVICE}")
        assert "ADAPTER_FAILURE" not in str(caught.value)
        assert len(warnings(caplog)) == 1


async def test_all_who_publish_to_a_missing_server_are_told_once_and_by_the_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened(fake := Fake()) as shop:
        fake.always["connect"] = failing(Fault.TRANSIENT)
        many = [asyncio.ensure_future(shop.event.publish(EVENT, n, timeout=12)) for n in range(20)]
        await shop.advance(5)
        [told] = warnings(caplog)
        assert told.startswith("orders:new: ")
        assert told.endswith(f"; trying for another 12 s. {ADVICE}")
        with pytest.raises(PublishError) as caught:
            await shop.run(many[0])
        assert str(caught.value).startswith("PUBLISH_TIMEOUT: orders:new: cannot open for publishing: ")
        assert str(caught.value).endswith(f". It is not stored. {ADVICE}")
        assert "ADAPTER_FAILURE" not in str(caught.value)
        await shop.run(asyncio.gather(*many, return_exceptions=True))
        assert len(warnings(caplog)) == 1


async def test_what_an_operator_has_to_mend_is_no_question_of_the_address() -> None:
    async with opened(fake := Fake()) as shop:
        fake.always["connect"] = failing(Fault.CONFIG)
        with pytest.raises(PublishError) as caught:
            await shop.publish(1)
        assert ADVICE not in str(caught.value)


async def test_a_server_that_is_back_without_the_group_is_received_from_at_once() -> None:
    async with opened(fake := Fake()) as shop:
        await shop.subscribe(log := shop.log())
        first = fake.receiver
        fake.script("receive", *[failing(Fault.TRANSIENT)] * 12, failing(Fault.LOST))
        first.ring()
        await shop.until(lambda: not fake.scripts["receive"])
        back = shop.clock.now()
        await shop.until(lambda: fake.receiver is not first)
        assert shop.clock.now() - back < 0.2
        fake.feed(b"1")
        await shop.until(lambda: log.messages == [1])


async def test_a_group_that_is_lost_again_and_again_is_not_joined_in_a_hot_loop() -> None:
    async with opened(fake := Fake()) as shop:
        await shop.subscribe(shop.log())
        fake.always["receive"] = failing(Fault.LOST)
        fake.receiver.ring()
        await shop.advance(60)
        assert len(fake.receivers) < 40


# ---- types that cannot be read


class Plain:
    """No Struct, no dataclass."""


class Model:
    """Stands for a model of a library that msgspec does not know."""

    @classmethod
    def model_validate(cls, value: object) -> Model:
        return cls()

    def model_dump(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (Plain, "'Plain' is a class, which msgspec cannot decode; annotate `dict`, or use a Struct or dataclass."),
        (Model, "'Model' is a pydantic model, which msgspec cannot decode; annotate `dict` and call"),
        (Event[Model], "call `Model.model_validate(…)`, or use a Struct or dataclass."),
    ],
)
async def test_a_handler_for_a_type_that_cannot_be_read_is_refused(kind: Any, what: str) -> None:
    async with opened() as shop:
        with pytest.raises(HandlerError) as caught:
            await shop.subscribe(handler_of(kind))
        assert what in str(caught.value)
        assert caught.value.code == "HANDLER_INVALID"


async def test_a_topic_of_a_type_that_cannot_be_read_is_refused() -> None:
    async with opened() as shop:
        with pytest.raises(CatalogError, match="orders:typed', type: 'Model' is a pydantic model") as caught:
            await shop.client.broker.topic.create(tag="orders:typed", type=Model)
        assert caught.value.code == "CATALOG_INVALID"


async def test_a_codec_of_ones_own_may_read_any_type() -> None:
    class Own:
        content_type = "application/own"

        def encode(self, payload: object) -> bytes:
            return b"own"

        def decoder(self, kind: object) -> Any:
            return lambda body: Model()

    own: Codec = Own()
    async with opened(codecs=[own], codec=own.content_type) as shop:
        await shop.subscribe(handler := handler_of(Model))
        await shop.publish(Model())
        await shop.settled()
        assert isinstance(handler.calls[0], Model)


async def test_a_model_that_is_published_as_it_is_is_refused_with_what_to_publish() -> None:
    async with opened() as shop:
        with pytest.raises(PayloadError, match=r"a payload of type Model .*\. Publish its model_dump\(\)\."):
            await shop.publish(Model())


class Said(msgspec.Struct):
    """What the topic declares."""


class Other(msgspec.Struct):
    """What the handler reads."""


@pytest.mark.parametrize(("kind", "told"), [(Other, 1), (Said, 0), (dict, 0), (bytes, 0), (Any, 0)])
async def test_a_handler_that_reads_another_type_than_the_topic_declares_is_told(
    kind: Any, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(topics={"new": {"type": Said}}) as shop:
        await shop.subscribe(handler_of(kind))
    assert len(warnings(caplog)) == told
    assert not told or "Other'>, but the topic has type=" in caplog.text


# ---- what is called in the wrong way


async def test_a_publish_that_leaves_declared_subscriptions_closed_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened(topics={"new": {}, "old": {}}) as shop:
        shop.event.subscribe(EVENT)(log := shop.log())
        await shop.publish(1)
        await shop.publish(1, "orders:old")
        text = "1 declared subscription(s) not open: use `async with ductape:`, `open`, `serve` or `run`"
        assert warnings(caplog) == [text]
        await shop.run(shop.client.open())
        await shop.until(lambda: log.messages == [1])


async def test_a_publish_after_opening_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as shop:
        shop.event.subscribe(EVENT)(shop.log())
        await shop.run(shop.client.open())
        await shop.publish(1)
        assert warnings(caplog) == []


async def test_serving_without_a_subscription_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as shop:
        serving = asyncio.ensure_future(shop.client.serve())
        await shop.advance(1)
        shop.client.stop()
        await shop.run(serving)
    assert "nothing is subscribed" in caplog.text


async def test_a_handler_that_was_called_is_named(recwarn: pytest.WarningsRecorder) -> None:
    async def ok(message: Any) -> None: ...

    async with opened() as shop:
        with pytest.raises(HandlerError, match=r"you called it: pass .*ok, not .*ok\(…\)"):
            shop.event.subscribe(EVENT, callback=ok({}))  # type: ignore[arg-type]
    assert not recwarn.list


async def test_a_handler_given_by_position_is_told_the_keyword() -> None:
    async with opened() as shop:
        call: Any = shop.event.subscribe
        with pytest.raises(ConfigError, match="write callback=handler"):
            call(EVENT, shop.log())


async def test_a_misspelt_callback_in_a_mapping_is_told_the_right_one() -> None:
    async with opened() as shop:
        wrong: Any = {"event": EVENT, "calback": shop.log()}
        with pytest.raises(ConfigError, match=r"no option 'calback'\. Did you mean 'callback'\?"):
            shop.event.subscribe(wrong)


def test_the_blocking_client_says_that_it_publishes_only() -> None:
    client = Blocking(product="shop", env="dev")
    door: Any = client.event
    with pytest.raises(AttributeError, match=r"publishes only; consume with ductape\.Ductape"):
        door.subscribe(EVENT)
    client.close()


async def test_signals_that_arrive_together_are_one() -> None:
    asked: list[int] = []
    signals = Signals(lambda: asked.append(1))
    signals._arrived(signal.SIGINT)
    signals._arrived(signal.SIGINT)
    assert asked == [1]


async def test_a_forgotten_await_is_thought_of() -> None:
    client = Ductape(product="shop", env="dev")
    with pytest.raises(CatalogError, match=r"declares one; was it awaited\?"):
        await client.broker.fetch("orders")
