"""Every error, NACK code and close code of juggler lives here and only here.

::

    JugglerError
    ├── InvalidMessage        text that is not a juggler message, or not one this peer may send
    │   └── MessageNotAllowed a well-formed message of a type that is not allowed here
    ├── InvalidValue          a Python value that cannot travel as JSON, or JSON that is no value
    ├── HandshakeRefused      the upgrade to a websocket is refused with an HTTP status
    ├── Refused               a request is refused: it becomes a NACK
    │   └── BrokerError       the broker did not take the request
    │       ├── BrokerUnavailable   no connection to the broker now
    │       └── CapacityExceeded    the list for this URI or consumer is full
    ├── ConfigError           a setting that cannot be used: exit code 2 from a command
    ├── ConnectionClosed      the websocket has ended, with a close code and a reason
    ├── CallFailed            the function answered with an error
    ├── Nacked                the server refused the request
    ├── Expired               no answer came in time
    └── Cancelled             this client waits for the result no more
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any


class NackCode(IntEnum):
    """Codes of a NACK. They are those of HTTP where HTTP has one of the same meaning."""

    BAD_REQUEST = 400
    """The request is well-formed but cannot be meant: an empty URI, say."""
    FORBIDDEN = 403
    """A handler does not let this connection do this."""
    NOT_FOUND = 404
    """There is no such URI here."""
    TOO_LARGE = 413
    """The message to be sent is over the write limit."""
    TOO_MANY_REQUESTS = 429
    """A limit of this connection is reached: calls in flight, subscriptions, rate."""
    INTERNAL = 500
    """A fault on the server's side."""
    UNAVAILABLE = 503
    """The broker is away, or its list is full; the same request may succeed later."""


class CloseCode(IntEnum):
    """Close codes that a juggler server sends (RFC 6455 §7.4, and its own from 4000)."""

    NORMAL = 1000
    """The purpose is fulfilled, or the peer closed with this code."""
    GOING_AWAY = 1001
    """The server is shutting down; connect again, somewhere else."""
    PROTOCOL_ERROR = 1002
    """The peer broke RFC 6455."""
    UNSUPPORTED_DATA = 1003
    """A binary message; juggler.0 is text only."""
    NO_STATUS = 1005
    """Never sent: the peer's close frame had no code."""
    ABNORMAL = 1006
    """Never sent: the connection was lost without a close frame."""
    INVALID_UTF8 = 1007
    """A text message that is not UTF-8."""
    TOO_BIG = 1009
    """A message over the read limit, or in too many fragments."""
    INTERNAL_ERROR = 1011
    """A fault on the server's side."""
    INVALID_MESSAGE = 4400
    """Not a juggler message: invalid JSON, an unknown type, a field missing or of a wrong type."""
    MESSAGE_NOT_ALLOWED = 4403
    """A message of a type that only a server sends, or that this connection may not send."""
    PEER_SILENT = 4408
    """No answer to a ping, or no message, in time."""
    PEER_TOO_SLOW = 4429
    """The peer does not read: its outgoing queue is full, or a write did not end in time."""


class JugglerError(Exception):
    """The base of every error that juggler raises on purpose."""


class InvalidMessage(JugglerError, ValueError):
    """Text that is not a message. Its text says what was expected, and where (``$.payload.uri``)."""

    close_code = CloseCode.INVALID_MESSAGE


class MessageNotAllowed(InvalidMessage):
    """A message of a type that this peer, or this connection, may not send."""

    close_code = CloseCode.MESSAGE_NOT_ALLOWED


class InvalidValue(JugglerError, ValueError):
    """A value that JSON cannot carry (NaN, bytes, a set), or a JSON text that is no value."""


class HandshakeRefused(JugglerError):
    """The HTTP request is not upgraded.

    Attributes:
        status: HTTP status with its phrase, for example ``"403 Forbidden"``.
        reason: one readable line, sent as the body.
        headers: additional response headers.
    """

    def __init__(self, status: str, reason: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason
        self.headers = tuple(headers)


class Refused(JugglerError):
    """A request is not processed. Raised in a handler, it becomes the NACK.

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
    """The broker did not take a request."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(self.code if code is None else code, reason)


class BrokerUnavailable(BrokerError):
    """There is no connection to the broker now, or it was lost before the request was confirmed."""

    code = NackCode.UNAVAILABLE


class CapacityExceeded(BrokerError):
    """The list of calls of this URI, or of results of this consumer, is full."""

    code = NackCode.UNAVAILABLE

    def __init__(self, reason: str = "list capacity exceeded") -> None:
        super().__init__(reason)


class ConfigError(JugglerError):
    """A setting that cannot be used. Its text names the setting, the value and what was expected."""


class ConnectionClosed(JugglerError):
    """The websocket has ended.

    Attributes:
        code: close code, see `CloseCode`; 1006 when the connection was lost.
        reason: the close frame's reason, or what happened.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class CallFailed(JugglerError):
    """The function answered with an error.

    Attributes:
        message: what the callee said.
        type: name of the error's type, empty where the callee did not say.
        code: of the application's own, ``None`` where it gave none.
        data: whatever the callee wanted to say more, a JSON value; ``None`` where it said no more.
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
        code: the NACK's code, see `NackCode`.
        message: the NACK's message.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}".rstrip())
        self.code = code
        self.message = message


class Expired(JugglerError, TimeoutError):
    """No answer came within the timeout."""


class Cancelled(JugglerError):
    """This client has cancelled its waiting for a result. The function may run all the same."""
