"""Middleware, observers, headers and sessions on their way through everything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.tests.kit import EVENT, opened
from ductape import Middleware, Reject, Retry, Session, SubscriberSite
from ductape.errors import ConfigError, PayloadError
from ductape_memory import LOG, QUEUE, STREAM

TOKEN = "tok-4711-secret"


class Tracer:
    """Writes its name into a journal around what it wraps."""

    def __init__(self, name: str, journal: list[str]) -> None:
        self.name, self.journal, self.built = name, journal, 0

    def publisher(self, next: Any, site: Any) -> Any:
        self.built += 1

        async def send(message: Any) -> Any:
            self.journal.append(f"{self.name} sends {site.event}")
            message.headers[f"x-{self.name}"] = "1"
            receipt = await next(message)
            self.journal.append(f"{self.name} sent")
            return receipt

        return send

    def subscriber(self, next: Any, site: Any) -> Any:
        async def handle(event: Any) -> Any:
            self.journal.append(f"{self.name} handles {site.group} {event.attempt}")
            try:
                return await next(event)
            finally:
                self.journal.append(f"{self.name} handled")

        return handle


async def test_the_first_middleware_is_the_outermost_and_is_built_once() -> None:
    journal: list[str] = []
    outer, inner = Tracer("outer", journal), Tracer("inner", journal)
    async with opened(middleware=[outer, inner]) as shop:
        log = shop.log()
        await shop.subscribe(log)
        await shop.publish(1)
        await shop.settled()
        assert journal == [
            "outer sends orders:new",
            "inner sends orders:new",
            "inner sent",
            "outer sent",
            "outer handles shop.new 1",
            "inner handles shop.new 1",
            "inner handled",
            "outer handled",
        ]
        await shop.publish(2)
        assert outer.built == 1
        assert log.calls[0].headers == {"x-outer": "1", "x-inner": "1", "content-type": "application/json"}


async def test_raw_headers_are_all_that_arrived_and_headers_the_publishers() -> None:
    async with opened() as shop:
        log = shop.log()
        await shop.subscribe(log)
        await shop.publish(1, headers={"traceparent": "00-1"}, id="m-1")
        await shop.settled()
        [event] = log.calls
        assert event.headers == {"traceparent": "00-1", "content-type": "application/json"}
        assert event.raw_headers == {**event.headers, "ductape-id": "m-1", "ductape-event": EVENT}
        assert event.raw_headers is event.raw_headers, "nothing is copied"


async def test_every_attempt_passes_through_middleware_and_what_it_raises_decides() -> None:
    journal: list[str] = []

    class Refuses:
        def subscriber(self, next: Any, site: Any) -> Any:
            async def handle(event: Any) -> Any:
                if event.attempt == 3:
                    raise Reject("enough")
                return await next(event)

            return handle

    async with opened(middleware=[Tracer("trace", journal), Refuses()]) as shop:
        await shop.subscribe(shop.log(lambda event: ValueError()))
        await shop.publish(1)
        await shop.settled()
        assert [line for line in journal if "handles" in line] == [f"trace handles shop.new {n}" for n in (1, 2, 3)]
        assert [letter.reason for letter in await shop.dead()] == ["rejected"]


async def test_observers_are_told_once_a_batch_and_once_a_move() -> None:
    journal: list[Any] = []

    class Observer(Middleware):
        def received(self, deliveries: Any, site: Any) -> None:
            journal.append(("received", len(deliveries), site.group))

        def settled(self, settlements: Any, seconds: float, site: Any) -> None:
            journal.append(("settled", len(settlements), seconds >= 0))

        def moved(self, event: Any, where: str, reason: str, site: Any) -> None:
            journal.append(("moved", event.id, where, reason))

    async with opened(middleware=[Observer()]) as shop:
        subscription = await shop.subscribe(shop.log(lambda event: Reject() if event.message == 1 else None))
        await shop.run(shop.event.publish_many(EVENT, range(10)))
        await shop.settled()
        assert sum(entry[1] for entry in journal if entry[0] == "received") == 10
        assert sum(entry[1] for entry in journal if entry[0] == "settled") == 10
        assert [entry[2:] for entry in journal if entry[0] == "moved"] == [("dead", "rejected")]
        assert len([entry for entry in journal if entry[0] == "received"]) <= 3
        assert subscription.stats()["dead"] == 1


@pytest.mark.parametrize("middleware", [object(), Middleware, "text", 5], ids=["object", "class", "name", "number"])
async def test_what_is_no_middleware_is_refused(middleware: object) -> None:
    async with opened(middleware=[middleware]) as shop:
        with pytest.raises(ConfigError) as caught:
            await shop.publish(1)
        assert caught.value.code in ("OPTION_INVALID", "MIDDLEWARE_NOT_FOUND")


@pytest.mark.parametrize("can", [QUEUE, STREAM, LOG], ids=["queue", "stream", "log"])
async def test_headers_ids_and_sessions_survive_retry_dead_letter_and_replay_unchanged(can: Any) -> None:
    sent = {"traceparent": "00-4bf9-01", "baggage": "tenant=blue", "X-Mixed.Case_1": "ü=1"}
    async with opened(can) as shop:
        broken = True
        log = shop.log(lambda event: ValueError() if broken else None)
        await shop.subscribe(log, retry=Retry(attempts=3, delay=40))
        await shop.publish(1, id="m", headers=sent, session=Session("user", TOKEN))
        await shop.settled()
        [letter] = await shop.dead()
        assert letter.headers == {**sent, "content-type": "application/json"}
        assert letter.session == Session("user", TOKEN)
        broken = False

        async def replay() -> None:
            async for each in shop.event.dead(EVENT):
                await each.replay()

        await shop.run(replay())
        await shop.settled()
        assert log.attempts == [1, 2, 3, 1]
        for event in log.calls:
            assert event.headers == {**sent, "content-type": "application/json"}
            assert (event.id, event.session) == ("m", Session("user", TOKEN))


# ---- headers


@pytest.mark.parametrize(
    "headers",
    [
        {"ductape-id": "x"},
        {"Ductape-Anything": "x"},
        {"": "x"},
        {"with space": "x"},
        {"ümlaut": "x"},
        {"x": 5},
        {"x": None},
        {"x": "line\nbreak"},
        {"x": "carriage\rreturn"},
        {"x": "nul\0"},
        {5: "x"},
        ["x"],
        "x",
    ],
    ids=str,
)
async def test_headers_that_cannot_travel_are_refused_and_publishing_goes_on(headers: Any) -> None:
    async with opened() as shop:
        with pytest.raises(PayloadError, match="header") as caught:
            await shop.publish(1, headers=headers)
        assert caught.value.code == "HEADER_INVALID"
        await shop.publish(2)
        assert len(shop.broker.messages("orders.new")) == 1


async def test_headers_above_what_the_provider_carries_are_refused() -> None:
    from ductape.adapter import Capabilities

    async with opened(Capabilities(max_header=50, max_headers=12)) as shop:
        for headers in ({"x": "y" * 51}, {"x": "ü" * 26}, {"a": "1", "b": "2", "c": "3"}):
            with pytest.raises(PayloadError) as caught:
                await shop.publish(1, headers=headers)
            assert caught.value.code == "HEADER_INVALID"
        with pytest.raises(PayloadError):
            await shop.publish(1, session={"tag": "user", "token": "t" * 51})
        await shop.publish(1, headers={"x": "y" * 50})


# ---- sessions


@pytest.mark.parametrize(
    "session",
    [
        {"tag": "user"},
        {"token": TOKEN},
        {"tag": "", "token": TOKEN},
        {"tag": "user", "token": 5},
        {"tag": "user", "token": f"{TOKEN}\n"},
        {"tag": "user", "token": TOKEN, "more": TOKEN},
        TOKEN,
        [TOKEN],
    ],
    ids=range(8),
)
async def test_a_session_that_cannot_be_read_is_refused_without_showing_it(session: Any) -> None:
    async with opened() as shop:
        with pytest.raises(PayloadError, match="session") as caught:
            await shop.publish(1, session=session)
        assert caught.value.code == "HEADER_INVALID"
        assert TOKEN not in str(caught.value) + repr(caught.value) + str(caught.value.fields)


async def test_the_token_reaches_the_handler_and_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    shown: list[str] = []

    class Shows:
        def publisher(self, next: Any, site: Any) -> Any:
            async def send(message: Any) -> Any:
                shown.append(f"{message!r} {message} {site!r}")
                return await next(message)

            return send

        def received(self, deliveries: Any, site: Any) -> None:
            shown.append(f"{deliveries!r} {site!r}")

        def settled(self, settlements: Any, seconds: float, site: Any) -> None:
            shown.append(repr(settlements))

        def moved(self, event: Any, where: str, reason: str, site: Any) -> None:
            shown.append(repr(event))

    async with opened(middleware=[Shows()]) as shop:
        log = shop.log(lambda event: ValueError())
        subscription = await shop.subscribe(log, retry=Retry(attempts=2, delay=1))
        receipt = await shop.publish(1, session={"tag": "user", "token": TOKEN})
        await shop.settled()
        [event, _] = log.calls
        assert event.session is not None
        assert event.session.token == TOKEN
        letters = await shop.dead()
        engine = shop.client.engine
        objects = [receipt, event, event.session, subscription, letters, letters[0].session, shop.client, engine]
        shown += [f"{each!r} {each}" for each in objects]
        health = await shop.run(shop.client.health())
        shown += [repr(health), repr(shop.client.stats()), str(event.headers), str(letters[0].headers)]
    assert len(shown) > 10
    for text in (*shown, caplog.text):
        assert TOKEN not in text


async def test_a_verified_session_reaches_the_handler_and_a_refused_one_the_dead_letters() -> None:
    async def verify(session: Session) -> bool:
        return session.token == TOKEN

    async with opened(sessions={"user": verify}) as shop:
        log = shop.log()
        await shop.subscribe(log)
        await shop.publish(1, session={"tag": "user", "token": TOKEN})
        await shop.publish(2, session={"tag": "user", "token": "forged"})
        await shop.publish(3, session={"tag": "other", "token": "any"})
        await shop.publish(4)
        await shop.settled()
        assert log.messages == [1, 3, 4]
        [letter] = await shop.dead()
        assert (letter.message, letter.reason) == (2, "rejected")
        assert "forged" not in letter.error
        assert "user" in letter.error


async def test_a_refused_session_in_a_batch_takes_none_of_the_others_along() -> None:
    async with opened(sessions={"user": lambda session: session.token == TOKEN}) as shop:
        got: list[Any] = []

        async def handler(messages: list[Any]) -> None:
            got.extend(messages)

        await shop.subscribe(handler, batch=5)
        for n, token in enumerate((TOKEN, "forged", TOKEN)):
            await shop.publish(n, session={"tag": "user", "token": token})
        await shop.settled()
        assert sorted(got) == [0, 2]
        assert [letter.message for letter in await shop.dead()] == [1]


async def test_a_site_tells_what_to_page_on_until_its_subscription_ends() -> None:
    sites: list[SubscriberSite] = []

    class Watching(Middleware):
        def subscriber(self, next: Any, site: SubscriberSite) -> Any:
            sites.append(site)
            return next

    began, over = asyncio.Event(), asyncio.Event()

    async def handle(order: object) -> None:
        began.set()
        await over.wait()

    async with opened(middleware=[Watching()]) as shop:
        subscription = await shop.subscribe(handle)
        [site] = sites
        assert site.stats()["oldest"] == 0.0
        await shop.publish(1)
        await began.wait()
        assert site.stats()["running"] == 1
        assert site.stats()["oldest"] >= 0.0
        assert await site.lag() == 0
        over.set()
        await subscription.close()
        assert site.stats() == {}
        assert await site.lag() is None
