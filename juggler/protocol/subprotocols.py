"""Negotiate the subprotocol, and the message types that a connection may send. PURE."""

from __future__ import annotations

from collections.abc import Sequence

from juggler.protocol.headers import refused, tokens
from juggler.protocol.messages import REQUEST_TYPES, MessageType

SUBPROTOCOLS = ("juggler.0",)
"""Supported subprotocols, in order of preference."""

_REQUEST_NAMES = {type.name.lower(): type for type in REQUEST_TYPES}


def choose_subprotocol(
    offered: str | None, supported: Sequence[str] = SUBPROTOCOLS, allow_empty: bool = False
) -> str | None:
    """Return the first of our subprotocols that the client offers.

    Args:
        offered: header ``Sec-WebSocket-Protocol``.
        supported: our subprotocols, best first.
        allow_empty: lets a client in that offers none at all; it gets ``None``.

    Raises:
        HandshakeRefused: none of the offered is supported.
    """
    names = tokens(offered)
    for name in supported:
        if name in names:
            return name
    if allow_empty and not names:
        return None
    raise refused("400 Bad Request", "Sec-WebSocket-Protocol", " or ".join(supported), offered)


def allowed_messages(value: str | None) -> frozenset[MessageType]:
    """Return the requests that a connection announces to restrict itself to.

    Args:
        value: header ``Juggler-Allowed-Messages``: names of requests, case and unknown names ignored. ``None``, empty
            or ``*`` allows all.

    Raises:
        HandshakeRefused: it names no request that exists.
    """
    names = {token.lower() for token in tokens(value)}
    if not names or names == {"*"}:
        return REQUEST_TYPES
    types = frozenset(_REQUEST_NAMES[name] for name in names & _REQUEST_NAMES.keys())
    if not types:
        raise refused("400 Bad Request", "Juggler-Allowed-Messages", "some of call, pub, sub, unsb", value)
    return types
