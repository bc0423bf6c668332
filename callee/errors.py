"""The short name of `juggler.callee.failures`."""

from juggler.callee.failures import (
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
