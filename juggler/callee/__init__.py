"""The callee's side: functions registered for URIs, and the worker that runs them.

::

    from callee import Callee

    rpc = Callee()

    @rpc.register("greet")
    def greet(name: str) -> str:
        return f"hello, {name}"

Run it with ``juggler-callee MODULE:rpc``, or with `callee.worker.Worker` in your own program. Functions can use
`caller`, `time_left`, `given_up`, `cancelled`, `progress`, `publish` and `current_call`, and raise `CallError` to send
an error to the caller. A parameter annotated `Caller` receives the caller.

The package has two names: ``callee``, which is short, and ``juggler.callee``. Another distribution on PyPI is also
called callee. If both are installed, import from ``juggler.callee``: nothing in it depends on the short name.

==================  ==========================
``callee``          ``juggler.callee``
``callee.worker``   ``juggler.callee.worker``
``callee.testing``  ``juggler.callee.testing``
``callee.demo``     ``juggler.callee.demo``
``callee.errors``   ``juggler.callee.failures``
==================  ==========================
"""

from juggler.broker import Caller
from juggler.broker import IncomingCall as Call
from juggler.callee.current import caller, cancelled, current_call, given_up, progress, publish, time_left, trace
from juggler.callee.failures import (
    CallError,
    Cancelled,
    DeadlineExceeded,
    InvalidArguments,
    TimeIsUp,
    TimeLimitExceeded,
)
from juggler.callee.registry import Callee
from juggler.protocol.connection_events import ConnectionEvent

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
