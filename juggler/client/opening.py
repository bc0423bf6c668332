"""The handshake of both clients: headers, subprotocol, and errors. PURE."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
from websockets.typing import Subprotocol

from juggler.client.renewal import bearer
from juggler.errors import CloseCode, ConfigError, ConnectionClosed, HandshakeRefused, InvalidMessage, JugglerError
from juggler.protocol.codec import decode_response
from juggler.protocol.messages import Wlcm
from juggler.protocol.subprotocols import JUGGLER_1, SUBPROTOCOLS

OFFERED = [Subprotocol(name) for name in SUBPROTOCOLS]
"""Subprotocols that clients offer."""

MAX_REASON_BYTES = 123  # RFC 6455 §5.5.1

Headers: TypeAlias = Mapping[str, str] | Callable[[], Mapping[str, str]]
"""Headers for the upgrade, or a function that returns them, called for each attempt: tokens expire."""


def shown(url: str) -> str:
    """Return a URL without its secrets: user name, password and query."""
    return re.sub(r"//.*@", "//***@", url.partition("?")[0])


def upgrade_headers(headers: Headers | None, allowed_messages: str | None, token: Any) -> dict[str, str]:
    """Return the additional headers for the upgrade. A header ``Authorization`` replaces that of the token."""
    own = headers() if callable(headers) else headers or {}
    if not any(name.lower() == "authorization" for name in own):
        own = {**bearer(token), **own}
    allowed = {} if allowed_messages is None else {"Juggler-Allowed-Messages": allowed_messages}
    return {**own, **allowed}


def as_error(error: Exception, url: str) -> JugglerError:
    """Convert the exception of an attempt to connect. Raise it if it is not one of the network or the handshake."""
    if isinstance(error, JugglerError):
        return error
    # Checked before ValueError, since errors of certificates are both.
    if isinstance(error, OSError):
        return ConnectionClosed(CloseCode.ABNORMAL, f"cannot connect to {shown(url)}: {error or type(error).__name__}")
    if isinstance(error, (InvalidURI, ValueError)):
        why = getattr(error, "msg", error)
        return ConfigError(f"url: expected ws://host:port/path or wss://…, got {shown(url)!r}: {why}")
    if isinstance(error, InvalidStatus):
        status = f"{error.response.status_code} {error.response.reason_phrase}"
        reason = (error.response.body or b"").decode(errors="replace").strip()
        return HandshakeRefused(status, reason or "no reason given")
    if isinstance(error, (InvalidHandshake, WebSocketException, EOFError)):
        return ConnectionClosed(CloseCode.ABNORMAL, f"cannot connect to {shown(url)}: {error or type(error).__name__}")
    raise error


def expects_welcome(subprotocol: str | None, url: str) -> bool:
    """Check the subprotocol that the server has chosen. Return whether it demands that the server sends a WLCM first.

    Raises:
        ConnectionClosed: it is not juggler's.
    """
    if subprotocol not in SUBPROTOCOLS:
        reason = f"the server at {shown(url)} does not speak {' or '.join(SUBPROTOCOLS)}"
        raise ConnectionClosed(CloseCode.PROTOCOL_ERROR, reason)
    return subprotocol == JUGGLER_1


def welcome(text: str, url: str) -> Wlcm:
    """Decode the first message of a server that speaks juggler.1.

    Raises:
        ConnectionClosed: it is not a WLCM.
    """
    try:
        message = decode_response(text)
    except InvalidMessage as error:
        reason = f"the server at {shown(url)} sent an invalid message: {error}"
        raise ConnectionClosed(error.close_code, reason) from None
    if not isinstance(message, Wlcm):
        reason = f"the server at {shown(url)} did not send WLCM first, but {message.type.name}"
        raise ConnectionClosed(CloseCode.PROTOCOL_ERROR, reason)
    return message


def short(reason: str) -> str:
    """Truncate a close reason to what a frame can carry."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
