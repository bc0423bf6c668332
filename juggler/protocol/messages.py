"""The eight messages of juggler.0, and the payload of a call in Redis, as plain values.

PURE. Their JSON is defined in `juggler.protocol.codec` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, ClassVar, TypeAlias

from msgspec import Struct

NULL = b"null"


class MessageType(IntEnum):
    """Numbers of ``meta.type``. Those from `CUSTOM` up are local to a program and are never sent."""

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
        """Whether clients send this type (the Go package's ``IsRead``)."""
        return 1 <= self <= 4

    @property
    def is_response(self) -> bool:
        """Whether servers send this type (the Go package's ``IsWrite``)."""
        return 7 <= self <= 10


class Message(Struct, frozen=True, gc=False, kw_only=True):
    """The base of the eight messages.

    Attributes:
        uuid: identifier of the message; empty in a response until it is written, when the server assigns one.
    """

    type: ClassVar[MessageType]

    uuid: str = ""


class Call(Message, frozen=True, gc=False):
    """Calls the function at a URI.

    Attributes:
        uri: URI of the function.
        args: arguments as JSON text, UTF-8.
        timeout: seconds until the call expires; 0 means the server's default.
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
    """Subscribes to a channel, or if ``is_pattern`` to all channels that match this Redis glob."""

    type: ClassVar[MessageType] = MessageType.SUB

    channel: str
    is_pattern: bool = False


class Unsb(Message, frozen=True, gc=False):
    """Ends the subscription with the same ``channel`` and ``is_pattern``."""

    type: ClassVar[MessageType] = MessageType.UNSB

    channel: str
    is_pattern: bool = False


class Nack(Message, frozen=True, gc=False):
    """Refuses a request: it was not processed.

    Attributes:
        for_: UUID of the request.
        for_type: type of the request.
        code: see `juggler.errors.NackCode`.
        message: reason, for people.
        uri: URI of a CALL, otherwise empty.
        channel: channel of a PUB, SUB or UNSB, otherwise empty.
    """

    type: ClassVar[MessageType] = MessageType.NACK

    for_: str
    for_type: int
    code: int
    message: str
    uri: str = ""
    channel: str = ""


class Ack(Message, frozen=True, gc=False):
    """Acknowledges a request: it was processed; a CALL was registered. Attributes as in `Nack`."""

    type: ClassVar[MessageType] = MessageType.ACK

    for_: str
    for_type: int
    uri: str = ""
    channel: str = ""


class Res(Message, frozen=True, gc=False):
    """The result of the CALL ``for_``, as JSON text in ``args``.

    Attributes:
        failed: whether the result is an error; ``None`` if the callee did not state it: then its shape decides.
    """

    type: ClassVar[MessageType] = MessageType.RES

    for_: str
    uri: str
    args: bytes = NULL
    failed: bool | None = None


class Evnt(Message, frozen=True, gc=False):
    """An event, published by the PUB ``for_``.

    Attributes:
        pattern: pattern that matched; empty for a subscription to the channel itself.
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


_Reference: TypeAlias = tuple[str, int, str, str]
"""What an ACK or NACK refers to: ``for_``, ``for_type``, ``uri``, ``channel``."""

_REFERENCES: dict[type[Message], Callable[[Any], _Reference]] = {
    Call: lambda m: (m.uuid, MessageType.CALL, m.uri, ""),
    Pub: lambda m: (m.uuid, MessageType.PUB, "", m.channel),
    Sub: lambda m: (m.uuid, MessageType.SUB, "", m.channel),
    Unsb: lambda m: (m.uuid, MessageType.UNSB, "", m.channel),
    Ack: lambda m: (m.for_, m.for_type, m.uri, m.channel),
    Nack: lambda m: (m.for_, m.for_type, m.uri, m.channel),
    Res: lambda m: (m.for_, MessageType.CALL, m.uri, ""),
    Evnt: lambda m: (m.for_, MessageType.PUB, "", m.channel),
}


def ack(request: Request) -> Ack:
    """Return the ACK of a request."""
    for_, for_type, uri, channel = _REFERENCES[type(request)](request)
    return Ack(for_=for_, for_type=for_type, uri=uri, channel=channel)


def nack(message: Message, code: int, reason: str) -> Nack:
    """Return the NACK that refers to the request at the origin of a message.

    Args:
        message: any of the eight: the request itself, or a response that could not be sent.
        code: see `juggler.errors.NackCode`.
        reason: text for people.

    Raises:
        TypeError: the message is none of the eight.
    """
    reference = _REFERENCES.get(type(message))
    if reference is None:
        raise TypeError(f"expected one of the eight messages, got {type(message).__name__}")
    for_, for_type, uri, channel = reference(message)
    return Nack(for_=for_, for_type=for_type, uri=uri, channel=channel, code=code, message=reason)
