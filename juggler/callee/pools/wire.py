"""Messages between a worker and its pool processes: MessagePack with a length prefix. PURE.

The worker sends an `IncomingCall`, `Published`, `Taken` or `Cancel`, a process sends the others.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from juggler.broker import IncomingCall

LENGTH = struct.Struct("!I")


class Ready(msgspec.Struct, tag=True):
    """The process has imported the callee and can run calls."""


class Publish(msgspec.Struct, tag=True):
    """The function publishes an event and blocks until `Published`."""

    channel: str
    args: bytes
    trace: str = ""


class Published(msgspec.Struct, tag=True):
    """The event was published. If not, ``code`` and ``reason`` are those of a `juggler.errors.BrokerError`."""

    code: int | None = None
    reason: str = ""


class Part(msgspec.Struct, tag=True):
    """A part of the result. The function blocks until `Taken`, except for progress."""

    args: bytes
    is_progress: bool = False


class Taken(msgspec.Struct, tag=True):
    """The part was taken, or not: the call was cancelled or has expired."""

    cancelled: bool = False
    expired: bool = False


class Cancel(msgspec.Struct, tag=True):
    """A call was cancelled. Sent on the control connection of a process, to which it never replies.

    Attributes:
        call_id: identifier of the call.
        stop: whether to raise `callee.Cancelled` in the function.
    """

    call_id: str
    stop: bool


class Done(msgspec.Struct, tag=True):
    """The function returned. The fields are those of `juggler.callee.answer.Answer`."""

    args: bytes
    failed: bool | None


class Raised(msgspec.Struct, tag=True):
    """The function raised an exception.

    Attributes:
        args: the error for the caller, as JSON text.
        masked: the same error without the exception.
        for_caller: whether it was raised for the caller, see `juggler.callee.answer.is_for_caller`.
        is_stop: whether it is a `callee.TimeIsUp`, which is not the operator's problem.
        message: text of the exception, for the log.
        traceback: formatted traceback, for the log.
        span: `juggler.broker.IncomingCall.span`.
    """

    args: bytes
    masked: bytes
    for_caller: bool
    is_stop: bool
    message: str
    traceback: str
    span: str


Message = Ready | IncomingCall | Publish | Published | Part | Taken | Cancel | Done | Raised
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Return a message as a frame."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


def receive(read: Callable[[int], bytes]) -> Message | None:
    """Read one message; return ``None`` at the end of the stream.

    Args:
        read: reads exactly the given number of bytes, or fewer at the end of the stream.
    """
    head = read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    body = read(size)
    return _decoder.decode(body) if len(body) == size else None
