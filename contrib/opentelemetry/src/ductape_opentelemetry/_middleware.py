"""The middleware: which spans and records are made, and when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from time import perf_counter, time_ns
from typing import Any

from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.metrics import MeterProvider
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
    get_tracer,
    set_span_in_context,
)

from ductape import Event, Message, Middleware, PublisherSite, Receipt, RetryLater, SubscriberSite
from ductape.adapter import Delivery, Settlement, Verdict

from . import _conventions as c
from ._carrier import NOWHERE, Carrier, span_context
from ._metrics import Instruments

__all__ = ["OpenTelemetry"]

Publishing = Callable[[Message], Awaitable[Receipt]]
Subscribing = Callable[[Any], Awaitable[object]]

_FAILED = Status(StatusCode.ERROR)


class OpenTelemetry(Middleware):
    """Spans and metrics by the semantic conventions for messaging, v1.44.0.

    The publisher's context travels in the message's own headers, so a consumer in another language continues the trace.
    Retries, dead letters and replays keep it: every attempt is a span of its own in the publisher's trace. Payloads,
    session tokens and texts of errors are never recorded.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagator: TextMapPropagator | None = None,
        parent: bool = True,
        settle: bool = True,
    ) -> None:
        """Choose providers and shape.

        Args:
            tracer_provider: Instead of the global one.
            meter_provider: Instead of the global one.
            propagator: How the context is written into headers; None: the global one, as `OTEL_PROPAGATORS` says.
            parent: Whether the span of a handler is a child of the publisher's; False: a trace of its own, with a link.
                A batch always has links, since it has many publishers.
            settle: Whether every call that settles messages is a span, with links to their publishers.
        """
        ours = "ductape-opentelemetry"
        self._start = get_tracer(ours, version(ours), tracer_provider, c.SCHEMA).start_span
        self._instruments = Instruments(meter_provider)
        self._carrier = Carrier(propagator)
        self._parent, self._settle = parent, settle
        self._places: dict[tuple[str, ...], _Place] = {}

    # -- producers

    def publisher(self, next: Publishing, site: PublisherSite) -> Publishing:
        """Make a span for every message, and put its context into the headers."""
        system = c.system_of(site.provider)
        name = f"{system.send} {site.channel}"
        alike = _base(system, system.send, site.channel)
        measured = {**alike, c.OPERATION_TYPE: "send"}
        constant = {**measured, **_ours(system, site)}
        start, extract, inject, located = self._start, self._carrier.extract, self._carrier.inject, system.located
        tallies, duration = self._instruments.sent, self._instruments.operation.record
        sent = tallies.of(alike)

        async def publish(message: Message) -> Receipt:
            given = extract(message.headers)
            own = None if given is NOWHERE else span_context(given)
            if own is None:
                span = start(name, None, SpanKind.PRODUCER, constant)
            else:  # the application gave the message a context of its own: it stays
                span = start(name, None, SpanKind.CLIENT, constant, [Link(own)])
            # Without an SDK the caller's context goes on, and mostly that is empty: there is nothing to tell.
            within = get_current() if span is INVALID_SPAN else set_span_in_context(span)
            outcome, count = measured, sent
            began = perf_counter()
            try:
                if within:
                    if own is None:
                        inject(message.headers, within)
                    if span.is_recording():
                        span.set_attributes(_facts(system, message.id, message.key))
                receipt = await next(message)
                if located and span.is_recording():
                    span.set_attributes(c.place(receipt.position))
            except BaseException as error:
                failure = _failed(span, error)
                outcome, count = {**measured, **failure}, tallies.of({**alike, **failure})
                raise
            finally:
                duration(perf_counter() - began, outcome, within)
                count.number += 1
                if within:
                    span.end()
            return receipt

        return publish

    # -- consumers

    def subscriber(self, next: Subscribing, site: SubscriberSite) -> Subscribing:
        """Make a span for every handler call, active while it runs."""
        place = self._place(site)
        self._instruments.watch(site, place.gauged)
        begin = self._several(place) if site.batch else self._one(place)
        record, measured = self._instruments.process.record, place.measured

        async def handle(handed: Any) -> object:
            span, within = begin(handed)
            token = attach(within) if within else None
            outcome = measured
            began = perf_counter()
            try:
                return await next(handed)
            except BaseException as error:
                outcome = {**measured, **_failed(span, error)}
                raise
            finally:
                record(perf_counter() - began, outcome, within)
                if token is not None:
                    detach(token)
                    span.end()

        return handle

    def _one(self, place: _Place) -> Callable[[Event[Any]], tuple[Span, Context]]:
        """Return what begins the span of one message; with it, the context that its handler runs in."""
        start, extract, parent = self._start, self._carrier.extract, self._parent
        name, constant, system = place.name, place.constant, place.system
        located = system.located

        def begin(event: Event[Any]) -> tuple[Span, Context]:
            came = extract(event.raw_headers)
            attributes = {**constant, **c.place(event.position)} if located else constant
            if parent:
                span = start(name, came, SpanKind.CONSUMER, attributes)
            else:
                span = start(name, NOWHERE, SpanKind.CONSUMER, attributes, _links([came]))
            if span is INVALID_SPAN:  # without an SDK what came goes on
                return span, came
            if span.is_recording():
                span.set_attributes({**_facts(system, event.id, event.key), c.ATTEMPT: event.attempt})
            return span, set_span_in_context(span, came)

        return begin

    def _several(self, place: _Place) -> Callable[[Sequence[Event[Any]]], tuple[Span, Context]]:
        """Return the same for a batch."""
        start, extract = self._start, self._carrier.extract

        def begin(events: Sequence[Event[Any]]) -> tuple[Span, Context]:
            links = _links([extract(event.raw_headers) for event in events])
            attributes = {**place.constant, c.BATCH_COUNT: len(events)}
            span = start(place.name, NOWHERE, SpanKind.CONSUMER, attributes, links)
            return span, NOWHERE if span is INVALID_SPAN else set_span_in_context(span, NOWHERE)

        return begin

    # -- observers

    def received(self, deliveries: Sequence[Delivery], site: SubscriberSite) -> None:
        """Count what was delivered."""
        count = len(deliveries)
        self._instruments.consumed.of(self._place(site).received).number += count

    def settled(self, settlements: Sequence[Settlement], seconds: float, site: SubscriberSite) -> None:
        """Make a span of a call that settled, and count what is to be tried again."""
        place = self._place(site)
        verdicts = [each.verdict for each in settlements]
        name, measured = place.settling if Verdict.ACK in verdicts else place.returning
        self._instruments.operation.record(seconds, measured)
        retried = verdicts.count(Verdict.RETRY)
        if retried:
            self._instruments.retries.add(retried, place.gauged)
        if not self._settle:
            return
        end = time_ns()
        attributes = {**measured, c.EVENT: site.event, c.ENVIRONMENT: site.env, c.BATCH_COUNT: len(settlements)}
        begin = end - int(seconds * 1e9)
        span = self._start(name, NOWHERE, SpanKind.CLIENT, attributes, None, begin)
        if span.is_recording():
            for link in _links([self._carrier.extract(each.delivery.headers) for each in settlements]):
                span.add_link(link.context)
        span.end(end)

    def moved(self, event: Event[Any], where: str, reason: str, site: SubscriberSite) -> None:
        """Count dead letters, and retries that were stored anew."""
        place = self._place(site)
        if where == "dead":
            self._instruments.dead.add(1, {**place.gauged, c.REASON: reason})
        else:
            self._instruments.retries.add(1, place.gauged)

    def _place(self, site: SubscriberSite) -> _Place:
        key = (site.provider, site.env, site.event, site.group, site.channel)  # products may share names
        found = self._places.get(key)
        if found is None:
            found = self._places[key] = _Place(site)
        return found


class _Place:
    """What is constant for all messages of a subscription."""

    def __init__(self, site: SubscriberSite) -> None:
        self.system = system = c.system_of(site.provider)
        group = {system.group: site.group}
        self.name = f"{system.process} {site.channel}"
        self.measured = {**_base(system, system.process, site.channel), **group}
        self.received = {**_base(system, "receive", site.channel), **group}
        self.settling, self.returning = self._call(site, system.settle), self._call(site, "nack")
        """Name and attributes of a call that settles; the second is that of one that only gives back."""
        self.constant: dict[str, Any] = {
            **self.measured,
            c.OPERATION_TYPE: "process",
            **_ours(system, site),
        }
        self.gauged = {c.SYSTEM: system.name, c.DESTINATION: site.channel, **group, c.EVENT: site.event}

    def _call(self, site: SubscriberSite, verb: str) -> tuple[str, dict[str, Any]]:
        base = _base(self.system, verb, site.channel)
        return f"{verb} {site.channel}", {**base, c.OPERATION_TYPE: "settle", self.system.group: site.group}


def _base(system: c.System, operation: str, channel: str) -> dict[str, str]:
    return {c.SYSTEM: system.name, c.OPERATION_NAME: operation, c.DESTINATION: channel}


def _ours(system: c.System, site: PublisherSite | SubscriberSite) -> dict[str, str]:
    """What a span tells of its channel beside what metrics tell."""
    found = {c.EVENT: site.event, c.ENVIRONMENT: site.env}
    return {**found, system.routing: site.channel} if system.routing else found


def _facts(system: c.System, id: str, key: str | None) -> dict[str, str | int]:
    """What a span tells of its one message."""
    return {c.MESSAGE_ID: id, system.key: key} if system.key and key is not None else {c.MESSAGE_ID: id}


def _failed(span: Span, error: BaseException) -> dict[str, str]:
    """Tell a span how it ended; return what metrics tell of it."""
    if isinstance(error, RetryLater):  # an answer of the handler, no failure
        span.set_attribute(c.OUTCOME, "retry-later")
        return {}
    kind = c.error_type(error)
    span.set_attribute(c.ERROR_TYPE, kind)
    span.set_status(_FAILED)
    return {c.ERROR_TYPE: kind}


def _links(contexts: Sequence[Context]) -> list[Link]:
    return [Link(found) for found in map(span_context, contexts) if found is not None]
