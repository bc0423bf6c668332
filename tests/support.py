"""Wait for conditions, never for durations; read what has arrived."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import gevent
import redis

T = TypeVar("T")

POLL, MAX_POLL = 0.002, 0.02


def eventually(condition: Callable[[], T], timeout: float = 20.0, message: str = "") -> T:
    """Poll ``condition`` until it returns a true value, and return that value.

    Args:
        condition: called repeatedly; may raise AssertionError for "not yet".
        timeout: seconds after which the test fails.
        message: part of the failure.
    """
    deadline, pause = time.monotonic() + timeout, POLL
    while True:
        try:
            value = condition()
            failure = AssertionError(f"not within {timeout:g} s: {message or condition}; last value {value!r}")
        except AssertionError as error:
            value, failure = None, error  # type: ignore[assignment]
        if value:
            return value
        if time.monotonic() > deadline:
            raise failure
        gevent.sleep(pause)
        pause = min(pause * 1.2, MAX_POLL)  # what takes longer, such as the start of a process, needs the CPU itself


def available(sock: Any) -> bytes:
    """Return the bytes that have arrived on a socket, without waiting for more."""
    data = bytearray()
    sock.setblocking(False)
    try:
        while piece := sock.recv(1 << 20):
            data += piece
    except BlockingIOError:
        pass
    finally:
        sock.setblocking(True)
    return bytes(data)


LASTING = tuple(b"juggler:%b:{" % name for name in (b"results", b"calls", b"calls:cancelled", b"control", b"replies"))
"""Lists, which outlive their payloads, and marks of cancelled calls, which live as long as the call might have."""


def is_kept(key: bytes, pttl: int, lists: tuple[bytes, ...] = LASTING) -> bool:
    """Return whether a key in Redis is left behind: any, except for those that last and have an expiry."""
    return not any(name in key for name in lists) or pttl == -1 or pttl > 3_600_000


def keys_of_calls(client: redis.Redis) -> list[bytes]:
    """Return all keys but those of callees that live, or were killed a moment ago, and of their functions."""
    return [key for key in client.scan_iter() if not key.startswith((b"juggler:callee", b"juggler:uris"))]
