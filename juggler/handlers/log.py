"""Logs each message: its type, its URI or channel, and how long its processing took."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from juggler.protocol.messages import Message, MessageType
from juggler.server.processing import Context, Handler, Middleware

if TYPE_CHECKING:
    from juggler.server.connection import Connection

_LONGEST = 200  # characters of a name or reason: clients choose them
_EVENTS = frozenset({MessageType.EVNT})


def log_messages(
    logger: logging.Logger | None = None, level: int = logging.INFO, args: int = 0, events: bool = False
) -> Middleware:
    """Return a middleware that logs messages, in both directions.

    What is refused, or fails, is logged by the NACK that follows. Each record has the connection's uuid as
    ``connection``.

    Args:
        logger: where to; None means the logger ``juggler.messages``.
        level: of the records; where it is not enabled, a message costs one look at the logger.
        args: how many bytes of the args to show, 0 for none: they may hold secrets.
        events: whether EVNTs are logged, of which there can be many.
    """
    log = logger or logging.getLogger("juggler.messages")
    silent = frozenset() if events else _EVENTS

    def middleware(next_handler: Handler) -> Handler:
        def handler(ctx: Context, connection: Connection, message: Message) -> None:
            if not log.isEnabledFor(level) or message.type in silent:
                next_handler(ctx, connection, message)
                return
            began = time.monotonic()
            next_handler(ctx, connection, message)
            took = (time.monotonic() - began) * 1000
            extra = {"connection": connection.uuid}
            log.log(level, "%s in %.1f ms", _described(message, args), took, extra=extra)

        return handler

    return middleware


def _described(message: Message, args: int) -> str:
    about = (getattr(message, "uri", "") or getattr(message, "channel", ""))[:_LONGEST]
    text = f"{message.type.name} {about!r}"
    if message.type is MessageType.NACK:
        text += f" {message.code} {message.message[:_LONGEST]!r}"  # type: ignore[attr-defined]
    if args:
        shown = getattr(message, "args", b"")
        text += f" {shown[:args].decode(errors='replace')}{'…' if len(shown) > args else ''}"
    return text
