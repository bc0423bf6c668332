"""The package `juggler.callee` under its short name: ``from callee import Callee``.

Another distribution on PyPI is called callee as well. With both installed, import from `juggler.callee`, which is the
same package and does not depend on this name.
"""

from juggler.callee import (
    Call,
    Callee,
    CallError,
    DeadlineExceeded,
    InvalidArguments,
    TimeIsUp,
    TimeLimitExceeded,
    current_call,
    given_up,
    publish,
    time_left,
)

__all__ = [
    "Call",
    "CallError",
    "Callee",
    "DeadlineExceeded",
    "InvalidArguments",
    "TimeIsUp",
    "TimeLimitExceeded",
    "current_call",
    "given_up",
    "publish",
    "time_left",
]
