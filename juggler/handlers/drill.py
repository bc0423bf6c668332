"""Let clients under test cause failures: a closed connection, or a handler that raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from juggler.protocol.messages import Call, Message
from juggler.server.processing import Context, Handler, Middleware

if TYPE_CHECKING:
    from juggler.server.connection import Connection


class Drill(Exception):
    """A failure requested by a client."""


def drill(*, close_uri: str | None = None, panic_uri: str | None = None) -> Middleware:
    """Return a middleware for testing clients (the Go server's ``close_uri`` and ``panic_uri``).

    Do not use it with untrusted clients.

    Args:
        close_uri: URI for which the server closes the connection with 1000. None: no such URI.
        panic_uri: URI for which the handler raises `Drill`. None: no such URI.
    """

    def middleware(next_handler: Handler) -> Handler:
        def handler(ctx: Context, connection: Connection, message: Message) -> None:
            if isinstance(message, Call):
                if message.uri == close_uri:
                    connection.close(reason="requested by the client")
                    return
                if message.uri == panic_uri:
                    raise Drill(f"a call to {message.uri!r}")
            next_handler(ctx, connection, message)

        return handler

    return middleware
