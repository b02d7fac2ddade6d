"""OpenTelemetry for ductape: ``Ductape(…, middleware=["opentelemetry"])``."""

from ._logs import TraceFields
from ._middleware import OpenTelemetry

__all__ = ["OpenTelemetry", "TraceFields"]
