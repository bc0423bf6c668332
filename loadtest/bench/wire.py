"""juggler.0 as the load generator speaks it: frames built once, answers looked at and not decoded.

PURE. It relies on how `juggler.protocol.codec` writes responses, and fails on any other text rather than count it
wrongly.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

CALL, PUB, SUB = 1, 2, 3
NACK, ACK, RES, EVNT = b"7", b"8", b"9", b"1"
"""The first digit of a response's type."""

TEXT, CLOSE, PING = 0x81, 0x88, 0x89
KEY = bytes.fromhex("37fa213d")
"""What frames are masked with (RFC 6455 §5.3), so that the server has the work that browsers give it."""

HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Protocol: juggler.0\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

_HEAD = b'{"meta":{"type":'
_FOR = b'"for":"'
_ARGS = b'"args":"'
_NUMBER_AT = len(_FOR) + 24


class UnknownMessage(Exception):
    """The server said what the generator does not know."""


class Frames(NamedTuple):
    """What has come: texts, other frames by their first byte, and what is not yet a whole frame."""

    texts: list[bytes]
    others: list[tuple[int, bytes]]
    rest: bytes


def masked(payload: bytes) -> bytes:
    """Return a payload as a client sends it."""
    size = len(payload)
    key = (KEY * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def client_frame(payload: bytes, first: int = TEXT) -> bytes:
    """Return a whole message as one masked frame; ``first`` is its first byte."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + KEY + masked(payload)


CLOSE_FRAME = client_frame((1000).to_bytes(2, "big"), CLOSE)


def uuid_of(number: int) -> str:
    """Return a UUID that tells which number it was made of."""
    return f"00000000-0000-4000-8000-{number:012x}"


def request(type: int, number: int, **payload: Any) -> bytes:
    """Return a request as a frame; ``number`` is what `number_of` returns of its answers."""
    return client_frame(text(type, number, **payload))


def text(type: int, number: int, **payload: Any) -> bytes:
    """Return a request as JSON."""
    message = {"meta": {"type": type, "uuid": uuid_of(number)}, "payload": payload}
    return json.dumps(message, separators=(",", ":")).encode()


def split(data: bytes) -> Frames:
    """Take what a server has sent apart; it masks nothing."""
    texts: list[bytes] = []
    others: list[tuple[int, bytes]] = []
    at, size = 0, len(data)
    while size - at >= 2:
        first, length, start = data[at], data[at + 1], at + 2
        if length == 126:
            start += 2
            length = int.from_bytes(data[at + 2 : start], "big")
        elif length == 127:
            start += 8
            length = int.from_bytes(data[at + 2 : start], "big")
        end = start + length
        if end > size:
            break
        if first == TEXT:
            texts.append(data[start:end])
        else:
            others.append((first, data[start:end]))
        at = end
    return Frames(texts, others, data[at:] if at else data)


def kind(message: bytes) -> bytes:
    """Return which of `NACK`, `ACK`, `RES` and `EVNT` a message is.

    Raises:
        UnknownMessage: it does not begin as juggler's messages do.
    """
    if not message.startswith(_HEAD):
        raise UnknownMessage(f"the server sent {message[:100]!r}")
    return message[16:17]


def number_of(message: bytes) -> int:
    """Return the number of the request that a message answers."""
    at = message.find(_FOR) + _NUMBER_AT
    return int(message[at : at + 12], 16)


def args_of(event: bytes) -> bytes:
    """Return what follows the opening quote of an event's ``args``, which are a string."""
    return event[event.rfind(_ARGS) + len(_ARGS) :]


def stamped(publisher: int, ns: int) -> str:
    """Return ``args`` that say who published, and when, in nanoseconds."""
    return f"{publisher}-{ns}-"


def stamp_of(event: bytes) -> tuple[int, int]:
    """Return who published an event, and when, in nanoseconds."""
    publisher, ns, _ = args_of(event).split(b"-", 2)
    return int(publisher), int(ns)
