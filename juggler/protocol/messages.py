"""The messages of juggler.0 and juggler.1 as plain values.

PURE. Their JSON is defined in `juggler.protocol.codec` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from typing_extensions import Self

NULL = b"null"

MAX_WINDOW = 1024
"""Maximum window of a CALL that asks for parts."""


class MessageType(IntEnum):
    """Numbers of ``meta.type``. Those from `CUSTOM` up are custom, see `juggler.protocol.custom`.

    juggler.1 has requests from 16 to 31 and responses from 32 to 47. `UNKNOWN` stands for those of later versions.
    """

    UNKNOWN = 0
    CALL = 1
    PUB = 2
    SUB = 3
    UNSB = 4
    NACK = 7
    ACK = 8
    RES = 9
    EVNT = 10
    CNCL = 16
    CRDT = 17
    AUTH = 19
    WLCM = 32
    PART = 33
    ENDS = 34
    CUSTOM = 256

    @property
    def is_request(self) -> bool:
        """Whether clients send this type (the Go package's ``IsRead``)."""
        return 0 <= self <= 4 or 16 <= self <= 31

    @property
    def is_response(self) -> bool:
        """Whether servers send this type (the Go package's ``IsWrite``)."""
        return is_response_number(self)


def is_response_number(number: int) -> bool:
    """Return whether a number is that of a response, known or not."""
    return 7 <= number <= 10 or 32 <= number <= 47


class CustomType(int):
    """The type of messages of a class that is registered with `juggler.protocol.custom.register`.

    Attributes:
        name: name of the type.
        is_request: whether clients send it.
        is_response: whether servers send it.
    """

    name: str
    is_request: bool
    is_response: bool

    def __new__(cls, number: int, name: str, direction: str) -> Self:
        self = super().__new__(cls, number)
        self.name = name
        self.is_request = direction == "request"
        self.is_response = direction == "response"
        return self


class Message(Struct, frozen=True, gc=False, kw_only=True):
    """The base of all messages.

    Attributes:
        uuid: identifier of the message; empty in a response until it is written, when the server assigns one.
    """

    type: ClassVar[MessageType | CustomType]

    uuid: str = ""


class Parts(Struct, frozen=True, gc=False):
    """How a CALL asks for its result in parts.

    Attributes:
        mode: whether the caller needs each part (``"all"``) or the newest one (``"latest"``).
        window: parts that may be sent before the caller has renewed the credit, 1 to `MAX_WINDOW`.
    """

    mode: Literal["all", "latest"]
    window: int


def check_parts(mode: object, window: object) -> None:
    """Check how a program asks for parts.

    Raises:
        ValueError: the mode is unknown, or the window is out of range.
    """
    if mode not in ("all", "latest"):
        raise ValueError(f"mode: expected 'all' or 'latest', got {mode!r}")
    if not isinstance(window, int) or isinstance(window, bool) or not 1 <= window <= MAX_WINDOW:
        raise ValueError(f"window: expected 1 to {MAX_WINDOW}, got {window!r}")


class Call(Message, frozen=True, gc=False):
    """Calls the function at a URI.

    Attributes:
        uri: URI of the function.
        args: arguments as JSON text, UTF-8.
        timeout: seconds until the call expires; 0 means the server's default.
        parts: how the caller asks for parts; ``None`` if it does not, and always under juggler.0.
        trace: W3C traceparent; empty without a valid one.
    """

    type: ClassVar[MessageType] = MessageType.CALL

    uri: str
    args: bytes = NULL
    timeout: float = 0.0
    parts: Parts | None = None
    trace: str = ""


class Pub(Message, frozen=True, gc=False):
    """Publishes an event with ``args`` (JSON text) on ``channel``; ``trace`` as in `Call`."""

    type: ClassVar[MessageType] = MessageType.PUB

    channel: str
    args: bytes = NULL
    trace: str = ""


class Sub(Message, frozen=True, gc=False):
    """Subscribes to a channel, or if ``is_pattern`` to all channels that match this Redis glob.

    Attributes:
        is_check: whether it does not come from the client: the server asks its handler, after a renewal of the client's
            identity, whether this existing subscription is still allowed. It never travels.
    """

    type: ClassVar[MessageType] = MessageType.SUB

    channel: str
    is_pattern: bool = False
    is_check: bool = False


class Unsb(Message, frozen=True, gc=False):
    """Ends the subscription with the same ``channel`` and ``is_pattern``."""

    type: ClassVar[MessageType] = MessageType.UNSB

    channel: str
    is_pattern: bool = False


class Cncl(Message, frozen=True, gc=False):
    """Cancels the CALL ``for_``. juggler.1.

    Attributes:
        for_: UUID of the CALL.
        wait: whether a RES follows; if not, the ACK of this message completes the call.
    """

    type: ClassVar[MessageType] = MessageType.CNCL

    for_: str
    wait: bool = False


class Crdt(Message, frozen=True, gc=False):
    """Allows the CALL ``for_`` to send its parts up to the number ``until``. juggler.1. It gets no answer."""

    type: ClassVar[MessageType] = MessageType.CRDT

    for_: str
    until: int


class Auth(Message, frozen=True, gc=False):
    """Renews the identity of the connection with a ``token``. juggler.1."""

    type: ClassVar[MessageType] = MessageType.AUTH

    token: str


class Unknown(Message, frozen=True, gc=False):
    """A message of a type that this version does not know: under juggler.1 it gets NACK 501, and clients ignore it.

    Attributes:
        number: its type.
        payload: its payload as JSON text.
    """

    type: ClassVar[MessageType] = MessageType.UNKNOWN

    number: int
    payload: bytes = NULL


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
    """Acknowledges a request: it was processed; a CALL was registered. Attributes as in `Nack`.

    Attributes:
        ttl: of an AUTH: seconds until the client's identity expires; ``None``: it does not.
    """

    type: ClassVar[MessageType] = MessageType.ACK

    for_: str
    for_type: int
    uri: str = ""
    channel: str = ""
    ttl: float | None = None


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
        trace: W3C traceparent of the PUB; empty without a valid one.
    """

    type: ClassVar[MessageType] = MessageType.EVNT

    for_: str
    channel: str
    args: bytes = NULL
    pattern: str = ""
    trace: str = ""


class Wlcm(Message, frozen=True, gc=False):
    """The first message of a server. juggler.1.

    Attributes:
        conn: UUID of the connection.
        features: names of what the server supports, see `juggler.protocol.subprotocols`.
        limits: limits of the server by name, see `juggler.server.options.ServerOptions.limits`.
        ttl: seconds until the client's identity expires; ``None``: it does not.
    """

    type: ClassVar[MessageType] = MessageType.WLCM

    conn: str
    features: tuple[str, ...] = ()
    limits: dict[str, Any] = {}
    ttl: float | None = None


class Part(Message, frozen=True, gc=False):
    """A part of the result of the CALL ``for_``, or several parts that were joined. juggler.1.

    Attributes:
        seq: number of the part in its call, from 1; of the first one, if they were joined.
        args: the part as JSON text; a JSON array of the parts, if they were joined.
        joined: whether they were.
    """

    type: ClassVar[MessageType] = MessageType.PART

    for_: str
    seq: int
    args: bytes = NULL
    joined: bool = False


class Ends(Message, frozen=True, gc=False):
    """The server has cancelled the subscription with this ``channel`` and ``is_pattern``. juggler.1.

    Attributes:
        code: see `juggler.errors.NackCode`.
        message: reason, for people.
    """

    type: ClassVar[MessageType] = MessageType.ENDS

    channel: str
    code: int
    message: str
    is_pattern: bool = False


Request: TypeAlias = Call | Pub | Sub | Unsb | Cncl | Crdt | Auth | Unknown
Response: TypeAlias = Nack | Ack | Res | Evnt | Wlcm | Part | Ends

ALL_REQUEST_TYPES: frozenset[MessageType] = frozenset(t for t in MessageType if t.is_request)
"""The requests of juggler.1. `UNKNOWN` is one of them."""

REQUEST_TYPES: frozenset[MessageType] = frozenset(t for t in MessageType if 1 <= t <= 4)
"""The requests of juggler.0."""

UNANSWERED: frozenset[MessageType] = frozenset(MessageType[name] for name in ("NACK", "CRDT", "WLCM", "ENDS"))
"""Messages to which no NACK refers."""


_Reference: TypeAlias = tuple[str, int, str, str]
"""What an ACK or NACK refers to: ``for_``, ``for_type``, ``uri``, ``channel``."""

_REFERENCES: dict[type[Message], Callable[[Any], _Reference]] = {
    Call: lambda m: (m.uuid, MessageType.CALL, m.uri, ""),
    Pub: lambda m: (m.uuid, MessageType.PUB, "", m.channel),
    Sub: lambda m: (m.uuid, MessageType.SUB, "", m.channel),
    Unsb: lambda m: (m.uuid, MessageType.UNSB, "", m.channel),
    Cncl: lambda m: (m.uuid, MessageType.CNCL, "", ""),
    Crdt: lambda m: (m.uuid, MessageType.CRDT, "", ""),
    Auth: lambda m: (m.uuid, MessageType.AUTH, "", ""),
    Unknown: lambda m: (m.uuid, m.number, "", ""),
    Ack: lambda m: (m.for_, m.for_type, m.uri, m.channel),
    Nack: lambda m: (m.for_, m.for_type, m.uri, m.channel),
    Res: lambda m: (m.for_, MessageType.CALL, m.uri, ""),
    Part: lambda m: (m.for_, MessageType.CALL, "", ""),
    Evnt: lambda m: (m.for_, MessageType.PUB, "", m.channel),
}


def _custom_reference(message: Message) -> _Reference:
    kind = getattr(message, "type", None)
    if isinstance(kind, CustomType) and kind.is_request:
        return message.uuid, int(kind), "", ""
    raise TypeError(f"expected a request or a response to one, got {type(message).__name__}")


def type_name(message: Message) -> str | int:
    """Return the name of a message's type, or its number if it is custom and not registered."""
    return getattr(message.type, "name", message.type)


def is_nackable(message: Message) -> bool:
    """Return whether a NACK can refer to a message."""
    if message.type in UNANSWERED:
        return False
    return message.type < MessageType.CUSTOM or (isinstance(message.type, CustomType) and message.type.is_request)


def ack(request: Message) -> Ack:
    """Return the ACK of a request.

    Raises:
        TypeError: the message is none.
    """
    for_, for_type, uri, channel = _REFERENCES.get(type(request), _custom_reference)(request)
    return Ack(for_=for_, for_type=for_type, uri=uri, channel=channel)


def nack(message: Message, code: int, reason: str) -> Nack:
    """Return the NACK that refers to the request at the origin of a message.

    Args:
        message: the request itself, or a response to it that could not be sent.
        code: see `juggler.errors.NackCode`.
        reason: text for people.

    Raises:
        TypeError: the message is neither.
    """
    for_, for_type, uri, channel = _REFERENCES.get(type(message), _custom_reference)(message)
    return Nack(for_=for_, for_type=for_type, uri=uri, channel=channel, code=code, message=reason)
