"""Every error, NACK code and close code of juggler.

::

    JugglerError
    ├── InvalidMessage        malformed, or not allowed
    │   └── MessageNotAllowed of a type that the peer may not send
    ├── InvalidValue          a Python value that JSON cannot carry, or invalid JSON
    ├── HandshakeRefused      the upgrade to a websocket is refused with an HTTP status
    ├── Refused               a request is refused with a NACK
    │   └── BrokerError       the broker refused or failed the request
    │       ├── BrokerUnavailable   no connection to the broker
    │       │   └── OutcomeUnknown  lost before the reply: processed or not
    │       └── CapacityExceeded    the queue of this URI or consumer is full
    ├── ConfigError           an invalid setting; commands exit with code 2
    ├── ConnectionClosed      the websocket is closed, with a code and a reason
    ├── CallFailed            the function answered with an error
    ├── Nacked                the server refused the request
    ├── Expired               no answer within the timeout
    ├── NotSupported          the server does not support what a request needs
    └── Cancelled             this client has cancelled the wait for a result
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any


class NackCode(IntEnum):
    """Codes of a NACK: HTTP status codes of the same meaning."""

    BAD_REQUEST = 400
    """The request is well-formed but invalid, for example an empty URI."""
    UNAUTHORIZED = 401
    """The token of an AUTH is not valid. juggler.1."""
    FORBIDDEN = 403
    """A handler does not allow this connection to do this."""
    NOT_FOUND = 404
    """No callee serves the URI."""
    TOO_LARGE = 413
    """The response exceeds the write limit."""
    TOO_MANY_REQUESTS = 429
    """A limit of this connection is reached: calls in flight, subscriptions, rate."""
    INTERNAL = 500
    """An internal error of the server."""
    NOT_IMPLEMENTED = 501
    """A request of a type that the server does not know. juggler.1; under juggler.0, it closes the connection."""
    UNAVAILABLE = 503
    """The broker is unreachable or its queue is full; the same request may succeed later."""
    OUTCOME_UNKNOWN = 504
    """The connection to the broker was lost before it replied: the request may or may not have been processed."""


class CloseCode(IntEnum):
    """Close codes of a juggler server (RFC 6455 §7.4; application codes from 4000)."""

    NORMAL = 1000
    """Normal closure, or the peer closed with this code."""
    GOING_AWAY = 1001
    """The server is shutting down; reconnect, to another server."""
    PROTOCOL_ERROR = 1002
    """The peer violated RFC 6455."""
    UNSUPPORTED_DATA = 1003
    """A binary message; juggler is text only."""
    NO_STATUS = 1005
    """Never sent: the peer's close frame had no code."""
    ABNORMAL = 1006
    """Never sent: the connection was lost without a close frame."""
    INVALID_UTF8 = 1007
    """A text message is not UTF-8."""
    TOO_BIG = 1009
    """A message exceeds the read limit or has too many fragments."""
    INTERNAL_ERROR = 1011
    """An internal error of the server."""
    INVALID_MESSAGE = 4400
    """A malformed message: invalid JSON, an unknown type, or a missing or invalid field."""
    TOKEN_EXPIRED = 4401
    """The identity of the client has expired and was not renewed; reconnect, with a new token."""
    MESSAGE_NOT_ALLOWED = 4403
    """A message of a type that only servers send, or that this connection may not send, or an AUTH with the token of
    another identity."""
    PEER_SILENT = 4408
    """No answer to a ping, or no message, within the timeout."""
    DISCONNECTED = 4410
    """Disconnected by the application for good: do not reconnect."""
    MOVED = 4411
    """Disconnected by the application: reconnect, to another server."""
    PEER_TOO_SLOW = 4429
    """The peer does not read: its outgoing queue is full, or a write timed out."""


class JugglerError(Exception):
    """Base class of all errors of juggler."""


class InvalidMessage(JugglerError, ValueError):
    """Malformed message. The text has the path of the value (``$.payload.uri``) and what was expected."""

    close_code = CloseCode.INVALID_MESSAGE


class MessageNotAllowed(InvalidMessage):
    """A message of a type that this peer or connection may not send."""

    close_code = CloseCode.MESSAGE_NOT_ALLOWED


class InvalidValue(JugglerError, ValueError):
    """A value that JSON cannot carry (NaN, bytes, a set), or invalid JSON."""


class HandshakeRefused(JugglerError):
    """The HTTP request is not upgraded to a websocket.

    Attributes:
        status: HTTP status with its phrase, for example ``"403 Forbidden"``.
        reason: one line, sent as the body.
        headers: additional response headers.
    """

    def __init__(self, status: str, reason: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason
        self.headers = tuple(headers)


class Refused(JugglerError):
    """A request is not processed. Raised in a handler, it becomes a NACK.

    Attributes:
        code: code of the NACK, see `NackCode`.
        reason: message of the NACK.
    """

    code: int = NackCode.INTERNAL

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class BrokerError(Refused):
    """The broker refused or failed a request.

    Attributes:
        detail: what Redis or the operating system reported, for logs and operators. NACKs do not contain it.
    """

    def __init__(self, reason: str, code: int | None = None, *, detail: str = "") -> None:
        super().__init__(self.code if code is None else code, reason)
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class BrokerUnavailable(BrokerError):
    """There is no connection to the broker: the request was not processed."""

    code = NackCode.UNAVAILABLE


class OutcomeUnknown(BrokerUnavailable):
    """The connection to the broker was lost before it replied: the request may or may not have been processed."""

    code = NackCode.OUTCOME_UNKNOWN


class CapacityExceeded(BrokerError):
    """The queue of calls of this URI, or of results of this consumer, is full."""

    code = NackCode.UNAVAILABLE

    def __init__(self, reason: str = "list capacity exceeded") -> None:
        super().__init__(reason)


class ConfigError(JugglerError):
    """An invalid setting. The text names the setting, the value and what was expected."""


class ConnectionClosed(JugglerError):
    """The websocket is closed.

    Attributes:
        code: close code, see `CloseCode`; 1006 if the connection was lost.
        reason: the close frame's reason, or what happened.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class CallFailed(JugglerError):
    """The function answered with an error.

    Attributes:
        message: message of the error.
        type: name of the error's type; empty if the callee did not state it.
        code: code of the application; ``None`` if there is none.
        data: further details as a JSON value; ``None`` if there are none.
    """

    def __init__(self, message: str, type: str = "", code: int | str | None = None, data: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.type = type
        self.code = code
        self.data = data


class Nacked(JugglerError):
    """The server refused the request.

    Attributes:
        code: code of the NACK, see `NackCode`.
        message: message of the NACK.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}".rstrip())
        self.code = code
        self.message = message


class Expired(JugglerError, TimeoutError):
    """No answer arrived within the timeout."""


class NotSupported(JugglerError):
    """The server does not support what a request needs, which was therefore not sent."""


class Cancelled(JugglerError):
    """This client has cancelled the wait for a result. The function may run nevertheless."""
