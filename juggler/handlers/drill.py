"""Lets a client of a test cause what else only happens by accident: the end of its connection, a handler that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from juggler.protocol.messages import Call, Message
from juggler.server.processing import Context, Handler, Middleware

if TYPE_CHECKING:
    from juggler.server.connection import Connection


class Drill(Exception):
    """The failure that a client has asked for."""


def drill(*, close_uri: str | None = None, panic_uri: str | None = None) -> Middleware:
    """Return a middleware for tests of clients; never for strangers (the Go server's ``close_uri`` and ``panic_uri``).

    Args:
        close_uri: a CALL to it makes the server close the connection with 1000. None: none does.
        panic_uri: a CALL to it makes the handler fail with `Drill`. None: none does.
    """

    def middleware(next_handler: Handler) -> Handler:
        def handler(ctx: Context, connection: Connection, message: Message) -> None:
            if isinstance(message, Call):
                if message.uri == close_uri:
                    connection.close(reason="as the client has asked for")
                    return
                if message.uri == panic_uri:
                    raise Drill(f"a call to {message.uri!r}")
            next_handler(ctx, connection, message)

        return handler

    return middleware
