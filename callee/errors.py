"""See `juggler.callee.errors`."""

from juggler.callee.errors import (
    CallError,
    DeadlineExceeded,
    InvalidArguments,
    InvalidResult,
    ProcessDied,
    TimeIsUp,
    TimeLimitExceeded,
)

__all__ = [
    "CallError",
    "DeadlineExceeded",
    "InvalidArguments",
    "InvalidResult",
    "ProcessDied",
    "TimeIsUp",
    "TimeLimitExceeded",
]
