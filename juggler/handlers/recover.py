"""Turn an exception of an inner handler into a NACK, with an id that is logged with the traceback."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import gevent

from juggler.errors import CloseCode, NackCode, Refused
from juggler.process.logline import Line
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import Evnt, Message, Nack, Sub, is_nackable, nack, type_name
from juggler.server.processing import Context, Handler, Middleware
from juggler.server.request_spans import fail_span

if TYPE_CHECKING:
    from juggler.server.connection import Connection

log = logging.getLogger("juggler.recover")


def recover(close: bool = False) -> Middleware:
    """Return a middleware that responds with NACK 500 when an inner handler raises. Put it outermost.

    Without it, the connection is closed with 1011. If a handler raises on a RES or ACK, the client receives a NACK for
    its request instead. A NACK is sent without the other handlers, and an EVNT is dropped. `Refused` is not caught.
    Each failure is counted in ``juggler_handler_errors``.

    Args:
        close: whether to close the connection with 1011 after the NACK. Default: False.
    """

    def middleware(next_handler: Handler) -> Handler:
        def handler(ctx: Context, connection: Connection, message: Message) -> None:
            try:
                next_handler(ctx, connection, message)
            except Refused:
                raise
            except (Exception, gevent.Timeout, SystemExit) as error:
                fail_span(type(error).__name__)
                failure = new_uuid()
                log.exception(
                    Line("handler: failed", id=failure, type=type_name(message), message=message.uuid),
                    extra={"connection": connection.uuid},
                )
                connection.metrics.panics += 1
                if isinstance(message, Sub) and message.is_check:  # no request to respond to: its subscription ends
                    raise Refused(NackCode.INTERNAL, f"internal error, id {failure}") from None
                if isinstance(message, Nack):
                    connection.write(message)
                elif is_nackable(message) and not isinstance(message, Evnt):  # an event has no request to respond to
                    connection.send(nack(message, NackCode.INTERNAL, f"internal error, id {failure}"))
                if close:
                    connection.close(CloseCode.INTERNAL_ERROR, "internal error")

        return handler

    return middleware
