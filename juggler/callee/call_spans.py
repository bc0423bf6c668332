"""The spans of calls, in the greenlet, thread or process that runs the function; see `juggler.process.tracing`."""

from __future__ import annotations

from collections.abc import Generator

from juggler.callee.current import current_call
from juggler.callee.thunk import Thunk
from juggler.process.tracing import NAME, current_trace, find_tracer


def traced(thunk: Thunk) -> Thunk:
    """Return a thunk whose calls have spans; without a tracer provider, the same thunk."""
    return thunk if find_tracer() is None else thunk.included(thunk.uri, (_span,))


def _span() -> Generator[None, None, None]:
    tracer = find_tracer()
    assert tracer is not None
    call = current_call()
    attributes = {
        "messaging.system": NAME,
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": call.uri,
        "messaging.message.id": call.msg_uuid,
        "rpc.system": NAME,
        "rpc.method": call.uri,
        "juggler.waited": call.waited,
    }
    with tracer.within(f"process {call.uri}", "CONSUMER", attributes, call.trace):
        call.span = current_trace()
        yield
