"""The eight messages of juggler.0, and the payloads that brokers store, as plain values.

PURE: no I/O, no clock. How they look as text is `juggler.protocol.codec`'s business alone.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar, TypeAlias

from msgspec import Struct

NULL = b"null"


class MessageType(IntEnum):
    """Numbers of ``meta.type``. Those from `CUSTOM` up are local to a program and never travel."""

    CALL = 1
    PUB = 2
    SUB = 3
    UNSB = 4
    NACK = 7
    ACK = 8
    RES = 9
    EVNT = 10
    CUSTOM = 256

    @property
    def is_request(self) -> bool:
        """Whether clients send it (the Go package's ``IsRead``)."""
        return 1 <= self <= 4

    @property
    def is_response(self) -> bool:
        """Whether servers send it (the Go package's ``IsWrite``)."""
        return 7 <= self <= 10


class Message(Struct, frozen=True, gc=False, kw_only=True):
    """The base of the eight messages.

    Attributes:
        uuid: identifier of the message; empty in a response until it is written, when the server assigns one.
    """

    type: ClassVar[MessageType]

    uuid: str = ""


class Call(Message, frozen=True, gc=False):
    """Asks that the function at a URI is run.

    Attributes:
        uri: the function's URI.
        args: its arguments as JSON text, UTF-8.
        timeout: how long the result is wanted, in seconds; 0 means the server's default.
    """

    type: ClassVar[MessageType] = MessageType.CALL

    uri: str
    args: bytes = NULL
    timeout: float = 0.0


class Pub(Message, frozen=True, gc=False):
    """Publishes an event with ``args`` (JSON text) on ``channel``."""

    type: ClassVar[MessageType] = MessageType.PUB

    channel: str
    args: bytes = NULL


class Sub(Message, frozen=True, gc=False):
    """Subscribes to a channel, or to all that match when ``pattern`` (a Redis glob) is true."""

    type: ClassVar[MessageType] = MessageType.SUB

    channel: str
    pattern: bool = False


class Unsb(Message, frozen=True, gc=False):
    """Ends a subscription that was made with the same ``channel`` and ``pattern``."""

    type: ClassVar[MessageType] = MessageType.UNSB

    channel: str
    pattern: bool = False


class Nack(Message, frozen=True, gc=False):
    """Tells that a request was not processed.

    Attributes:
        for_: UUID of the request.
        for_type: type of the request.
        code: see `juggler.errors.NackCode`.
        message: the reason, for people.
        uri: of a CALL, else empty.
        channel: of a PUB, SUB or UNSB, else empty.
    """

    type: ClassVar[MessageType] = MessageType.NACK

    for_: str
    for_type: int
    code: int
    message: str
    uri: str = ""
    channel: str = ""


class Ack(Message, frozen=True, gc=False):
    """Tells that a request was processed; of a CALL: that it is registered. Fields as in `Nack`."""

    type: ClassVar[MessageType] = MessageType.ACK

    for_: str
    for_type: int
    uri: str = ""
    channel: str = ""


class Res(Message, frozen=True, gc=False):
    """The result of the CALL ``for_``, as JSON text in ``args``.

    Attributes:
        failed: whether it is an error; ``None`` where the callee did not say, and it has to be judged by its look.
    """

    type: ClassVar[MessageType] = MessageType.RES

    for_: str
    uri: str
    args: bytes = NULL
    failed: bool | None = None


class Evnt(Message, frozen=True, gc=False):
    """An event that the PUB ``for_`` caused.

    Attributes:
        pattern: the pattern that matched, empty for a subscription to the channel itself.
        args: JSON text.
    """

    type: ClassVar[MessageType] = MessageType.EVNT

    for_: str
    channel: str
    args: bytes = NULL
    pattern: str = ""


Request: TypeAlias = Call | Pub | Sub | Unsb
Response: TypeAlias = Nack | Ack | Res | Evnt

REQUEST_TYPES: frozenset[MessageType] = frozenset(t for t in MessageType if t.is_request)


def ack(request: Request) -> Ack:
    """Return the ACK of a request."""
    if isinstance(request, Call):
        return Ack(for_=request.uuid, for_type=request.type, uri=request.uri)
    return Ack(for_=request.uuid, for_type=request.type, channel=request.channel)


def nack(message: Message, code: int, reason: str) -> Nack:
    """Return the NACK that refers to the request at the origin of ``message``.

    Args:
        message: any of the eight: the request itself, or a response that could not be sent.
        code: see `juggler.errors.NackCode`.
        reason: the reason, for people.

    Raises:
        TypeError: for a message that is none of the eight.
    """
    if isinstance(message, Call):
        origin: dict[str, Any] = {"for_": message.uuid, "uri": message.uri}
        for_type: int = message.type
    elif isinstance(message, (Pub, Sub, Unsb)):
        origin = {"for_": message.uuid, "channel": message.channel}
        for_type = message.type
    elif isinstance(message, (Ack, Nack)):
        origin = {"for_": message.for_, "uri": message.uri, "channel": message.channel}
        for_type = message.for_type
    elif isinstance(message, Res):
        origin = {"for_": message.for_, "uri": message.uri}
        for_type = MessageType.CALL
    elif isinstance(message, Evnt):
        origin = {"for_": message.for_, "channel": message.channel}
        for_type = MessageType.PUB
    else:
        raise TypeError(f"expected one of the eight messages, got {type(message).__name__}")
    return Nack(for_type=for_type, code=code, message=reason, **origin)


class CallPayload(Struct, frozen=True, gc=False):
    """A call as brokers store it, for callees.

    Attributes:
        conn_uuid: the consumer of the result; a callee only echoes it.
        msg_uuid: the call's identifier; a callee only echoes it.
        uri: the function's URI.
        args: its arguments as JSON text.
    """

    conn_uuid: str
    msg_uuid: str
    uri: str
    args: bytes = NULL
