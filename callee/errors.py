"""The short name of `juggler.callee.failures`."""

from juggler.callee.failures import (
    CallError,
    Cancelled,
    DeadlineExceeded,
    InvalidArguments,
    InvalidResult,
    ProcessDied,
    TimeIsUp,
    TimeLimitExceeded,
)

__all__ = [
    "CallError",
    "Cancelled",
    "DeadlineExceeded",
    "InvalidArguments",
    "InvalidResult",
    "ProcessDied",
    "TimeIsUp",
    "TimeLimitExceeded",
]
