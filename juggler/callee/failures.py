"""Exceptions in and around functions.

::

    CallError               raised by functions: an error for the caller, with a code and data
    └── InvalidArguments    the arguments do not match the function's parameters; it was not run
    InvalidResult           the function returned a value that JSON does not support
    ProcessDied             the pool process that ran the function exited
    TimeIsUp                raised in functions; not an Exception, so that ``except Exception`` does not catch it
    ├── DeadlineExceeded    the call was abandoned: its deadline has passed
    ├── TimeLimitExceeded   the function exceeded the worker's time limit
    └── Cancelled           the caller has cancelled the call, or has gone
"""

from __future__ import annotations

from typing import Any


class CallError(Exception):
    """An error for the caller, who receives its text; that of other exceptions is masked.

    ::

        raise CallError("not enough money", code=402, data={"missing": 3})

    Attributes:
        message: text of the error.
        code: number or word by which programs distinguish errors; chosen by the application.
        data: any JSON value with details for programs.
    """

    def __init__(self, message: str, *, code: int | str | None = None, data: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.data = data


class InvalidArguments(CallError):
    """The arguments of a call do not match the function. The text names the parameter and what was expected."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=400)


class InvalidResult(Exception):
    """The function returned a value that JSON does not support. The text names the value."""


class ProcessDied(Exception):
    """The pool process exited before the function completed."""


class TimeIsUp(BaseException):
    """The function has to stop: the time for its call is over."""


class DeadlineExceeded(TimeIsUp):
    """The call was abandoned: its deadline has passed. Raised in functions registered with ``deadline="enforce"``."""

    def __init__(self, reason: str = "the call was abandoned: its deadline has passed") -> None:
        super().__init__(reason)


class TimeLimitExceeded(TimeIsUp):
    """The function ran longer than the worker's ``time_limit``."""


class Cancelled(TimeIsUp):
    """The caller has cancelled the call, or has gone.

    Raised in functions registered with ``cancel="raise"``. Others may raise it when `callee.cancelled` returns true.
    The caller receives an error with this type and code 499.
    """

    code = 499

    def __init__(self, message: str = "the call was cancelled") -> None:
        super().__init__(message)
