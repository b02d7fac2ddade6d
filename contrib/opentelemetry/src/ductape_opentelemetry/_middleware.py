"""The middleware: which spans and records are made, and when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from time import perf_counter, time_ns
from typing import Any

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TracerProvider

from ductape import Event, Message, Middleware, PublisherSite, Receipt, SubscriberSite
from ductape.adapter import Delivery, Settlement, Verdict

from . import _conventions as c
from ._metrics import Instruments

__all__ = ["OpenTelemetry"]

Publishing = Callable[[Message], Awaitable[Receipt]]
Subscribing = Callable[[Any], Awaitable[object]]

_NOWHERE = Context()
"""What a message's context is read into: a span that was active when the application subscribed is not its parent."""
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
        self._start = trace.get_tracer(ours, version(ours), tracer_provider, c.SCHEMA).start_span
        self._instruments = Instruments(meter_provider)
        self._propagator, self._parent = propagator, parent
        self._settle = settle
        self._read_by: TextMapPropagator | None = None
        self._carriers: frozenset[str] = frozenset()
        self._places: dict[tuple[str, str, str, str], _Place] = {}

    # -- producers

    def publisher(self, next: Publishing, site: PublisherSite) -> Publishing:
        """Make a span for every message, and put its context into the headers."""
        system = c.system_of(site.provider)
        name = f"{system.send} {site.channel}"
        alike = _base(system, system.send, site.channel)
        constant = {**alike, c.OPERATION_TYPE: "send", c.EVENT: site.event, c.ENVIRONMENT: site.env}
        start, inject, key = self._start, self._inject, system.key
        tallies, duration = self._instruments.sent, self._instruments.operation.record
        sent = tallies.of(alike)
        measured = {**alike, c.OPERATION_TYPE: "send"}

        async def publish(message: Message) -> Receipt:
            attributes: dict[str, str | int] = {**constant, c.MESSAGE_ID: message.id}
            if key and message.key is not None:
                attributes[key] = message.key
            own = self._creation(message.headers)
            if own is None:
                span = start(name, None, SpanKind.PRODUCER, attributes)
                # Without an SDK, and outside of any context, there is nothing to tell.
                if span is not trace.INVALID_SPAN or context.get_current():
                    inject(message.headers, trace.set_span_in_context(span))
            else:  # the application gave the message a context of its own: it stays
                span = start(name, None, SpanKind.CLIENT, attributes, [Link(own)])
            began = perf_counter()
            failure: dict[str, str] = {}
            try:
                receipt = await next(message)
                if span.is_recording():
                    span.set_attributes(c.place(system, receipt.position))
            except BaseException as error:
                failure = _failed(span, error)
                raise
            finally:
                duration(perf_counter() - began, {**measured, **failure} if failure else measured)
                (tallies.of({**alike, **failure}) if failure else sent).number += 1
                span.end()
            return receipt

        return publish

    # -- consumers

    def subscriber(self, next: Subscribing, site: SubscriberSite) -> Subscribing:
        """Make a span for every handler call, active while it runs."""
        place = self._place(site)
        self._instruments.watch(site, place.gauged)
        if site.batch:
            return self._batches(next, place)
        start, extract = self._start, self._extract
        record, constant, measured, name = self._instruments.process.record, place.constant, place.measured, place.name
        system, parent = place.system, self._parent

        async def handle(event: Event[Any]) -> object:
            came = extract(event.headers)
            attributes = {**constant, c.MESSAGE_ID: event.id, c.ATTEMPT: event.attempt}
            if system.key:
                attributes.update(c.place(system, event.position))
                if event.key is not None:
                    attributes[system.key] = event.key
            if parent:
                span = start(name, came, SpanKind.CONSUMER, attributes)
            else:
                span = start(name, _NOWHERE, SpanKind.CONSUMER, attributes, _links([came]))
            return await _run(next, event, span, came, record, measured)

        return handle

    def _batches(self, next: Subscribing, place: _Place) -> Subscribing:
        start, extract, record = self._start, self._extract, self._instruments.process.record

        async def handle(events: Sequence[Event[Any]]) -> object:
            links = _links([extract(event.headers) for event in events])
            attributes: dict[str, Any] = {**place.constant, c.BATCH_COUNT: len(events)}
            span = start(place.name, _NOWHERE, SpanKind.CONSUMER, attributes, links)
            return await _run(next, events, span, _NOWHERE, record, place.measured)

        return handle

    # -- observers

    def received(self, deliveries: Sequence[Delivery], site: SubscriberSite) -> None:
        """Count what was delivered."""
        count = len(deliveries)
        self._instruments.consumed.of(self._place(site).received).number += count

    def settled(self, settlements: Sequence[Settlement], seconds: float, site: SubscriberSite) -> None:
        """Make a span of a call that settled, and count what is to be tried again."""
        place = self._place(site)
        gone = all(each.verdict is not Verdict.ACK for each in settlements)
        name, measured = place.returning if gone else place.settling
        self._instruments.operation.record(seconds, measured)
        retried = sum(each.verdict is Verdict.RETRY for each in settlements)
        if retried:
            self._instruments.retries.add(retried, place.gauged)
        if not self._settle:
            return
        end = time_ns()
        attributes = {**measured, c.EVENT: site.event, c.ENVIRONMENT: site.env, c.BATCH_COUNT: len(settlements)}
        begin = end - int(seconds * 1e9)
        span = self._start(name, _NOWHERE, SpanKind.CLIENT, attributes, None, begin)
        if span.is_recording():
            for each in settlements:
                creation = self._creation(each.delivery.headers)
                if creation is not None:
                    span.add_link(creation)
        span.end(end)

    def moved(self, event: Event[Any], where: str, reason: str, site: SubscriberSite) -> None:
        """Count dead letters, and retries that were stored anew."""
        place = self._place(site)
        if where == "dead":
            self._instruments.dead.add(1, {**place.gauged, c.REASON: reason})
        else:
            self._instruments.retries.add(1, place.gauged)

    # -- context

    def _textmap(self) -> TextMapPropagator:
        return self._propagator or propagate.get_global_textmap()

    def _inject(self, headers: dict[str, str], of: Context) -> None:
        self._textmap().inject(headers, of)

    def _extract(self, headers: Mapping[str, str]) -> Context:
        textmap = self._textmap()
        if textmap is not self._read_by:
            self._read_by, self._carriers = textmap, frozenset(textmap.fields)
        # Most of what has no context is not even looked at: reading costs more than all the rest without an SDK.
        return _NOWHERE if self._carriers.isdisjoint(headers) else textmap.extract(headers, _NOWHERE)

    def _creation(self, headers: Mapping[str, str]) -> SpanContext | None:
        came = self._extract(headers)
        return None if came is _NOWHERE else _span_context(came)

    def _place(self, site: SubscriberSite) -> _Place:
        key = (site.provider, site.env, site.event, site.group)
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
            c.EVENT: site.event,
            c.ENVIRONMENT: site.env,
        }
        self.gauged = {c.SYSTEM: system.name, c.DESTINATION: site.channel, **group, c.EVENT: site.event}

    def _call(self, site: SubscriberSite, verb: str) -> tuple[str, dict[str, Any]]:
        base = _base(self.system, verb, site.channel)
        return f"{verb} {site.channel}", {**base, c.OPERATION_TYPE: "settle", self.system.group: site.group}


def _base(system: c.System, operation: str, channel: str) -> dict[str, str]:
    return {c.SYSTEM: system.name, c.OPERATION_NAME: operation, c.DESTINATION: channel}


async def _run(
    next: Subscribing,
    handed: object,
    span: Span,
    came: Context,
    record: Callable[[float, Mapping[str, str]], None],
    measured: Mapping[str, str],
) -> object:
    """Call the handler inside its span."""
    told = span is not trace.INVALID_SPAN or came is not _NOWHERE
    token = context.attach(trace.set_span_in_context(span, came)) if told else None
    began = perf_counter()
    failure: dict[str, str] = {}
    try:
        return await next(handed)
    except BaseException as error:
        failure = _failed(span, error)
        raise
    finally:
        if token is not None:
            context.detach(token)
        record(perf_counter() - began, {**measured, **failure} if failure else measured)
        span.end()


def _failed(span: Span, error: BaseException) -> dict[str, str]:
    kind = c.error_type(error)
    span.set_attribute(c.ERROR_TYPE, kind)
    span.set_status(_FAILED)
    return {c.ERROR_TYPE: kind}


def _links(contexts: Sequence[Context]) -> list[Link]:
    return [Link(found) for found in map(_span_context, contexts) if found is not None]


def _span_context(of: Context) -> SpanContext | None:
    found = trace.get_current_span(of).get_span_context()
    return found if found.is_valid else None
