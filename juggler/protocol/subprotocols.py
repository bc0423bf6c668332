"""Negotiate the subprotocol, and the types of messages that a connection may send. PURE."""

from __future__ import annotations

from collections.abc import Sequence

from juggler.protocol.custom import registered_types
from juggler.protocol.headers import refused, tokens
from juggler.protocol.messages import ALL_REQUEST_TYPES, REQUEST_TYPES, MessageType

JUGGLER_0 = "juggler.0"
JUGGLER_1 = "juggler.1"
SUBPROTOCOLS = (JUGGLER_1, JUGGLER_0)
"""Supported subprotocols, in order of preference."""

# Features of a server that speaks juggler.1; the WLCM lists those that it has.
AUTH = "auth"
"""AUTH renews the identity of a client."""
CANCEL = "cancel"
"""CNCL cancels a call."""
IDENTITY = "identity"
"""Functions learn who calls."""
PARTS = "parts"
"""A CALL may ask for its result in parts."""

_REQUEST_NAMES = {type.name.lower(): type for type in REQUEST_TYPES}
_ALWAYS = ALL_REQUEST_TYPES - REQUEST_TYPES
_ABOUT_CALLS = frozenset({MessageType.CNCL, MessageType.CRDT})


def choose_subprotocol(
    offered: str | None, *, allow_empty: bool = False, supported: Sequence[str] = SUBPROTOCOLS
) -> str | None:
    """Return the first supported subprotocol that the client offers.

    Args:
        offered: header ``Sec-WebSocket-Protocol``.
        allow_empty: whether to return None for a client that offers no subprotocol.
        supported: subprotocols in order of preference.

    Raises:
        HandshakeRefused: the client offers no supported subprotocol.
    """
    names = tokens(offered)
    for name in supported:
        if name in names:
            return name
    if allow_empty and not names:
        return None
    raise refused("400 Bad Request", "Sec-WebSocket-Protocol", " or ".join(supported), offered)


def allowed_messages(value: str | None, subprotocol: str | None = JUGGLER_0) -> frozenset[int]:
    """Return the types of requests that a client restricts its connection to.

    Under juggler.1, a client that may CALL may cancel calls and take parts of their results. Any client may renew its
    identity, and send requests of unknown types, which are refused.

    Args:
        value: header ``Juggler-Allowed-Messages``: names of request types in any case, registered ones included;
            unknown names are ignored. None, empty or ``*`` allows all.
        subprotocol: negotiated subprotocol.

    Raises:
        HandshakeRefused: the header has no known name.
    """
    names = {token.lower() for token in tokens(value)}
    custom = {each.name.lower(): each for each in registered_types() if each.is_request}
    types: frozenset[int] = REQUEST_TYPES.union(custom.values()) if custom else REQUEST_TYPES
    if names and names != {"*"}:
        known = _REQUEST_NAMES | custom
        types = frozenset(known[name] for name in names & known.keys())
        if not types:
            raise refused("400 Bad Request", "Juggler-Allowed-Messages", "some of call, pub, sub, unsb", value)
    if subprotocol != JUGGLER_1:
        return types
    return types | _ALWAYS if MessageType.CALL in types else types | (_ALWAYS - _ABOUT_CALLS)
