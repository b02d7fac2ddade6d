"""A message's headers as the carrier of its context."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagate import get_global_textmap
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import SpanContext

__all__ = ["NOWHERE", "Carrier", "span_context"]

NOWHERE = Context()
"""What a message's context is read into: a span that was active when the application subscribed is not its parent."""


class _Headers(Getter[Mapping[str, str]]):
    """Reads headers, which are text; the API's own getter looks for lists first, and takes twice as long."""

    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        value = carrier.get(key)
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


_HEADERS = _Headers()


class Carrier:
    """Writes contexts into headers, and reads them, by the configured propagator."""

    def __init__(self, propagator: TextMapPropagator | None) -> None:
        """Begin; None: the global one, as it is at each call."""
        self._textmap = get_global_textmap if propagator is None else lambda: propagator
        self._read_by: TextMapPropagator | None = None
        self._fields: frozenset[str] = frozenset()
        self._known: frozenset[str] = frozenset()

    def inject(self, headers: dict[str, str], of: Context) -> None:
        """Write a context; what is there is replaced."""
        self._textmap().inject(headers, of)

    def extract(self, headers: Mapping[str, str]) -> Context:
        """Read a context; `NOWHERE` itself if the headers have none."""
        textmap = self._textmap()
        if textmap is not self._read_by:
            self._read_by, self._fields = textmap, frozenset(textmap.fields)
            # `Traceparent`: as HTTP libraries write names, and through them producers on NATS, for one.
            self._known = self._fields.union(field.title() for field in self._fields)
        # Most of what has no context is not even looked at: reading costs more than all the rest without an SDK.
        if self._known.isdisjoint(headers):
            return NOWHERE
        if self._fields.isdisjoint(headers):
            headers = {name.lower(): value for name, value in headers.items()}
        return textmap.extract(headers, NOWHERE, _HEADERS)


def span_context(of: Context) -> SpanContext | None:
    """Return that of a context's span; None if it has none."""
    found = trace.get_current_span(of).get_span_context()
    return found if found.is_valid else None
