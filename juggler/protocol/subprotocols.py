"""Negotiate the subprotocol, and the types of messages that a connection may send. PURE."""

from __future__ import annotations

from juggler.protocol.headers import refused, tokens
from juggler.protocol.messages import REQUEST_TYPES, MessageType

SUBPROTOCOLS = ("juggler.0",)
"""Supported subprotocols, in order of preference."""

_REQUEST_NAMES = {type.name.lower(): type for type in REQUEST_TYPES}


def choose_subprotocol(offered: str | None, *, allow_empty: bool = False) -> str | None:
    """Return the first supported subprotocol that the client offers.

    Args:
        offered: header ``Sec-WebSocket-Protocol``.
        allow_empty: whether to return None for a client that offers no subprotocol.

    Raises:
        HandshakeRefused: the client offers no supported subprotocol.
    """
    names = tokens(offered)
    for name in SUBPROTOCOLS:
        if name in names:
            return name
    if allow_empty and not names:
        return None
    raise refused("400 Bad Request", "Sec-WebSocket-Protocol", " or ".join(SUBPROTOCOLS), offered)


def allowed_messages(value: str | None) -> frozenset[MessageType]:
    """Return the types of requests that a client restricts its connection to.

    Args:
        value: header ``Juggler-Allowed-Messages``: names of request types in any case; unknown names are ignored.
            None, empty or ``*`` allows all.

    Raises:
        HandshakeRefused: the header has no known name.
    """
    names = {token.lower() for token in tokens(value)}
    if not names or names == {"*"}:
        return REQUEST_TYPES
    types = frozenset(_REQUEST_NAMES[name] for name in names & _REQUEST_NAMES.keys())
    if not types:
        raise refused("400 Bad Request", "Juggler-Allowed-Messages", "some of call, pub, sub, unsb", value)
    return types
