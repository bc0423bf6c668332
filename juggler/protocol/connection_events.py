"""Events of connections for the application, and their JSON: calls that servers make when a client comes and goes.

PURE. The identity is not part of this JSON: it accompanies the call, as that of every caller.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from juggler.errors import InvalidMessage

ON_CONNECT, ON_DISCONNECT = "juggler.on_connect", "juggler.on_disconnect"

SERVER_URIS = frozenset({ON_CONNECT, ON_DISCONNECT})
"""URIs that servers call. Clients cannot."""


class ConnectionEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A client has connected or disconnected.

    Attributes:
        connection: identifier of the connection.
        at: when, in seconds since 1970.
        address: address of the client, behind trusted proxies the one they report; empty for a UNIX socket.
        identity: identity of the client, as `callee.caller` reports it; ``None`` if unknown.
        code: close code; ``None`` for a client that has connected.
        reason: reason of the close.
    """

    connection: str
    at: float
    address: str = ""
    identity: Any = None
    code: int | None = None
    reason: str = ""


def encode_connection_event(event: ConnectionEvent) -> bytes:
    """Return the arguments of the call, as JSON text, without the identity."""
    return msgspec.json.encode(msgspec.structs.replace(event, identity=None))


_decode = msgspec.json.Decoder(ConnectionEvent).decode


def decode_connection_event(args: bytes, identity: Any) -> ConnectionEvent:
    """Return the event of a call with these arguments and this identity.

    Raises:
        InvalidMessage: malformed.
    """
    try:
        return msgspec.structs.replace(_decode(args), identity=identity)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidMessage(f"connection event: {error}"[:200]) from None
