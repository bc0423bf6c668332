"""From a call to its answer: run the thunk, encode what it returns; an exception becomes an error."""

from __future__ import annotations

import os
from typing import NamedTuple

from msgspec import Raw

from juggler.callee.current import Call, running
from juggler.callee.failures import CallError, InvalidResult
from juggler.callee.thunk import Thunk
from juggler.errors import InvalidValue
from juggler.protocol.codec import check_args, encode_args

_HERE = os.path.dirname(__file__) + os.sep
_LOOKS_FAILED = b'{"error":'


class Answer(NamedTuple):
    """What is sent back for a call.

    Attributes:
        args: JSON text.
        failed: True for an error, False for a result that looks like one, ``None`` for any other result.
    """

    args: bytes
    failed: bool | None


def run(thunk: Thunk, call: Call) -> Answer:
    """Run the function and return its result.

    Raises:
        juggler.errors.InvalidValue: the arguments cannot be decoded.
        InvalidResult: the result cannot be encoded.
        BaseException: whatever the function raises.
    """
    token = running.set(call)
    try:
        value = thunk.run(call)
    finally:
        running.reset(token)
    if type(value) is Raw:
        return _raw(bytes(value))
    try:
        args = encode_args(value)
    except InvalidValue as error:
        raise InvalidResult(f"the function's result cannot be sent: {error}") from None
    return Answer(args, False if args.startswith(_LOOKS_FAILED) else None)


def _raw(text: bytes) -> Answer:
    """Check JSON text that a function has written itself."""
    try:
        check_args(text)
    except InvalidValue as error:
        raise InvalidResult(f"the function's result cannot be sent: {error}") from None
    return Answer(text, False)


def without_our_part(exception: BaseException) -> BaseException:
    """Return the exception with its traceback from the function on; from here on where the function is not in it."""
    traceback = exception.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_HERE):
        traceback = traceback.tb_next
    return exception.with_traceback(traceback or exception.__traceback__)


def error(exception: BaseException, call_id: str = "", mask: bool = False) -> Answer:
    """Return what tells the caller of an exception.

    Args:
        exception: what was raised.
        call_id: where the log says more.
        mask: say nothing of it but ``call_id``, unless it was made for the caller.
    """
    if mask and not isinstance(exception, CallError):
        return Answer(encode_args({"error": {"message": f"internal error, call {call_id}", "type": "Internal"}}), True)
    name = type(exception).__name__
    try:
        message = str(exception) or name
    except BaseException:
        message = name
    told: dict[str, object] = {"message": message, "type": name}
    if isinstance(exception, CallError):
        told.update({key: more for key in ("code", "data") if (more := getattr(exception, key, None)) is not None})
    try:
        return Answer(encode_args({"error": told}), True)
    except InvalidValue as invalid:
        kept = {key: value for key, value in told.items() if isinstance(value, (str, int))}
        kept["data"] = f"cannot be sent: {invalid}"
        return Answer(encode_args({"error": kept}), True)
