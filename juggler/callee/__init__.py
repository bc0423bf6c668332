"""The callee's side: functions bound to URIs, and the worker that runs them.

::

    from callee import Callee

    rpc = Callee()

    @rpc.register("greet")
    def greet(name: str) -> str:
        return f"hello, {name}"

Run it with ``juggler-callee MODULE:rpc``, or with `callee.worker.Worker` from a program of your own. Within functions
there are `time_left`, `given_up`, `publish` and `current_call`; `CallError` is for errors that callers are to see.
"""

from juggler.callee.current import Call, current_call, given_up, publish, time_left
from juggler.callee.failures import CallError, DeadlineExceeded, InvalidArguments, TimeIsUp, TimeLimitExceeded
from juggler.callee.registry import Callee

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
