"""What a supervisor and its processes tell each other, as lines of JSON on a socket. PURE."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from juggler.process.metrics import Snapshot

CONTROL_VARIABLE = "JUGGLER_CALLEE_CONTROL"
"""Names the socket's descriptor in the environment of a process that is supervised."""

STOP = b"stop\n"
"""What a process is told; the end of the socket means the same."""


class Serving(msgspec.Struct, tag=True):
    """The process serves: these URIs, so many calls at a time by kind of pool, from this Redis."""

    uris: list[str]
    capacity: dict[str, int]
    redis: str


class Report(msgspec.Struct, tag=True):
    """How the process is, see `callee.status.Status`; told every second, and once more at its end."""

    unwell: str
    snapshot: Snapshot


_decoder = msgspec.json.Decoder(Serving | Report)


def encode(message: Serving | Report) -> bytes:
    """Return a message as a line."""
    return msgspec.json.encode(message) + b"\n"


class Lines:
    """Takes bytes as they come, and gives messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Serving | Report]:
        """Return the messages that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        messages = []
        for line in lines:
            # A process that was killed may have left half a line.
            with suppress(msgspec.MsgspecError):
                messages.append(_decoder.decode(line))
        return messages


def serving_line(serving: Serving, processes: int, shown: str) -> str:
    """Return the line that says what is served, by how many, from where."""
    counts = dict(serving.capacity)
    calls = counts.pop("greenlet", 0)
    parts = [f"{calls} calls at a time"] if calls else []
    parts += [f"{count} in {'threads' if kind == 'thread' else 'processes'}" for kind, count in counts.items()]
    each = f"{processes} processes of " if processes > 1 else ""
    return f"serving {shown}, {each}{', '.join(parts)}, from {serving.redis}"
