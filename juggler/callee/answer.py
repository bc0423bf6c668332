"""From a call to its answer: run the function and encode its result; an exception becomes an error."""

from __future__ import annotations

import logging
import os
from contextvars import Context
from functools import partial
from types import GeneratorType

from msgspec import Raw, Struct

from juggler.broker import IncomingCall
from juggler.callee.around import surround
from juggler.callee.current import running
from juggler.callee.failures import CallError, Cancelled, InvalidResult, ProcessDied, TimeIsUp
from juggler.callee.parts import drain
from juggler.callee.thunk import Thunk
from juggler.errors import InvalidValue
from juggler.process import forked
from juggler.process.logline import Line
from juggler.protocol.codec import check_args, encode_args
from juggler.protocol.messages import NULL
from juggler.protocol.results import error_result

log = logging.getLogger("juggler.callee")

_HERE = os.path.dirname(__file__) + os.sep
_OF_THE_LIBRARY = (TimeIsUp, ProcessDied)
_LOOKS_FAILED = b'{"error":'


class Answer(Struct, frozen=True, gc=False):  # made in a sixth of the time of a NamedTuple
    """The answer to a call.

    Attributes:
        args: JSON text.
        failed: True for an error, False for a result that has the shape of an error, ``None`` for any other result.
    """

    args: bytes
    failed: bool | None


def run(thunk: Thunk, call: IncomingCall) -> Answer:
    """Run the function in a new `contextvars.Context`, within the generators that wrap it, and return its result.

    Raises:
        juggler.errors.InvalidValue: the arguments cannot be decoded.
        InvalidResult: the result cannot be encoded.
        BaseException: any exception of the function or of a generator.
    """
    if thunk.around:
        return Context().run(_run_within, thunk, call)
    return Context().run(_run, thunk, call)


def _run_within(thunk: Thunk, call: IncomingCall) -> Answer:
    running.set(call)
    forks = forked.count
    try:
        found = surround(thunk.around, partial(_run, thunk, call))
    except BaseException as exception:
        if forked.count != forks:
            forked.leave(exception)
        raise
    if forked.count != forks:
        forked.leave()
    return Answer(NULL, None) if found is None else found


def _run(thunk: Thunk, call: IncomingCall) -> Answer:
    running.set(call)
    forks = forked.count
    try:
        value = thunk.run(call)
        if type(value) is GeneratorType:
            value = drain(call, value)
    except BaseException as exception:
        if forked.count != forks:
            forked.leave(exception)
        raise
    if forked.count != forks:
        # The function has forked this process and returned in it, too: only the first one answers, or resumes the
        # generators that wrap the function.
        forked.leave()
    if type(value) is Raw:
        return _raw(bytes(value))
    try:
        args = encode_args(value)
    except InvalidValue as error:
        raise _invalid(error) from None
    return Answer(args, False if args.startswith(_LOOKS_FAILED) else None)


def _raw(text: bytes) -> Answer:
    """Validate JSON text that the function wrote itself."""
    try:
        check_args(text)
    except InvalidValue as error:
        raise _invalid(error) from None
    return Answer(text, False)


def _invalid(error: InvalidValue) -> InvalidResult:
    return InvalidResult(f"the function's result cannot be encoded as JSON: {error}")


def without_library_frames(exception: BaseException) -> BaseException:
    """Return the exception with a traceback that starts in the function, if the function is in it."""
    traceback = exception.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_HERE):
        traceback = traceback.tb_next
    return exception.with_traceback(traceback or exception.__traceback__)


def text_of(exception: BaseException) -> str:
    """Return the text of an exception; the name of its class if it is empty or raises."""
    try:
        return str(exception) or type(exception).__name__
    except BaseException:
        return type(exception).__name__


def is_for_caller(exception: BaseException) -> bool:
    """Return whether an exception was raised for the caller: a `CallError`, or one whose class defines its JSON."""
    return isinstance(exception, CallError) or hasattr(type(exception), "__json__")


def error(exception: BaseException, call_id: str = "", mask: bool = False) -> Answer:
    """Convert an exception to the error that the caller receives.

    If the class of the exception defines its JSON with ``__json__``, as results may, this is all that the caller
    receives.

    Args:
        exception: the exception.
        call_id: identifier of the call, under which the exception is logged.
        mask: send only ``call_id``, except for errors that are raised for the caller or by juggler itself.
    """
    if hasattr(type(exception), "__json__"):
        try:
            return Answer(encode_args(exception), True)
        except InvalidValue as invalid:
            log.error(Line("call: __json__ of an exception failed", type=type(exception).__name__, error=invalid))
    if mask and not isinstance(exception, (CallError, *_OF_THE_LIBRARY)):
        return Answer(error_result(f"internal error, call {call_id}", "Internal"), True)
    fields: dict[str, object] = {"message": text_of(exception), "type": type(exception).__name__}
    if isinstance(exception, (CallError, Cancelled)):
        fields.update({key: more for key in ("code", "data") if (more := getattr(exception, key, None)) is not None})
    try:
        return Answer(encode_args({"error": fields}), True)
    except InvalidValue as invalid:
        fields = {key: value for key, value in fields.items() if isinstance(value, (str, int))}
        fields["data"] = f"cannot be encoded as JSON: {invalid}"
        return Answer(encode_args({"error": fields}), True)
