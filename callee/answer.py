"""From a call's arguments to its answer, both as JSON text: decode, run, encode; an exception becomes an error."""

from __future__ import annotations

from callee.binding import Thunk
from juggler.codec import decode_args, encode_args
from juggler.errors import InvalidValue


class InvalidResult(Exception):
    """A function returned what JSON cannot carry. Its text says what."""


def run(thunk: Thunk, args: bytes) -> bytes:
    """Run the function and return its result as JSON text.

    Raises:
        InvalidValue: ``args`` cannot be decoded.
        InvalidResult: the result cannot be encoded.
        BaseException: whatever the function raises.
    """
    value = thunk(decode_args(args))
    try:
        return encode_args(value)
    except InvalidValue as error:
        raise InvalidResult(f"the function's result cannot be sent: {error}") from None


def error(exception: BaseException) -> bytes:
    """Return the JSON text that tells the caller of an exception."""
    name = type(exception).__name__
    try:
        message = str(exception) or name
    except BaseException:
        message = name
    return encode_args({"error": {"message": message, "type": name}})
