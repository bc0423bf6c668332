"""NATS's client protocol over websocket, as far as the load generator speaks it. PURE.

The server sends a stream of bytes in frames: a frame may contain several messages, or a part of one. Reference:
https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

from __future__ import annotations

from typing import NamedTuple

from loadtest.bench.generator.wire import client_frame

CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":false,"lang":"bench","version":"1","protocol":1}\r\n'
PING, PONG = b"PING", b"PONG"
END = b"\r\n"
_MSG = b"MSG "


class Stream(NamedTuple):
    """Subjects with payloads, other lines, and the bytes of an incomplete message."""

    messages: list[tuple[bytes, bytes]]
    lines: list[bytes]
    rest: bytes


def line(text: bytes) -> bytes:
    """Return a line as a frame."""
    return client_frame(text + END)


def subscribe(subject: str, number: int) -> bytes:
    """Return a SUB; ``number`` identifies it within the connection."""
    return b"SUB %b %d\r\n" % (subject.encode(), number)


def publish(subject: str, payload: bytes, reply_to: str = "") -> bytes:
    """Return a PUB as a frame."""
    words = f"PUB {subject} {reply_to} {len(payload)}" if reply_to else f"PUB {subject} {len(payload)}"
    return client_frame(words.encode() + END + payload + END)


def split(data: bytes) -> Stream:
    """Split received bytes into messages and other lines."""
    messages: list[tuple[bytes, bytes]] = []
    lines: list[bytes] = []
    at, size = 0, len(data)
    while (end := data.find(END, at)) >= 0:
        if data.startswith(_MSG, at):
            # MSG subject number [reply-to] size
            words = data[at:end].split()
            start = end + 2
            end = start + int(words[-1])
            if end + 2 > size:
                break
            messages.append((words[1], data[start:end]))
        else:
            lines.append(data[at:end])
        at = end + 2
    return Stream(messages, lines, data[at:])
