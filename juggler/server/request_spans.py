"""The spans of requests: they begin when a CALL or PUB arrives, and are current while the handler has it.

So the log lines and spans of handlers belong to the trace of the request. See `juggler.process.tracing`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Protocol, TypeVar

from juggler.process import tracing
from juggler.process.tracing import NAME, Span, Tracer
from juggler.protocol.messages import Call, Message, Pub

_MAX_NAME = 512  # characters of a URI or channel, which clients choose


class _Request:
    """The span of the request that a connection handles, until what completes the request takes it."""

    __slots__ = ("span", "type")

    def __init__(self, type: type[Message], span: Span) -> None:
        self.type = type
        self.span: Span | None = span


_handled: ContextVar[_Request | None] = ContextVar("juggler.request", default=None)


class _Client(Protocol):
    address: str


_C = TypeVar("_C", bound=_Client)


def with_spans(handle: Callable[[_C, Message], None]) -> Callable[[_C, Message], None]:
    """Return a function that handles requests within their spans; without a tracer provider, the same function.

    Args:
        handle: handles a request of a connection.
    """
    tracer = tracing.tracer
    if tracer is None:
        return handle

    def handle_in_span(connection: _C, message: Message) -> None:
        if not isinstance(message, (Call, Pub)):
            handle(connection, message)
            return
        span = _begin(tracer, message, connection.address)
        request = _Request(type(message), span)
        token = _handled.set(request)
        try:
            with span.current():
                handle(connection, message)
        finally:
            _handled.reset(token)
            if request.span is not None:
                request.span.end()
                request.span = None  # for greenlets that the handler has started in this context

    return handle_in_span


def take_span(tracer: Tracer, message: Call | Pub, address: str) -> Span:
    """Return the span of a message that is processed. It belongs to the caller, who ends it.

    If the handler makes several messages of a request, the first one gets the span of the request.
    """
    request = _handled.get()
    if request is None or request.span is None or request.type is not type(message):
        return _begin(tracer, message, address)
    span, request.span = request.span, None
    return span


def fail_span(error: str) -> None:
    """Give the span of the request an error, unless it was taken.

    Args:
        error: type of the error.
    """
    request = _handled.get()
    if request is not None and request.span is not None:
        request.span.end(error)


def _begin(tracer: Tracer, message: Call | Pub, address: str) -> Span:
    if isinstance(message, Call):
        uri = message.uri[:_MAX_NAME]
        attributes = {"rpc.system": NAME, "rpc.method": uri, "client.address": address}
        return tracer.begin(uri, "SERVER", attributes, message.trace)
    attributes = {"messaging.system": NAME, "messaging.destination.name": message.channel[:_MAX_NAME]}
    attributes |= {"messaging.operation.type": "send", "messaging.operation.name": "publish"}
    return tracer.begin("publish", "PRODUCER", attributes, message.trace)
