"""What a worker and the processes of its pool tell each other: frames of a length and a message. PURE."""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

LENGTH = struct.Struct("!I")


class Ready(msgspec.Struct, tag=True):
    """The process has imported the callee and waits for work."""


class Task(msgspec.Struct, tag=True):
    """A call to be run. ``time_left`` is in seconds; the rest is as in `juggler.broker.IncomingCall`."""

    conn_uuid: str
    msg_uuid: str
    uri: str
    args: bytes
    time_left: float
    waited: float


class Publish(msgspec.Struct, tag=True):
    """The function publishes something; it waits for `Published`."""

    channel: str
    args: bytes


class Published(msgspec.Struct, tag=True):
    """It is published, or not: then ``code`` and ``reason`` are those of a `juggler.errors.BrokerError`."""

    code: int | None = None
    reason: str = ""


class Done(msgspec.Struct, tag=True):
    """The function has returned. See `callee.answer.Answer`."""

    args: bytes
    failed: bool | None


class Raised(msgspec.Struct, tag=True):
    """The function has raised something.

    Attributes:
        args: the error for the caller, as JSON text.
        masked: the same without what was raised.
        for_caller: whether it is a `callee.errors.CallError`.
        traceback: for the log.
    """

    args: bytes
    masked: bytes
    for_caller: bool
    traceback: str


Message = Ready | Task | Publish | Published | Done | Raised
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Return a message as a frame."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


def receive(read: Callable[[int], bytes]) -> Message | None:
    """Read a message, with a function that reads exactly so many bytes, or less at the end; ``None`` at the end."""
    head = read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    body = read(size)
    return _decoder.decode(body) if len(body) == size else None
