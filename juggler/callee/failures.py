"""What can go wrong in and around a function, as exceptions: those that functions raise, and those they are told.

::

    CallError               raised by functions: an error made for the caller, with a code and data
    └── InvalidArguments    the arguments do not fit the function's parameters; it was not run
    InvalidResult           a function returned what JSON cannot carry
    ProcessDied             the process of a pool in which a function ran has died
    TimeIsUp                raised in functions; no Exception, so that ``except Exception`` does not stop it
    ├── DeadlineExceeded    nobody waits for the result any more
    └── TimeLimitExceeded   the function ran longer than the worker allows
"""

from __future__ import annotations

from typing import Any


class CallError(Exception):
    """An error made for the caller: he is told its text whatever the worker hides. It is no fault of the callee's.

    ::

        raise CallError("not enough money", code=402, data={"missing": 3})

    Attributes:
        message: what the caller is told.
        code: a number or word by which programs tell errors apart, of the application's own choice.
        data: more for programs: whatever JSON can carry.
    """

    def __init__(self, message: str, *, code: int | str | None = None, data: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.data = data


class InvalidArguments(CallError):
    """The arguments of a call do not fit the function. Its text names the parameter, and what was expected."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=400)


class InvalidResult(Exception):
    """A function returned what JSON cannot carry. Its text says what."""


class ProcessDied(Exception):
    """The process in which a function ran has died before the function had ended."""


class TimeIsUp(BaseException):
    """The time of a call is over."""


class DeadlineExceeded(TimeIsUp):
    """Nobody waits for the result any more. Raised in functions registered with ``deadline="enforce"``."""


class TimeLimitExceeded(TimeIsUp):
    """The function ran longer than the worker's ``time_limit``."""
