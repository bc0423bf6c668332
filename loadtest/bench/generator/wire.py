"""The protocol of the load generator: frames are built once, and responses are searched rather than decoded. PURE.

It relies on the layout in which `juggler.protocol.codec` writes responses, and fails on any other text.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

CALL, PUB, SUB = 1, 2, 3
NACK, ACK, RES, EVNT = b"7", b"8", b"9", b"1"
"""The first digit of a response's type. That of the WLCM of juggler.1 is 3."""

TEXT, BINARY, CLOSE, PING = 0x81, 0x82, 0x88, 0x89
MESSAGES = (TEXT, BINARY)
KEY = bytes.fromhex("37fa213d")
"""Key of all frames (RFC 6455 §5.3): not 0, so that unmasking costs the server as much as with browsers."""

SUBPROTOCOLS = ("juggler.0", "juggler.1")

HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Protocol: %s\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

_HEAD = b'{"meta":{"type":'
_FOR = b'"for":"'
_ARGS = b'"args":"'
_NUMBER_AT = len(_FOR) + 24


class UnknownMessage(Exception):
    """The server sent a message of unexpected layout."""


class Frames(NamedTuple):
    """Payloads of messages, other frames with their first byte, and the bytes of an incomplete frame."""

    texts: list[bytes]
    others: list[tuple[int, bytes]]
    rest: bytes


def masked(payload: bytes) -> bytes:
    """Mask a payload."""
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
    """Return a UUID that contains a number."""
    return f"00000000-0000-4000-8000-{number:012x}"


def request(type: int, number: int, **payload: Any) -> bytes:
    """Return a request as a frame; `number_of` returns ``number`` for its responses."""
    return client_frame(text(type, number, **payload))


def text(type: int, number: int, **payload: Any) -> bytes:
    """Return a request as JSON."""
    message = {"meta": {"type": type, "uuid": uuid_of(number)}, "payload": payload}
    return json.dumps(message, separators=(",", ":")).encode()


def split(data: bytes) -> Frames:
    """Split received bytes into unmasked frames."""
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
        if first in MESSAGES:
            texts.append(data[start:end])
        else:
            others.append((first, data[start:end]))
        at = end
    return Frames(texts, others, data[at:] if at else data)


def kind(message: bytes) -> bytes:
    """Return which of `NACK`, `ACK`, `RES` and `EVNT` a message is.

    Raises:
        UnknownMessage: it does not begin like a message of juggler.
    """
    if not message.startswith(_HEAD):
        raise UnknownMessage(f"the server sent {message[:100]!r}")
    return message[16:17]


def number_of(message: bytes) -> int:
    """Return the number of the request of a response."""
    at = message.find(_FOR) + _NUMBER_AT
    return int(message[at : at + 12], 16)


def args_of(event: bytes) -> bytes:
    """Return the rest of an event from the first character of ``args``, a string."""
    return event[event.rfind(_ARGS) + len(_ARGS) :]


def stamped(publisher: int, ns: int) -> str:
    """Return ``args`` with the publisher and the time of publication."""
    return f"{publisher}-{ns}-"


def stamp_of(args: bytes) -> tuple[int, int]:
    """Return the publisher of an event and the time of publication in nanoseconds from its ``args``."""
    publisher, ns, _ = args.split(b"-", 2)
    return int(publisher), int(ns)
