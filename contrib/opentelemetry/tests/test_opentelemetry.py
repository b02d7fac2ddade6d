"""Spans and metrics over the memory broker, against the tables of the semantic conventions v1.44.0."""

import asyncio
import gc
import logging
import subprocess
import sys
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from contrib.opentelemetry.tests.kit import EVENT, Watch, attributes, ids, opened, until
from ductape import (
    Event,
    Message,
    Middleware,
    PublishError,
    PublisherSite,
    Receipt,
    Reject,
    Retry,
    RetryLater,
    SubscriberSite,
)
from ductape_opentelemetry import OpenTelemetry, TraceFields
from ductape_opentelemetry._metrics import LAG_SECONDS

TOKEN = "tok-4711-secret"

# Name to kind, and which operations have it: the conventions' table of span attributes, and what is ours.
ATTRIBUTES: dict[str, tuple[type, frozenset[str]]] = {
    "messaging.system": (str, frozenset({"send", "process", "settle"})),
    "messaging.operation.name": (str, frozenset({"send", "process", "settle"})),
    "messaging.operation.type": (str, frozenset({"send", "process", "settle"})),
    "messaging.destination.name": (str, frozenset({"send", "process", "settle"})),
    "messaging.consumer.group.name": (str, frozenset({"process", "settle"})),
    "messaging.message.id": (str, frozenset({"send", "process"})),
    "messaging.batch.message_count": (int, frozenset({"process", "settle"})),
    "error.type": (str, frozenset({"send", "process"})),
    "ductape.event": (str, frozenset({"send", "process", "settle"})),
    "ductape.env": (str, frozenset({"send", "process", "settle"})),
    "ductape.attempt": (int, frozenset({"process"})),
}
REQUIRED = {"messaging.system", "messaging.operation.name", "messaging.operation.type", "messaging.destination.name"}
KINDS = {"send": {SpanKind.PRODUCER, SpanKind.CLIENT}, "process": {SpanKind.CONSUMER}, "settle": {SpanKind.CLIENT}}


async def nothing(_: object) -> None:
    pass


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.tracers.shutdown()
    made.meters.shutdown()


async def test_the_handler_belongs_to_the_publishers_trace_and_is_active_while_it_runs(watch: Watch) -> None:
    active: list[int] = []

    async def handle(order: dict[str, int]) -> None:
        active.append(trace.get_current_span().get_span_context().span_id)

    async with opened(watch, handle) as ductape:
        with watch.tracers.get_tracer("app").start_as_current_span("checkout") as root:
            await ductape.event.publish(EVENT, {"n": 1})
        await until(lambda: watch.spans("settle"))
    [send], [process] = watch.spans("send"), watch.spans("process")
    assert send.parent is not None
    assert send.parent.span_id == root.get_span_context().span_id
    assert process.parent is not None
    assert process.parent.span_id == send.get_span_context().span_id
    assert ids([send, process]) == {root.get_span_context().trace_id}
    assert active == [process.get_span_context().span_id]
    [settle] = watch.spans("settle")
    assert [link.context.span_id for link in settle.links] == [send.get_span_context().span_id]
    assert settle.parent is None


async def test_every_attribute_is_in_the_conventions_tables(watch: Watch) -> None:
    async def handle(event: Event[Any]) -> None:
        if event.attempt == 1:
            raise ConnectionError(f"no way with {TOKEN}")

    async with opened(watch, handle, retry=Retry(delay=0.01)) as ductape:
        await ductape.event.publish(EVENT, {"n": 1}, key="k")
        await until(lambda: len(watch.spans("process")) == 2 and len(watch.spans("settle")) == 2)
    for span in watch.spans():
        found = attributes(span)
        operation = str(found["messaging.operation.type"])
        assert found.keys() >= REQUIRED
        assert span.kind in KINDS[operation]
        assert span.name == f"{found['messaging.operation.name']} {found['messaging.destination.name']}"
        for name, value in found.items():
            kind, operations = ATTRIBUTES[name]
            assert type(value) is kind, name
            assert operation in operations, name
        scope = span.instrumentation_scope
        assert scope is not None
        assert scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
    failed, worked = watch.spans("process")
    assert failed.status.status_code is StatusCode.ERROR
    assert attributes(failed)["error.type"] == "ConnectionError"
    assert worked.status.status_code is StatusCode.UNSET
    assert [attributes(each)["ductape.attempt"] for each in (failed, worked)] == [1, 2]


async def test_a_retry_a_dead_letter_and_a_replay_stay_in_the_publishers_trace(watch: Watch) -> None:
    mended = False

    async def handle(event: Event[Any]) -> None:
        if not mended:
            raise ConnectionError

    async with opened(watch, handle, retry=Retry(attempts=3, delay=0.01)) as ductape:
        await ductape.event.publish(EVENT, {"n": 1})
        await until(lambda: watch.metrics().get("ductape.dead_letters"))
        mended = True
        async for letter in ductape.event.dead(EVENT, group="billing"):
            await letter.replay()
        await until(lambda: len(watch.spans("process")) == 4)
    [send] = watch.spans("send")
    assert {each.parent.span_id for each in watch.spans("process") if each.parent} == {send.get_span_context().span_id}
    assert ids(watch.spans("process")) == ids([send])
    metrics = watch.metrics()
    assert sum(point.value for point in metrics["ductape.retries"]) == 2
    [dead] = metrics["ductape.dead_letters"]
    assert (dead.value, dead.attributes["ductape.reason"]) == (1, "exhausted")


async def test_with_parent_false_a_handler_has_a_trace_of_its_own_with_a_link() -> None:
    watch, handled = Watch(parent=False), asyncio.Event()

    async def handle(order: dict[str, int]) -> None:
        handled.set()

    async with opened(watch, handle) as ductape:
        await ductape.event.publish(EVENT, {"n": 1})
        await handled.wait()
    [send], [process] = watch.spans("send"), watch.spans("process")
    assert process.parent is None
    assert [link.context.span_id for link in process.links] == [send.get_span_context().span_id]
    assert not ids([send]) & ids([process])
    watch.meters.shutdown()


async def test_a_batch_has_one_span_with_a_link_to_every_publisher(watch: Watch) -> None:
    sizes: list[int] = []

    async def handle(orders: list[dict[str, int]]) -> None:
        sizes.append(len(orders))

    async with opened(watch, handle, batch=10, concurrency=1) as ductape:
        await ductape.event.publish_many(EVENT, [{"n": n} for n in range(10)])
        await until(lambda: sum(sizes) == 10)
    links = [link.context.span_id for span in watch.spans("process") for link in span.links]
    assert sorted(links) == sorted(each.get_span_context().span_id for each in watch.spans("send"))
    assert sum(attributes(each)["messaging.batch.message_count"] for each in watch.spans("process")) == 10
    assert all("messaging.message.id" not in attributes(each) for each in watch.spans("process"))


async def test_a_context_that_the_application_gave_stays(watch: Watch) -> None:
    seen: list[Mapping[str, str]] = []
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def handle(event: Event[Any]) -> None:
        seen.append(event.headers)

    async with opened(watch, handle) as ductape:
        await ductape.event.publish(EVENT, {"n": 1}, headers={"traceparent": given})
        await until(lambda: seen)
    [send], [process] = watch.spans("send"), watch.spans("process")
    assert seen[0]["traceparent"] == given
    assert send.kind is SpanKind.CLIENT
    assert [f"{link.context.span_id:016x}" for link in send.links] == ["b7ad6b7169203331"]
    assert process.parent is not None
    assert f"{process.parent.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"


async def test_baggage_arrives_and_what_was_active_when_subscribing_is_no_parent(watch: Watch) -> None:
    tenants: list[object] = []

    async def handle(order: dict[str, int]) -> None:
        tenants.append(baggage.get_baggage("tenant"))

    with watch.tracers.get_tracer("app").start_as_current_span("startup") as startup:
        async with opened(watch, handle) as ductape:
            token = context.attach(baggage.set_baggage("tenant", "blue", context.Context()))
            await ductape.event.publish(EVENT, {"n": 1})
            context.detach(token)
            await until(lambda: tenants)
    assert tenants == ["blue"]
    assert startup.get_span_context().trace_id not in ids(watch.spans("process"))


async def test_a_plain_function_runs_in_its_span_too(watch: Watch) -> None:
    active: list[bool] = []

    def handle(order: dict[str, int]) -> None:
        active.append(trace.get_current_span().get_span_context().is_valid)

    async with opened(watch, handle) as ductape:
        await ductape.event.publish(EVENT, {"n": 1})
        await until(lambda: active)
    assert active == [True]


async def test_nothing_secret_is_recorded(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    async def handle(order: dict[str, str]) -> None:
        raise Reject(f"cannot work with {order} and {TOKEN}")

    async with opened(watch, handle) as ductape:
        session = {"tag": "user-session", "token": TOKEN}
        await ductape.event.publish(EVENT, {"card": "4242-card"}, session=session, headers={"x-api-key": TOKEN})
        await until(lambda: watch.metrics().get("ductape.dead_letters"))
    text = "".join(span.to_json() for span in watch.spans()) + repr(watch.metrics())
    for secret in (TOKEN, "4242-card", "user-session"):
        assert secret not in text


async def test_metrics_have_the_conventions_names_units_boundaries_and_attributes(watch: Watch) -> None:
    async def handle(order: dict[str, int]) -> None:
        if order["n"] == 0:
            raise Reject

    async with opened(watch, handle) as ductape:
        await ductape.event.publish_many(EVENT, [{"n": n} for n in range(20)])
        await until(lambda: sum(len(each.links) for each in watch.spans("settle")) == 20)
        metrics = watch.metrics()
    assert [point.value for point in metrics["messaging.client.sent.messages"]] == [20]
    assert [point.value for point in metrics["messaging.client.consumed.messages"]] == [20]
    by_error = {point.attributes.get("error.type"): point for point in metrics["messaging.process.duration"]}
    assert {kind: point.count for kind, point in by_error.items()} == {None: 19, "ductape.Reject": 1}
    assert by_error[None].explicit_bounds == (
        *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    )
    operations = {
        point.attributes["messaging.operation.type"] for point in metrics["messaging.client.operation.duration"]
    }
    assert operations == {"send", "settle"}
    allowed = {
        *("messaging.system", "messaging.operation.name", "messaging.operation.type", "messaging.destination.name"),
        *("messaging.consumer.group.name", "error.type"),
    }
    for name, points in metrics.items():
        for point in points:
            assert point.attributes.keys() <= (
                allowed if name.startswith("messaging.") else allowed | {"ductape.event", "ductape.reason"}
            )
            assert point.attributes["messaging.system"] == "memory"


async def test_gauges_tell_what_is_in_hand_and_how_far_behind_the_group_is(watch: Watch) -> None:
    began, over = asyncio.Event(), asyncio.Event()

    async def handle(order: dict[str, int]) -> None:
        began.set()
        await over.wait()

    async with opened(watch, handle, concurrency=1, prefetch=16) as ductape:
        await ductape.event.publish_many(EVENT, [{"n": n} for n in range(50)])
        await began.wait()
        found = await asyncio.to_thread(watch.metrics)
        here = watch.metrics()
        in_hand = found["ductape.in_hand"][0].value
        assert in_hand >= 1
        assert in_hand + found["ductape.lag"][0].value == 50
        assert found["ductape.oldest"][0].value > 0
        assert "ductape.lag" not in here  # this thread is the one that would have to answer
        over.set()
        await until(lambda: watch.metrics()["ductape.in_hand"][0].value == 0)
    assert "ductape.in_hand" not in watch.metrics()


async def test_two_clients_of_a_process_are_both_measured(watch: Watch) -> None:
    other = Watch()
    other.middleware = OpenTelemetry(tracer_provider=watch.tracers, meter_provider=watch.meters)
    began, over = asyncio.Queue[None](), asyncio.Event()

    async def handle(order: dict[str, int]) -> None:
        began.put_nowait(None)
        await over.wait()

    async with opened(watch, handle) as first, opened(other, handle) as second:
        await first.event.publish(EVENT, {"n": 1})
        await second.event.publish_many(EVENT, [{"n": 2}, {"n": 3}])
        for _ in range(3):
            await began.get()
        found = await asyncio.to_thread(watch.metrics)
        over.set()
    assert [point.value for point in found["messaging.client.sent.messages"]] == [3]
    assert [point.value for point in found["messaging.client.consumed.messages"]] == [3]
    assert [point.value for point in found["ductape.in_hand"]] == [3]
    assert [point.value for point in found["ductape.lag"]] == [0]
    other.meters.shutdown()
    other.tracers.shutdown()


async def test_what_only_gives_back_is_not_called_an_ack(watch: Watch) -> None:
    async def handle(event: Event[Any]) -> None:
        if event.attempt == 1:
            raise ConnectionError

    async with opened(watch, handle, retry=Retry(delay=0.01)) as ductape:
        await ductape.event.publish(EVENT, {"n": 1})
        await until(lambda: len(watch.spans("settle")) == 2)
        metrics = watch.metrics()
    assert [span.name for span in watch.spans("settle")] == ["nack orders.new", "ack orders.new"]
    verbs = {point.attributes["messaging.operation.name"] for point in metrics["messaging.client.operation.duration"]}
    assert verbs == {"send", "nack", "ack"}


async def test_subscriptions_that_ended_are_forgotten_though_no_reader_collected(watch: Watch) -> None:
    async def handle(order: dict[str, int]) -> None:
        pass

    kept: list[weakref.ref[Any]] = []

    class Sites(Middleware):
        def subscriber(self, next: Any, site: SubscriberSite) -> Any:
            kept.append(weakref.ref(site.stats))
            return next

    for _ in range(4):
        async with opened(watch, handle, inner=Sites()):
            pass
    gc.collect()
    assert [each() is None for each in kept] == [True, True, True, False], "the last one until another opens"


async def test_what_is_sampled_out_is_still_passed_on() -> None:
    watch = Watch(sampler=ALWAYS_OFF)
    seen: list[str] = []

    async def handle(event: Event[Any]) -> None:
        seen.append(event.headers["traceparent"])

    async with opened(watch, handle) as ductape:
        await ductape.event.publish(EVENT, {"n": 1})
        await until(lambda: seen)
    assert int(seen[0][-2:], 16) & 1 == 0
    assert watch.spans() == []
    watch.meters.shutdown()


async def test_log_records_name_their_trace(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    handled = asyncio.Event()

    async def handle(order: dict[str, int]) -> None:
        logging.getLogger("app").warning("billed")
        handled.set()

    caplog.handler.addFilter(fields := TraceFields())
    try:
        async with opened(watch, handle) as ductape:
            await ductape.event.publish(EVENT, {"n": 1})
            await handled.wait()
        logging.getLogger("app").warning("outside")
    finally:
        caplog.handler.removeFilter(fields)
    billed, outside = (record for record in caplog.records if record.name == "app")
    assert int(billed.trace_id, 16) in ids(watch.spans("process"))  # type: ignore[attr-defined]  # the filter's fields
    assert int(billed.span_id, 16) == watch.spans("process")[0].get_span_context().span_id  # type: ignore[attr-defined]
    assert outside.trace_id == ""  # type: ignore[attr-defined]


async def test_retry_later_is_an_answer_and_no_error(watch: Watch) -> None:
    async def handle(event: Event[Any]) -> None:
        if event.attempt == 1:
            raise RetryLater(0.01)

    async with opened(watch, handle) as ductape:
        await ductape.event.publish(EVENT, {"n": 1})
        await until(lambda: len(watch.spans("process")) == 2)
    first, second = watch.spans("process")
    assert (first.status.status_code, second.status.status_code) == (StatusCode.UNSET, StatusCode.UNSET)
    assert attributes(first)["ductape.outcome"] == "retry-later"
    assert not {"error.type", "ductape.outcome"} & attributes(second).keys()
    assert "error.type" not in attributes(first)
    [duration] = watch.metrics()["messaging.process.duration"]
    assert (duration.count, "error.type" in duration.attributes) == (2, False)


async def test_a_handler_that_its_timeout_ended_is_told_from_one_that_a_shutdown_ended(watch: Watch) -> None:
    async def handle(order: dict[str, int]) -> None:
        await asyncio.get_running_loop().create_future()

    async with opened(watch, handle, timeout=0.05, retry=Retry(attempts=1)) as ductape:
        await ductape.event.publish(EVENT, {"n": 1})
        await until(lambda: watch.metrics().get("ductape.dead_letters"))
    async with opened(watch, handle) as ductape:
        await ductape.event.publish(EVENT, {"n": 1})
        await until(lambda: watch.metrics()["ductape.in_hand"][0].value)
        await ductape.close(grace=0.01)
    kinds = ["ductape.errors.HandlerTimeout", "asyncio.exceptions.CancelledError"]
    assert [attributes(span)["error.type"] for span in watch.spans("process")] == kinds
    assert {span.status.status_code for span in watch.spans("process")} == {StatusCode.ERROR}
    durations = watch.metrics()["messaging.process.duration"]
    assert [point.attributes["error.type"] for point in durations] == kinds


async def test_a_publish_that_is_cancelled_ends_its_span(watch: Watch) -> None:
    sending = asyncio.Event()

    class Stuck(Middleware):
        def publisher(self, next: Any, site: PublisherSite) -> Any:
            async def publish(message: Message) -> Receipt:
                sending.set()
                await asyncio.get_running_loop().create_future()
                raise AssertionError

            return publish

    async with opened(watch, inner=Stuck()) as ductape:
        publishing = asyncio.ensure_future(ductape.event.publish(EVENT, {"n": 1}))
        await sending.wait()
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
    [send] = watch.spans("send")
    assert attributes(send)["error.type"] == "asyncio.exceptions.CancelledError"
    assert "messaging.message.id" in attributes(send)


async def test_a_propagator_that_fails_leaves_no_span_open() -> None:
    class Broken(TraceContextTextMapPropagator):
        def inject(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("no way")

    watch = Watch(propagator=Broken())
    async with opened(watch) as ductape:
        with pytest.raises(RuntimeError):
            await ductape.event.publish(EVENT, {"n": 1})
    [send] = watch.spans("send")
    assert attributes(send)["error.type"] == "RuntimeError"
    watch.meters.shutdown()


async def test_what_a_handler_leaves_attached_does_not_reach_the_next_one(watch: Watch) -> None:
    seen: list[object] = []

    async def handle(order: dict[str, int]) -> None:
        seen.append(baggage.get_baggage("left"))
        context.attach(baggage.set_baggage("left", "behind"))

    async with opened(watch, handle, concurrency=1) as ductape:
        await ductape.event.publish_many(EVENT, [{"n": 1}, {"n": 2}])
        await until(lambda: len(seen) == 2)
    assert seen == [None, None]


async def test_a_context_in_headers_as_http_libraries_write_them_is_continued(watch: Watch) -> None:
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    handled = asyncio.Event()

    async def handle(order: dict[str, int]) -> None:
        handled.set()

    async with opened(watch, handle) as ductape:
        await ductape.event.publish(EVENT, {"n": 1}, headers={"Traceparent": given})
        await handled.wait()
    [send], [process] = watch.spans("send"), watch.spans("process")
    assert send.kind is SpanKind.CLIENT, "the application's own context stays"
    assert process.parent is not None
    assert f"{process.parent.span_id:016x}" == "b7ad6b7169203331"


async def test_durations_have_exemplars_that_name_their_spans(watch: Watch) -> None:
    handled = asyncio.Event()

    async def handle(order: dict[str, int]) -> None:
        handled.set()

    async with opened(watch, handle, prefetch=8) as ductape:
        await ductape.event.publish(EVENT, {"n": 1})
        await handled.wait()
        await until(lambda: watch.spans("process"))
        metrics = watch.metrics()
    [send], [process] = watch.spans("send"), watch.spans("process")
    [processed] = metrics["messaging.process.duration"]
    sending = [
        point
        for point in metrics["messaging.client.operation.duration"]
        if point.attributes["messaging.operation.type"] == "send"
    ]
    assert [each.span_id for each in processed.exemplars] == [process.get_span_context().span_id]
    assert [each.span_id for point in sending for each in point.exemplars] == [send.get_span_context().span_id]


async def test_a_lag_that_cannot_be_told_hides_no_other(watch: Watch) -> None:
    async def unable() -> int:
        raise OSError("the broker is away")

    async def able() -> int:
        return 7

    async def never() -> int:
        return int(await asyncio.get_running_loop().create_future())

    for event, lag in (("orders:a", unable), ("orders:b", able), ("orders:c", never), ("orders:d", never)):
        names = {"product": "shop", "env": "dev", "provider": "REDIS", "event": event, "channel": event, "group": "g"}
        site = SubscriberSite(**names, batch=False, stats=lambda: {"queued": 1.0}, lag=lag)
        watch.middleware.subscriber(nothing, site)
    began = asyncio.get_running_loop().time()
    found = await asyncio.to_thread(watch.metrics)
    assert [(point.value, point.attributes["ductape.event"]) for point in found["ductape.lag"]] == [(7, "orders:b")]
    assert asyncio.get_running_loop().time() - began < 2 * LAG_SECONDS, "they are waited for together"


async def test_a_failed_publish_is_an_error_of_its_class(watch: Watch) -> None:
    class Broken(Middleware):
        def publisher(self, next: Any, site: PublisherSite) -> Any:
            async def publish(message: Message) -> Receipt:
                raise PublishError("PUBLISH_FAILED", f"no way with {TOKEN}", stored="no")

            return publish

    async with opened(watch, inner=Broken()) as ductape:
        with pytest.raises(PublishError):
            await ductape.event.publish(EVENT, {"n": 1})
    [send] = watch.spans("send")
    assert send.status.status_code is StatusCode.ERROR
    assert attributes(send)["error.type"] == "ductape.errors.PublishError"
    assert TOKEN not in send.to_json()
    [sent] = watch.metrics()["messaging.client.sent.messages"]
    assert sent.attributes["error.type"] == "ductape.errors.PublishError"


def test_it_is_found_by_its_name_and_nothing_is_imported_without_it() -> None:
    program = (
        "import asyncio, sys, ductape\n"
        "asyncio.run(ductape.Ductape(product='shop', env='dev').open())\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)\n"
        "asyncio.run(ductape.Ductape(product='shop', env='dev', middleware=['opentelemetry']).open())\n"
        "assert 'opentelemetry.trace' in sys.modules\n"
        "assert not any(name.startswith('opentelemetry.sdk') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_an_sdk_contexts_pass_through_and_one_that_is_set_later_is_used() -> None:
    program = """
import asyncio
from opentelemetry import context, propagate, trace
from ductape import Ductape, Event

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

async def main():
    arrived = asyncio.Queue()

    async def handle(event: Event) -> None:
        span = trace.get_current_span().get_span_context()
        await arrived.put((event.headers.get("traceparent"), f"{span.trace_id:032x}"[:4]))

    async with Ductape(product="shop", env="dev", middleware=["opentelemetry"]) as ductape:
        await ductape.broker.create(tag="orders", envs=[{"slug": "dev", "type": "MEMORY"}])
        await ductape.broker.topic.create(tag="orders:new")
        await ductape.event.subscribe("orders:new", callback=handle)
        publisher = await ductape.event.publisher("orders:new")
        await publisher.publish({})
        print(*await arrived.get())
        token = context.attach(propagate.extract({"traceparent": GIVEN}))
        await publisher.publish({})
        print(*await arrived.get())
        context.detach(token)
        from opentelemetry.sdk.trace import TracerProvider
        trace.set_tracer_provider(TracerProvider())
        await publisher.publish({})
        given, active = await arrived.get()
        print(given[3:7] == active != "0000")

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "None 0000",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 0af7",
        "True",
    ]
