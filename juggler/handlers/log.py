"""Log each message, and each connection."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from juggler.process.address import format_address
from juggler.process.logline import Line
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import Message, MessageType, Nack, Sub, type_name
from juggler.server.connection import Connection, State
from juggler.server.processing import Context, Handler, Middleware

_MAX_LENGTH = 150  # characters of a name or reason, which clients choose
_EVENTS = frozenset({MessageType.EVNT})


def log_messages(
    logger: logging.Logger | None = None, level: int = logging.INFO, args: int = 0, events: bool = False
) -> Middleware:
    """Return a middleware that logs messages in both directions: type, UUID, URI or channel, time to process it.

    A response is logged with the UUID of its request, too. A request that is refused or fails is logged as its NACK.
    Each record has the connection's UUID as ``connection``.

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
            if not message.uuid:
                message = replace(message, uuid=new_uuid())  # responses get theirs when they are written
            began = time.monotonic()
            next_handler(ctx, connection, message)
            took = (time.monotonic() - began) * 1000
            extra = {"connection": connection.uuid}
            log.log(level, Line("message: processed", **_fields(message, args), ms=took, **_ids(message)), extra=extra)

        return handler

    return middleware


def _fields(message: Message, args: int) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": type_name(message)}
    for name in ("uri", "channel"):
        if value := getattr(message, name, ""):
            fields[name] = value[:_MAX_LENGTH]
    if isinstance(message, Sub) and message.is_check:
        fields["check"] = True
    if isinstance(message, Nack):
        fields |= {"code": message.code, "reason": message.message[:_MAX_LENGTH]}
    if args:
        shown = getattr(message, "args", b"")
        fields["args"] = f"{shown[:args].decode(errors='replace')}{'…' if len(shown) > args else ''}"
    return fields


def _ids(message: Message) -> dict[str, str]:
    for_ = getattr(message, "for_", "")
    return {"message": message.uuid, "for": for_} if for_ else {"message": message.uuid}


def log_connections(
    logger: logging.Logger | None = None, level: int = logging.INFO
) -> Callable[[Connection, State], None]:
    """Return a callback for ``Server(on_state=...)`` that logs when a client has connected and when it has gone.

    Each record has the connection's UUID as ``connection``.

    Args:
        logger: logger; None means ``juggler.connections``.
        level: level of the records. Default: INFO.
    """
    log = logger or logging.getLogger("juggler.connections")

    def on_state(connection: Connection, state: State) -> None:
        if state is State.ACCEPTING or not log.isEnabledFor(level):
            return
        where = {"client": _client(connection), "local": _named(connection.local_address, connection.local_port)}
        extra = {"connection": connection.uuid}
        end = connection.closed
        if end is None:
            log.log(level, Line("connection: connected", **where, subprotocol=connection.subprotocol), extra=extra)
        else:
            reason = end.reason[:_MAX_LENGTH]
            log.log(level, Line("connection: closed", **where, code=int(end.code), reason=reason), extra=extra)

    return on_state


def _client(connection: Connection) -> str:
    if connection.address == connection.peer:
        return _named(connection.peer, connection.peer_port)
    return f"{connection.address} via {_named(connection.peer, connection.peer_port)}"


def _named(host: str, port: int | None) -> str:
    return format_address((host, port)) if port is not None else host or "UNIX socket"
