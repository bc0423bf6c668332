"""Results in parts: what generators yield. Imports no gevent: pool processes run it, too."""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic
from typing import Any

from msgspec import Raw

from juggler.broker import IncomingCall
from juggler.callee.failures import Cancelled, DeadlineExceeded, InvalidResult
from juggler.errors import InvalidValue
from juggler.protocol.codec import check_args, encode_args

PROGRESS_INTERVAL = 0.1
"""Minimum number of seconds between two parts of `callee.progress`."""

MAX_COLLECTED = 10_000
"""Maximum number of parts for a caller that has not asked for parts, and receives all of them as the result."""


def encode_part(value: Any) -> bytes:
    """Return a part as JSON text.

    Raises:
        InvalidResult: JSON does not support it.
    """
    try:
        if type(value) is Raw:
            text = bytes(value)
            check_args(text)
            return text
        return encode_args(value)
    except InvalidValue as error:
        raise InvalidResult(f"a part of the function's result cannot be encoded as JSON: {error}") from None


def drain(call: IncomingCall, generator: Generator[Any, Any, Any]) -> Any:
    """Send what a generator yields, and return its result. If the caller has not asked for parts, return their list.

    Raises:
        InvalidResult: a part cannot be encoded, or there are too many for a list.
        juggler.callee.failures.TimeIsUp: the call was cancelled or has expired. The generator is closed.
        BaseException: any exception of the generator.
    """
    send = call.sender
    try:
        if send is None or call.parts is None:
            return _collect(call, generator)
        while True:
            try:
                value = next(generator)
            except StopIteration as end:
                return end.value
            send(encode_part(value), False)
    finally:
        generator.close()


def _collect(call: IncomingCall, generator: Generator[Any, Any, Any]) -> list[Any]:
    parts: list[Any] = []
    for part in generator:
        if len(parts) == MAX_COLLECTED:
            raise InvalidResult(f"more than {MAX_COLLECTED:,} parts: such a result can only be streamed")
        parts.append(part)
        check_wanted(call)
    return parts


def check_wanted(call: IncomingCall) -> None:
    """Raise if the call was cancelled or has expired.

    Raises:
        Cancelled: it was cancelled.
        DeadlineExceeded: it has expired.
    """
    if call.cancelled:
        raise Cancelled
    if call.deadline <= monotonic():
        raise DeadlineExceeded
