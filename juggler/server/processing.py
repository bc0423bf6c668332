"""What happens to a message: the signature of handlers, how they are chained, and the standard processing at the end.

Every message passes the server's handler, those that come in and those that go out. A middleware wraps the next
handler, and stops a message by not calling it; raising `juggler.errors.Refused` stops it with a NACK.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

from juggler.broker import Done, PendingCall
from juggler.errors import BrokerError, NackCode, Refused
from juggler.protocol.messages import Ack, Call, Evnt, Message, Nack, Pub, Request, Res, Response, Sub, Unsb, ack, nack

if TYPE_CHECKING:
    from juggler.server.connection import Connection


class Context(SimpleNamespace):
    """Values that handlers keep for the duration of one message; each message has a new one."""


Handler: TypeAlias = "Callable[[Context, Connection, Message], None]"
"""``handler(ctx, connection, message)``. It may block; it then holds up its own connection only."""

Middleware: TypeAlias = Callable[[Handler], Handler]
"""Makes a handler out of the next one."""


def process_message(ctx: Context, connection: Connection, message: Message) -> None:
    """Do what a message asks for: the standard behaviour, and the last handler of a chain.

    A request goes to the broker, and this returns at once: its ACK or NACK follows when the broker has confirmed it. A
    response goes out on the websocket.

    Args:
        ctx: not used.
        connection: the connection that the message came from, or is for.
        message: any of the eight.

    Raises:
        Refused: a limit of the server or of the connection is reached.
    """
    _PROCESS[type(message)](connection, message)


def chain(*middlewares: Middleware, last: Handler = process_message) -> Handler:
    """Return one handler out of middlewares, the first one outermost, with ``last`` at the end."""
    handler = last
    for middleware in reversed(middlewares):
        handler = middleware(handler)
    return handler


class _ServerCall(PendingCall):
    """A CALL whose result the connection waits for."""

    __slots__ = ("_began", "_connection", "_request")

    def __init__(self, connection: Connection, request: Call) -> None:
        self.call_id = ""
        self._began = time.monotonic()
        self._connection = connection
        # Without its arguments, which may be large: they are on their way to the callee.
        self._request = Call(uuid=request.uuid, uri=request.uri)

    def on_stored(self, error: BrokerError | None) -> None:
        if error is None:
            self._connection.answer(ack(self._request))
        else:
            self._connection.end_call(self)
            self._connection.answer(nack(self._request, error.code, error.reason))

    def on_result(self, args: bytes, failed: bool | None) -> None:
        self._connection.server.metrics.observe_call(self._request.uri, time.monotonic() - self._began)
        self._connection.end_call(self)
        self._connection.respond(Res(for_=self._request.uuid, uri=self._request.uri, args=args, failed=failed))

    def on_expired(self) -> None:
        self._connection.server.metrics.expired += 1
        self._connection.end_call(self)


def _process_call(connection: Connection, message: Call) -> None:
    server = connection.server
    if server.max_uri_length is not None and len(message.uri) > server.max_uri_length:
        raise _too_long("URI", len(message.uri), server.max_uri_length)
    if message.timeout > server.max_call_timeout:
        expected = f"expected at most {server.max_call_timeout:g} s"
        raise Refused(NackCode.BAD_REQUEST, f"timeout: {expected}, got {message.timeout:.12g} s")
    if message.uri == server.list_uri:
        _list_uris(connection, message)
        return
    served = server.served_uris
    if served is not None and message.uri not in served.known and not served.is_served(message.uri):
        raise Refused(NackCode.NOT_FOUND, f"no callee serves {message.uri!r}")
    pending = _ServerCall(connection, message)
    connection.begin_call(pending)
    connection.expect_answer()
    server.caller_broker.call(message.uri, message.args, message.timeout or server.call_timeout, pending)


def _list_uris(connection: Connection, message: Call) -> None:
    """Answer the built-in call for the list of what is served."""
    result = Res(for_=message.uuid, uri=message.uri, args=connection.server.directory.text())
    connection.respond(ack(message))
    connection.respond(result)


def _process_pub(connection: Connection, message: Pub) -> None:
    _check_channel(connection, message.channel)
    connection.expect_answer()
    connection.server.pubsub_broker.publish(message.channel, message.uuid, message.args, _answers(connection, message))


def _check_channel(connection: Connection, channel: str) -> None:
    limit = connection.server.max_channel_length
    if limit is not None and len(channel) > limit:
        raise _too_long("channel", len(channel), limit)


def _too_long(what: str, length: int, limit: int) -> Refused:
    return Refused(NackCode.BAD_REQUEST, f"{what}: expected at most {limit} characters, got {length}")


def _process_sub(connection: Connection, message: Sub) -> None:
    _check_channel(connection, message.channel)
    is_new = connection.begin_subscription(message.channel, message.pattern)
    connection.expect_answer()

    def on_done(error: BrokerError | None) -> None:
        if error is not None and is_new:
            connection.end_subscription(message.channel, message.pattern)
        answer(error)

    answer = _answers(connection, message)
    connection.server.pubsub_broker.subscribe(message.channel, message.pattern, connection, on_done)


def _process_unsb(connection: Connection, message: Unsb) -> None:
    connection.end_subscription(message.channel, message.pattern)
    connection.expect_answer()
    connection.server.pubsub_broker.unsubscribe(
        message.channel, message.pattern, connection, _answers(connection, message)
    )


def _answers(connection: Connection, request: Request) -> Done:
    def on_done(error: BrokerError | None) -> None:
        connection.answer(ack(request) if error is None else nack(request, error.code, error.reason))

    return on_done


def _process_response(connection: Connection, message: Response) -> None:
    connection.write(message)


_PROCESS: dict[type[Message], Callable[[Connection, Any], None]] = {
    Call: _process_call,
    Pub: _process_pub,
    Sub: _process_sub,
    Unsb: _process_unsb,
    Nack: _process_response,
    Ack: _process_response,
    Res: _process_response,
    Evnt: _process_response,
}
