"""Messages between a supervisor and its worker processes: lines of JSON on a socket. PURE."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from juggler.process.metrics import Snapshot

STOP = b"stop\n"
"""Sent to a process to stop it. Closing the socket has the same effect."""

RETIRE = b"retire\n"
"""Sent to a process to make it exit when its calls in flight have completed, however long that takes."""


class Serving(msgspec.Struct, tag=True):
    """The process has started to take calls.

    Attributes:
        uris: registered functions.
        capacity: maximum concurrent calls, by kind of pool.
        redis: URL of Redis, without the password.
    """

    uris: list[str]
    capacity: dict[str, int]
    redis: str


class Report(msgspec.Struct, tag=True):
    """Status of the process, sent every second and once before it exits. See `juggler.callee.health.Status`.

    Attributes:
        calls: calls that the process has run itself, if they are limited.
        memory: its resident memory in bytes, if it is limited.
    """

    unhealthy_reason: str | None
    snapshot: Snapshot
    calls: int = 0
    memory: int | None = None


_decoder = msgspec.json.Decoder(Serving | Report)


def encode(message: Serving | Report) -> bytes:
    """Return a message as a line."""
    return msgspec.json.encode(message) + b"\n"


class Lines:
    """Decodes messages from a stream of bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Serving | Report]:
        """Return the messages that are complete with these bytes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        messages = []
        for line in lines:
            # A process that was killed may have left half a line.
            with suppress(msgspec.MsgspecError):
                messages.append(_decoder.decode(line))
        return messages


def serving_line(serving: Serving, processes: int, shown: str) -> str:
    """Return the line that the command prints once it serves: functions, concurrency, Redis."""
    counts = dict(serving.capacity)
    calls = counts.pop("greenlet", 0)
    parts = [f"{calls} concurrent calls"] if calls else []
    parts += [f"{count} in {'threads' if kind == 'thread' else 'processes'}" for kind, count in counts.items()]
    each = f"{processes} processes of " if processes > 1 else ""
    return f"serving {shown}, {each}{', '.join(parts)}, from {serving.redis}"
