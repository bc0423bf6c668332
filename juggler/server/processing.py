"""What happens to a message: the chain of handlers and, at its end, the standard behaviour.

Every message passes the server's handler, in both directions. A middleware wraps the next handler, and stops a message
by not calling it; raising `juggler.errors.Refused` stops it with a NACK.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeAlias

from juggler.broker import Done, PendingCall
from juggler.broker.names import GAP_CHANNEL, is_reserved, reserved
from juggler.broker.streams import CANCELLED
from juggler.errors import BrokerError, NackCode, Refused
from juggler.process import tracing
from juggler.process.tracing import Span, Tracer
from juggler.protocol import codec
from juggler.protocol.codec import StoredParts
from juggler.protocol.connection_events import SERVER_URIS
from juggler.protocol.messages import (
    Ack,
    Auth,
    Call,
    Cncl,
    Crdt,
    CustomType,
    Ends,
    Evnt,
    Message,
    MessageType,
    Nack,
    Part,
    Parts,
    Pub,
    Request,
    Res,
    Response,
    Sub,
    Unknown,
    Unsb,
    Wlcm,
    ack,
    nack,
)
from juggler.protocol.results import error_result
from juggler.server.connection import Connection, Context, Handler
from juggler.server.request_spans import take_span

__all__ = ["Context", "Handler", "Middleware", "chain", "process_message"]

Middleware: TypeAlias = Callable[[Handler], Handler]
"""Returns a handler that wraps the next one."""


def process_message(ctx: Context, connection: Connection, message: Message) -> None:
    """Do what a message asks for: the standard behaviour, and the last handler of a chain.

    A request goes to the broker, and this returns at once: its ACK or NACK follows when the broker has confirmed or
    refused it. A response goes out on the websocket.

    Args:
        ctx: not used.
        connection: the connection that sent the message or receives it.
        message: a request or a response. One of a registered response type is sent. One of a local type is ignored.

    Raises:
        Refused: the message exceeds a limit of the server or of the connection, or its type is unknown, or it is a
            request of a registered type, which a handler has to process.
    """
    _PROCESS.get(type(message), _process_custom)(connection, message)


def chain(*middlewares: Middleware, last: Handler = process_message) -> Handler:
    """Return one handler made of middlewares, the first one outermost, and ``last`` at the end."""
    handler = last
    for middleware in reversed(middlewares):
        handler = middleware(handler)
    return handler


class ServerCall(PendingCall):
    """A CALL in flight: the object through which its ACK and its result come up from the broker.

    Its owner is the connection, which abandons it when it closes. It keeps the UUID and URI of the message, not the
    arguments, which may be large and now belong to the broker.

    Attributes:
        awaits_ack: whether its ACK is held, see `juggler.server.held_acks`. Whatever implies it calls `imply_ack`.
    """

    __slots__ = ("_began", "_connection", "_is_over", "_uuid", "awaits_ack")

    def __init__(self, connection: Connection, message: Call) -> None:
        self.owner = self._connection = connection
        self.uri = message.uri
        self._uuid = message.uuid
        self._began = time.monotonic()
        self.awaits_ack = False
        self._is_over = False

    def is_for(self, uuid: str) -> bool:
        """Return whether this is the call with a UUID of the client's, and not over for it."""
        return self._uuid == uuid and not self._is_over

    def cancel(self, wait: bool) -> None:
        """Cancel the call. It keeps its place among the calls in flight until it is answered or expires.

        Args:
            wait: whether the client still wants its result; otherwise the call is over for the client.
        """
        if not wait:
            self._is_over = True
            if self.awaits_ack:
                self.imply_ack()
        self._connection.metrics.cancelled += 1
        self._connection.caller_broker.cancel(self)

    def on_stored(self, error: BrokerError | None) -> None:
        connection = self._connection
        if self._is_over:
            connection.answered()
        elif error is not None:
            connection.answer(
                Nack(for_=self._uuid, for_type=MessageType.CALL, uri=self.uri, code=error.code, message=error.reason)
            )
        elif connection.held_acks is None:
            connection.answer(Ack(for_=self._uuid, for_type=MessageType.CALL, uri=self.uri))
        else:
            self.awaits_ack = True
            connection.hold_ack(self)

    def acknowledge(self) -> None:
        """Send the ACK that was held, before something that does not imply it."""
        self.awaits_ack = False
        if self._connection.closed is None:
            self._connection.respond(Ack(for_=self._uuid, for_type=MessageType.CALL, uri=self.uri))

    def imply_ack(self) -> None:
        """Drop the ACK that is held: what is sent now implies it."""
        self.awaits_ack = False
        if self._connection.held_acks is not None:
            self._connection.held_acks.implied()

    def on_result(self, args: bytes, failed: bool | None) -> None:
        if self.awaits_ack:
            self.imply_ack()
        if self._is_over:
            return
        self._connection.metrics.observe_call(self.uri, time.monotonic() - self._began)
        self._connection.respond(Res(for_=self._uuid, uri=self.uri, args=args, failed=failed))

    def on_unqueued(self) -> None:
        self.on_result(CANCELLED, True)

    def on_expired(self) -> None:
        if self._is_over:
            return
        if self.awaits_ack:
            self.acknowledge()
        self._connection.metrics.expired += 1


class StreamCall(ServerCall):
    """A CALL whose client has asked for parts.

    Attributes:
        max_time: see `PendingCall.max_time`; the server option ``max_stream_time``.
    """

    __slots__ = ("_arrived", "_window", "max_time")

    def __init__(self, connection: Connection, message: Call, parts: Parts) -> None:
        super().__init__(connection, message)
        self.max_time = connection.options.max_stream_time  # type: ignore[misc]
        self._window = parts.window
        self._arrived = 0

    def on_stored(self, error: BrokerError | None) -> None:
        if self._arrived:
            self._connection.answered()  # the PART implied the ACK
        else:
            super().on_stored(error)

    def on_part(self, seq: int, args: bytes, joined: bool) -> None:
        if self.awaits_ack:
            self.imply_ack()
        if self._is_over:
            return
        limit = self._connection.options.write_limit
        if limit is not None and len(args) > limit - _PART_OVERHEAD:
            self.on_result(_too_large(len(args), limit), True)
            self.cancel(wait=False)
            return
        self._arrived = seq - 1 + (codec.count_parts(args) if joined else 1)
        self._connection.respond(Part(for_=self._uuid, seq=seq, args=args, joined=joined))

    def credit(self, until: int) -> None:
        """Pass on credit, for at most two windows after the last part: clients cannot make the server keep more."""
        self._connection.caller_broker.credit(self, min(until, self._arrived + 2 * self._window))


class _Traced(PendingCall):
    """What the calls have in common that have spans: from their arrival until they complete or are abandoned."""

    __slots__ = ()

    span: Span

    def on_stored(self, error: BrokerError | None) -> None:
        if error is not None:
            self.span.end(str(error.code))
        super().on_stored(error)  # type: ignore[safe-super]

    def on_result(self, args: bytes, failed: bool | None) -> None:
        self.span.end("CallFailed" if failed else "")
        super().on_result(args, failed)  # type: ignore[safe-super]

    def on_expired(self) -> None:
        self.span.end("Expired")
        super().on_expired()  # type: ignore[safe-super]

    def __del__(self) -> None:
        self.span.end("ConnectionClosed")


class _TracedCall(_Traced, ServerCall):
    __slots__ = ("span",)

    def __init__(self, connection: Connection, message: Call, tracer: Tracer) -> None:
        self.span = take_span(tracer, message, connection.address)
        super().__init__(connection, message)


class _TracedStream(_Traced, StreamCall):
    __slots__ = ("span",)

    def __init__(self, connection: Connection, message: Call, parts: Parts, tracer: Tracer) -> None:
        self.span = take_span(tracer, message, connection.address)
        super().__init__(connection, message, parts)


_PART_OVERHEAD = 200
"""Bytes of a PART beside what it carries, at most."""


def _too_large(size: int, limit: int) -> bytes:
    message = f"a part of the result has {size} bytes, the limit is {limit}"
    return error_result(message, "PartTooLarge", 413)


def _process_call(connection: Connection, message: Call) -> None:
    options = connection.options
    if connection.draining:
        raise Refused(NackCode.UNAVAILABLE, "the server is shutting down")
    if options.max_uri_length is not None and len(message.uri) > options.max_uri_length:
        raise _too_long("URI", len(message.uri), options.max_uri_length)
    if not 0 <= message.timeout <= options.max_call_timeout:
        expected = f"expected 0 to {options.max_call_timeout:g} s"
        raise Refused(NackCode.BAD_REQUEST, f"timeout: {expected}, got {message.timeout:.12g} s")
    if message.uri == options.list_uri:
        _answer_built_in(connection, message, connection.catalogue.text())
        return
    if message.uri == options.fleet_uri:
        _answer_built_in(connection, message, connection.catalogue.fleet())
        return
    if message.uri in SERVER_URIS:
        raise Refused(NackCode.FORBIDDEN, f"{message.uri!r} is called by servers only")
    if options.unknown_uris == "refuse" and not connection.catalogue.is_served(message.uri):
        raise Refused(NackCode.NOT_FOUND, f"no callee serves {message.uri!r}")
    by = connection.by
    if by is None:
        by = connection.identify()
    connection.unanswered += 1
    if message.parts is not None:
        _stream(connection, message, message.parts, by)
        return
    if tracing.tracer is None:
        call, trace = ServerCall(connection, message), message.trace
    else:
        call = _TracedCall(connection, message, tracing.tracer)
        trace = call.span.trace
    timeout = message.timeout or options.call_timeout
    broker = connection.caller_broker
    broker.call(message.uri, message.args, timeout, call, options.max_calls, options.max_call_bytes, by, None, trace)


def _stream(connection: Connection, message: Call, parts: Parts, by: bytes) -> None:
    """Register a call that asks for parts."""
    options = connection.options
    if tracing.tracer is None:
        call, trace = StreamCall(connection, message, parts), message.trace
    else:
        call = _TracedStream(connection, message, parts, tracing.tracer)
        trace = call.span.trace
    connection.caller_broker.call(
        message.uri,
        message.args,
        message.timeout or options.call_timeout,
        call,
        options.max_calls,
        options.max_call_bytes,
        by,
        StoredParts(parts.mode, parts.window),
        trace,
    )


def _answer_built_in(connection: Connection, message: Call, args: bytes) -> None:
    """Answer a call to a URI of the server's own."""
    result = Res(for_=message.uuid, uri=message.uri, args=args)
    if connection.held_acks is None:
        connection.respond(ack(message))
    connection.respond(result)


def _process_cncl(connection: Connection, message: Cncl) -> None:
    for call in connection.caller_broker.calls_of(connection):
        if isinstance(call, ServerCall) and call.is_for(message.for_):
            connection.respond(ack(message))
            call.cancel(message.wait)
            return
    raise Refused(NackCode.NOT_FOUND, f"no call {message.for_} is in flight")


def _process_crdt(connection: Connection, message: Crdt) -> None:
    for call in connection.caller_broker.calls_of(connection):
        if isinstance(call, StreamCall) and call.is_for(message.for_):
            call.credit(message.until)
            return


def _process_pub(connection: Connection, message: Pub) -> None:
    _check_channel(connection, message.channel)
    if is_reserved(message.channel):
        raise reserved(message.channel)
    broker, on_done, trace = connection.pubsub_broker, _answering(connection, message), message.trace
    if tracing.tracer is not None:
        on_done, trace = _tracing(take_span(tracing.tracer, message, connection.address), on_done)
    broker.publish(message.channel, message.uuid, message.args, on_done, trace)


def _tracing(span: Span, on_done: Done) -> tuple[Done, str]:
    """Return a callback that ends the span of a publication before it calls ``on_done``, and the trace."""

    def on_published(error: BrokerError | None) -> None:
        span.end("" if error is None else str(error.code))
        on_done(error)

    return on_published, span.trace


def _check_pattern(connection: Connection, pattern: str) -> None:
    options = connection.options
    if len(pattern) > options.max_pattern_length:
        raise _too_long("pattern", len(pattern), options.max_pattern_length)
    if (wildcards := pattern.count("*")) > options.max_wildcards:
        reason = f"pattern: expected at most {options.max_wildcards} wildcards (*), got {wildcards}"
        raise Refused(NackCode.BAD_REQUEST, reason)
    broker = connection.pubsub_broker
    count = broker.pattern_count(connection)
    if count >= options.max_patterns and not broker.is_subscribed(pattern, True, connection):
        raise Refused(NackCode.TOO_MANY_REQUESTS, f"{count} subscriptions to patterns exist already")


def _check_channel(connection: Connection, channel: str) -> None:
    limit = connection.options.max_channel_length
    if limit is not None and len(channel) > limit:
        raise _too_long("channel", len(channel), limit)


def _too_long(what: str, length: int, limit: int) -> Refused:
    return Refused(NackCode.BAD_REQUEST, f"{what}: expected at most {limit} characters, got {length}")


def _process_sub(connection: Connection, message: Sub) -> None:
    if message.is_check:
        connection.permit(message)
        return
    _check_channel(connection, message.channel)
    if is_reserved(message.channel) and (message.is_pattern or message.channel != GAP_CHANNEL):
        raise reserved(message.channel)
    broker = connection.pubsub_broker
    count = broker.subscription_count(connection)
    if count >= connection.options.max_subscriptions and not broker.is_subscribed(
        message.channel, message.is_pattern, connection
    ):
        raise Refused(NackCode.TOO_MANY_REQUESTS, f"{count} subscriptions exist already")
    if message.is_pattern:
        _check_pattern(connection, message.channel)
    broker.subscribe(message.channel, message.is_pattern, connection, _answering(connection, message))


def _process_unsb(connection: Connection, message: Unsb) -> None:
    broker = connection.pubsub_broker
    broker.unsubscribe(message.channel, message.is_pattern, connection, _answering(connection, message))


def _answering(connection: Connection, request: Request) -> Done:
    """Return the callback that answers a request which now goes to the broker."""
    connection.unanswered += 1

    def on_done(error: BrokerError | None) -> None:
        connection.answer(ack(request) if error is None else nack(request, error.code, error.reason))

    return on_done


def _process_response(connection: Connection, message: Response) -> None:
    connection.write(message)


def _process_welcome(connection: Connection, message: Wlcm) -> None:
    connection.welcome(message)


def _process_auth(connection: Connection, message: Auth) -> None:
    if connection.tokens is None:
        raise Refused(NackCode.NOT_IMPLEMENTED, "AUTH is not supported by this server")
    connection.tokens.renew(connection, message)


def _refuse_unknown(connection: Connection, message: Unknown) -> None:
    raise Refused(NackCode.NOT_IMPLEMENTED, f"message type {message.number} is unknown to this server")


def _process_custom(connection: Connection, message: Message) -> None:
    """A registered type that no handler has stopped. Others are for handlers only."""
    kind = message.type
    if isinstance(kind, CustomType) and kind.is_request:
        raise Refused(NackCode.NOT_IMPLEMENTED, f"no handler of this server processes {kind.name}")
    if isinstance(kind, CustomType) and kind.is_response:
        connection.write(message)


_PROCESS: dict[type[Message], Callable[[Connection, Any], None]] = {
    Call: _process_call,
    Pub: _process_pub,
    Sub: _process_sub,
    Unsb: _process_unsb,
    Cncl: _process_cncl,
    Crdt: _process_crdt,
    Auth: _process_auth,
    Unknown: _refuse_unknown,
    Nack: _process_response,
    Ack: _process_response,
    Res: _process_response,
    Evnt: _process_response,
    Wlcm: _process_welcome,
    Part: _process_response,
    Ends: _process_response,
}
