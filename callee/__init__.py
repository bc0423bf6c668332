"""The short name of `juggler.callee`: ``from callee import Callee``.

Both names give the same objects. Another distribution on PyPI is also called callee. If both are installed, import from
``juggler.callee``, which does not depend on this name.
"""

from juggler.callee import (
    Call,
    Callee,
    Caller,
    CallError,
    Cancelled,
    ConnectionEvent,
    DeadlineExceeded,
    InvalidArguments,
    TimeIsUp,
    TimeLimitExceeded,
    caller,
    cancelled,
    current_call,
    given_up,
    progress,
    publish,
    time_left,
    trace,
)

__all__ = [
    "Call",
    "CallError",
    "Callee",
    "Caller",
    "Cancelled",
    "ConnectionEvent",
    "DeadlineExceeded",
    "InvalidArguments",
    "TimeIsUp",
    "TimeLimitExceeded",
    "caller",
    "cancelled",
    "current_call",
    "given_up",
    "progress",
    "publish",
    "time_left",
    "trace",
]
