"""Turns an exception of a handler further in into a NACK, with an id that is in the log beside the traceback."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import gevent

from juggler.errors import CloseCode, NackCode, Refused
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import Evnt, Message, Nack, nack
from juggler.server.processing import Context, Handler, Middleware

if TYPE_CHECKING:
    from juggler.server.connection import Connection

log = logging.getLogger("juggler.recover")


def recover(close: bool = False) -> Middleware:
    """Return a middleware that answers NACK 500 where a handler further in fails; put it outermost.

    Without it, the connection is closed with 1011. A result or ACK that fails is replaced by a NACK that refers to its
    request; a NACK that fails is sent past the other handlers; an event is dropped. `Refused` passes. Each failure is
    counted as a recovered panic.

    Args:
        close: whether the connection is closed with 1011, too, after the NACK.
    """

    def middleware(next_handler: Handler) -> Handler:
        def handler(ctx: Context, connection: Connection, message: Message) -> None:
            try:
                next_handler(ctx, connection, message)
            except Refused:
                raise
            except (Exception, gevent.Timeout):
                failure = new_uuid()
                extra = {"connection": connection.uuid}
                log.exception("%s: a handler failed on %s %s", failure, message.type.name, message.uuid, extra=extra)
                connection.metrics.panics += 1
                if isinstance(message, Nack):
                    connection.write(message)
                elif not isinstance(message, Evnt):  # the subscriber has asked for nothing
                    connection.send(nack(message, NackCode.INTERNAL, f"internal error, id {failure}"))
                if close:
                    connection.close(CloseCode.INTERNAL_ERROR, "internal error")

        return handler

    return middleware
