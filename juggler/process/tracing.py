"""Spans of OpenTelemetry, and their W3C traceparents.

There are spans if the program has set a tracer provider. Nothing is imported here: without OpenTelemetry in the program
there cannot be a provider.
"""

from __future__ import annotations

import re
import sys
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeAlias

NAME = "juggler"
"""Name of the instrumentation, and of the system in the attributes of spans."""

Kind: TypeAlias = Literal["CLIENT", "SERVER", "PRODUCER", "CONSUMER"]

_parse = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})").fullmatch


class Tracer:
    """Makes the spans of juggler."""

    def __init__(self, otel: Any, provider: Any) -> None:
        """Use the module ``opentelemetry.trace`` and a tracer provider."""
        self._otel = otel
        self.provider = provider
        self._tracer = provider.get_tracer(NAME)

    def begin(self, name: str, kind: Kind, attributes: dict[str, Any], trace: str | None = None) -> Span:
        """Begin a span.

        Args:
            name: its name.
            kind: its kind.
            attributes: its attributes.
            trace: traceparent of its parent; empty for none. Default: the current span.
        """
        options = self._options(kind, attributes, trace)
        return Span(self._otel, self._tracer.start_span(name, **options))

    def within(
        self, name: str, kind: Kind, attributes: dict[str, Any], trace: str | None = None
    ) -> AbstractContextManager[Any]:
        """Return a context manager whose span is the current one; it records exceptions. Arguments as in `begin`."""
        context: AbstractContextManager[Any] = self._tracer.start_as_current_span(
            name, **self._options(kind, attributes, trace)
        )
        return context

    def _options(self, kind: Kind, attributes: dict[str, Any], trace: str | None) -> dict[str, Any]:
        context = None if trace is None else self._context_of(trace)
        return {"context": context, "kind": self._otel.SpanKind[kind], "attributes": attributes}

    def _context_of(self, trace: str) -> Any:
        otel = self._otel
        parsed = _parse(trace)
        if parsed is None:
            return otel.set_span_in_context(otel.INVALID_SPAN)
        trace_id, span_id, flags = (int(part, 16) for part in parsed.groups())
        parent = otel.SpanContext(trace_id, span_id, is_remote=True, trace_flags=otel.TraceFlags(flags))
        return otel.set_span_in_context(otel.NonRecordingSpan(parent))


class Span:
    """A span in progress.

    Attributes:
        trace: its traceparent.
    """

    __slots__ = ("_otel", "_span", "trace")

    def __init__(self, otel: Any, span: Any) -> None:
        self._otel = otel
        self._span = span
        self.trace = _traceparent(span)

    def current(self) -> AbstractContextManager[Any]:
        """Return a context manager within which the span is the current one. It does not end the span."""
        context: AbstractContextManager[Any] = self._otel.use_span(
            self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False
        )
        return context

    def end(self, error: str = "") -> None:
        """End the span. With ``error``, the type of an error, its status is one. Idempotent."""
        if error and self._span.is_recording():
            self._span.set_attribute("error.type", error)
            self._span.set_status(self._otel.StatusCode.ERROR, error)
        if self._span.is_recording():
            self._span.end()


tracer: Tracer | None = None
"""What `find_tracer` has found. Hot paths read it: a server looks for a tracer when it is created."""


def find_tracer() -> Tracer | None:
    """Return the tracer of this process; ``None`` if the program has set no tracer provider."""
    global tracer  # as OpenTelemetry has one provider per process
    otel = _imported()
    if otel is None:
        return None
    provider = otel.get_tracer_provider()
    if isinstance(provider, (otel.ProxyTracerProvider, otel.NoOpTracerProvider)):
        return None
    if tracer is None or tracer.provider is not provider:
        tracer = Tracer(otel, provider)
    return tracer


def current_trace() -> str:
    """Return the traceparent of the current span; empty without one."""
    otel = _imported()
    return "" if otel is None else _traceparent(otel.get_current_span())


def log_fields(trace: str) -> dict[str, str]:
    """Return the fields of log lines for a traceparent, ``trace_id`` and ``span_id``; none if it is malformed."""
    parsed = _parse(trace)
    return {} if parsed is None else {"trace_id": parsed[1], "span_id": parsed[2]}


def _imported() -> Any | None:
    """Return the module ``opentelemetry.trace`` if the program has imported it: completely, not just in a thread."""
    module: Any = sys.modules.get("opentelemetry.trace")
    return module if hasattr(module, "__all__") else None  # the last name that the module defines


def _traceparent(span: Any) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}" if context.is_valid else ""
