"""Log records that name their trace."""

from __future__ import annotations

import logging

from opentelemetry import trace

__all__ = ["TraceFields"]


class TraceFields(logging.Filter):
    """Gives every record `trace_id` and `span_id`, in hex, of the span it was logged in; empty outside of one.

    Attach it to a handler, for what the kernel and libraries log too: ``handler.addFilter(TraceFields())``, and name
    the fields in its format: ``%(trace_id)s``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; lets every record pass."""
        context = trace.get_current_span().get_span_context()
        record.trace_id = trace.format_trace_id(context.trace_id) if context.is_valid else ""
        record.span_id = trace.format_span_id(context.span_id) if context.is_valid else ""
        return True
