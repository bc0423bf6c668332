"""Log each message: its type, its URI or channel, and the time to process it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from juggler.process.logline import Line
from juggler.protocol.messages import Message, MessageType, Nack
from juggler.server.processing import Context, Handler, Middleware

if TYPE_CHECKING:
    from juggler.server.connection import Connection

_MAX_LENGTH = 200  # characters of a name or reason, which clients choose
_EVENTS = frozenset({MessageType.EVNT})


def log_messages(
    logger: logging.Logger | None = None, level: int = logging.INFO, args: int = 0, events: bool = False
) -> Middleware:
    """Return a middleware that logs messages in both directions.

    A request that is refused or fails is logged as its NACK. Each record has the connection's UUID as ``connection``.

    Args:
        logger: logger; None means ``juggler.messages``.
        level: level of the records. Default: INFO.
        args: bytes of the args to log; 0 means none, because they may contain secrets. Default: 0.
        events: whether to log EVNTs, which may be many. Default: False.
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
            log.log(level, Line("message: processed", **_fields(message, args), ms=took), extra=extra)

        return handler

    return middleware


def _fields(message: Message, args: int) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": message.type.name}
    for name in ("uri", "channel"):
        if value := getattr(message, name, ""):
            fields[name] = value[:_MAX_LENGTH]
    if isinstance(message, Nack):
        fields |= {"code": message.code, "reason": message.message[:_MAX_LENGTH]}
    if args:
        shown = getattr(message, "args", b"")
        fields["args"] = f"{shown[:args].decode(errors='replace')}{'…' if len(shown) > args else ''}"
    return fields
