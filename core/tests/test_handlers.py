"""What handlers get, and how they are run and ended."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest

from core.tests.fake import Fake
from core.tests.kit import EVENT, opened
from ductape import Event, MsgpackCodec, Retry
from ductape.adapter import Capabilities, Count, Verdict

ACK, RETRY, RELEASE = Verdict.ACK, Verdict.RETRY, Verdict.RELEASE


class Order(msgspec.Struct):
    id: int
    total: float = 0.0


@dataclass
class Plain:
    id: int


class Typed(TypedDict):
    id: int


# ---- decoding


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (Order, Order(7, 1.5)),
        (Plain, Plain(7)),
        (Typed, {"id": 7}),
        (dict[str, float], {"id": 7, "total": 1.5}),
        (dict, {"id": 7, "total": 1.5}),
        (Any, {"id": 7, "total": 1.5}),
        (object, {"id": 7, "total": 1.5}),
        (bytes, b'{"id":7,"total":1.5}'),
        (Order | None, Order(7, 1.5)),
    ],
    ids=["struct", "dataclass", "typed dict", "dict of", "dict", "Any", "object", "bytes", "union"],
)
@pytest.mark.parametrize("envelope", [False, True], ids=["payload", "Event"])
async def test_payloads_are_decoded_to_the_annotation(kind: Any, wanted: Any, envelope: bool) -> None:
    got: list[Any] = []

    async def payload(message: Any) -> None:
        got.append(message)

    async def event(event: Any) -> None:
        got.append(event.message)

    handler = event if envelope else payload
    handler.__annotations__ = {"event": Event[kind], "message": kind, "return": None}
    async with opened() as shop:
        await shop.subscribe(handler)
        await shop.publish({"id": 7, "total": 1.5})
        await shop.settled()
        assert got == [wanted]


async def test_without_an_annotation_the_plain_value_is_given() -> None:
    got: list[Any] = []

    async def handler(message):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        got.append(message)

    async with opened() as shop:
        await shop.subscribe(handler)
        for payload in ({"a": [1, None]}, "text", 5, None, True):
            await shop.publish(payload)
        await shop.settled()
        assert got == [{"a": [1, None]}, "text", 5, None, True]


async def test_payload_and_envelope_can_both_be_taken_in_any_order() -> None:
    got: list[Any] = []

    async def one(order: Order, event: Event[Any]) -> None:
        got.append((order, event.attempt, event.group))

    async def other(event: Event[Any], order: Order) -> None:
        got.append((order, event.attempt, event.group))

    async with opened() as shop:
        await shop.subscribe(one, group="one")
        await shop.subscribe(other, group="other")
        await shop.publish({"id": 7})
        await shop.settled("one")
        await shop.settled("other")
        assert sorted(got, key=str) == [(Order(7), 1, "one"), (Order(7), 1, "other")]


async def test_the_envelope_tells_all_about_the_message() -> None:
    async with opened() as shop:
        log = shop.log()
        await shop.subscribe(log)
        await shop.publish([1], id="m1", key="k", headers={"x": "y"}, session={"tag": "user", "token": "t"})
        await shop.settled()
        [event] = log.calls
        assert (event.name, event.group, event.id, event.key, event.attempt) == (EVENT, "shop.new", "m1", "k", 1)
        assert event.headers == {"x": "y", "content-type": "application/json"}
        assert (event.session.tag, event.session.token) == ("user", "t")  # type: ignore[union-attr]
        assert event.body == b"[1]"
        assert event.time is not None
        assert event.position == "orders.new@1"


async def test_bytes_travel_as_they_are_and_a_bytes_handler_gets_any_body() -> None:
    got: list[Any] = []

    async def raw(body: bytes) -> None:
        got.append(body)

    async with opened() as shop:
        await shop.subscribe(raw)
        for payload in (b"\x00\xff", bytearray(b"\x01"), memoryview(b"\x02"), b""):
            await shop.publish(payload)
        shop.broker.put("orders.new", b"\xfe no json")
        shop.broker.put("orders.new", b"{}", {"content-type": "application/json"})
        shop.broker.put("orders.new", b"plain", {"content-type": "text/plain"})
        await shop.settled()
        assert got == [b"\x00\xff", b"\x01", b"\x02", b"", b"\xfe no json", b"{}", b"plain"]
        assert await shop.dead() == []


async def test_msgpack_travels_by_its_content_type_whatever_the_reader_s_default_is() -> None:
    async with opened(codec=MsgpackCodec.content_type) as shop:
        got: list[Any] = []

        async def handler(order: Order, event: Event[Any]) -> None:
            got.append((order, event.headers["content-type"]))

        await shop.subscribe(handler)
        await shop.publish({"id": 1})
        publisher = await shop.event.publisher(EVENT, codec="application/json")
        await shop.run(publisher.publish({"id": 2}))
        await shop.settled()
        assert got == [(Order(1), "application/msgpack"), (Order(2), "application/json")]


async def test_a_codec_of_somebody_else_is_chosen_by_its_content_type() -> None:
    class Upper:
        content_type = "text/upper"

        def encode(self, payload: object) -> bytes:
            return str(payload).upper().encode()

        def decoder(self, kind: object) -> Any:
            return lambda body: body.decode().lower()

    async with opened(codecs=[Upper()]) as shop:
        log = shop.log()
        await shop.subscribe(log)
        publisher = await shop.event.publisher(EVENT, codec="text/upper")
        await shop.run(publisher.publish("Hello"))
        shop.broker.put("orders.new", b"WORLD", {"content-type": "text/upper; charset=utf-8"})
        await shop.settled()
        assert log.messages == ["hello", "world"]
        assert log.calls[0].body == b"HELLO"


# ---- kinds of handlers


async def test_a_plain_function_runs_in_a_thread_with_the_context_of_its_event() -> None:
    where: list[Any] = []
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    class Sets:
        def subscriber(self, next: Any, site: Any) -> Any:
            async def handle(event: Any) -> Any:
                variable.set(event.message)
                return await next(event)

            return handle

    def handler(message: str) -> None:
        where.append((message, variable.get(), threading.current_thread().name.startswith("ductape-handler")))

    async with opened(middleware=[Sets()]) as shop:
        await shop.subscribe(handler)
        await shop.publish("a")
        await wait_for(lambda: where)
        assert where == [("a", "a", True)]


async def wait_for(condition: Any) -> None:
    """Wait for a thread, which no virtual clock drives."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not come to hold")


async def test_plain_functions_run_beside_one_another_and_their_errors_are_retried() -> None:
    barrier = threading.Barrier(3, timeout=5)
    calls: list[int] = []

    def handler(message: int) -> None:
        barrier.wait()
        calls.append(message)
        raise ValueError

    async with opened() as shop:
        subscription = await shop.subscribe(handler, retry=Retry(attempts=1), concurrency=3)
        for n in range(3):
            await shop.publish(n)
        await wait_for(lambda: len(calls) == 3)
        await wait_for(lambda: subscription.stats()["failed"] == 3)
        await shop.settled()
        assert len(await shop.dead()) == 3


async def test_partials_methods_and_callable_objects_are_handlers() -> None:
    got: list[Any] = []

    class Service:
        async def method(self, order: Order) -> None:
            got.append(("method", order))

        async def __call__(self, order: Order) -> None:
            got.append(("call", order))

    async def named(kind: str, order: Order) -> None:
        got.append((kind, order))

    service = Service()
    handlers = {"a": service.method, "b": service, "c": functools.partial(named, "partial")}
    async with opened() as shop:
        for group, handler in handlers.items():
            await shop.subscribe(handler, group=group)
        await shop.publish({"id": 1})
        for group in handlers:
            await shop.settled(group)
        assert sorted(got, key=str) == [("call", Order(1)), ("method", Order(1)), ("partial", Order(1))]


async def test_a_batch_handler_gets_lists_up_to_its_size_after_its_wait() -> None:
    sizes: list[int] = []

    async def handler(orders: list[Order]) -> None:
        sizes.append(len(orders))
        assert all(type(order) is Order for order in orders)

    async with opened() as shop:
        await shop.subscribe(handler, batch=10, batch_wait=2, concurrency=1)
        began = shop.clock.now()
        await shop.run(shop.event.publish_many(EVENT, [{"id": n} for n in range(25)]))
        await shop.settled()
        assert sum(sizes) == 25
        assert max(sizes) == 10
        assert shop.clock.now() - began <= 6.1


async def test_a_failed_batch_fails_each_and_an_unreadable_one_alone() -> None:
    batches: list[list[Any]] = []

    async def handler(events: list[Event[Order]]) -> None:
        batches.append([(event.message.id, event.attempt) for event in events])
        if any(event.attempt == 1 for event in events):
            raise ValueError

    async with opened() as shop:
        await shop.subscribe(handler, batch=5, retry=Retry(attempts=2))
        await shop.run(shop.event.publish_many(EVENT, [{"id": 1}, {"wrong": 1}, {"id": 2}]))
        await shop.settled()
        assert batches[0] == [(1, 1), (2, 1)]
        assert sorted(entry for batch in batches[1:] for entry in batch) == [(1, 2), (2, 2)]
        assert [letter.reason for letter in await shop.dead()] == ["unreadable"]


async def test_a_batch_that_waits_to_fill_is_handed_back_at_stop() -> None:
    can = Capabilities(count=Count.EXACT)
    async with opened(fake := Fake(can)) as shop:
        calls: list[Any] = []

        async def handler(messages: list[Any]) -> None:
            calls.append(messages)

        await shop.subscribe(handler, batch=10, batch_wait=60)
        fake.feed(b"1", b"2")
        await shop.advance(1)
        await shop.close()
        assert calls == []
        assert sorted(fake.settlements) == [("1", RELEASE, 0.0), ("2", RELEASE, 0.0)]


async def test_what_failed_apart_from_its_batch_counts_as_handled_once_it_was() -> None:
    verdicts = [ValueError("not now"), True]

    def verify(session: Any) -> object:
        verdict = verdicts.pop(0)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    got: list[Any] = []

    async def handler(messages: list[Any]) -> None:
        got.extend(messages)

    session = {"ductape-session-tag": "user", "ductape-session-token": "x"}
    async with opened(fake := Fake(), sessions={"user": verify}) as shop:
        await shop.subscribe(handler, batch=2, retry=Retry(attempts=2, delay=1))
        fake.feed(b"1", headers=session)
        fake.feed(b"2")
        await shop.until(lambda: len(fake.settlements) == 2)
        assert (got, {verdict for _, verdict, _ in fake.settlements}, fake.stored) == ([2, 1], {ACK}, [])
