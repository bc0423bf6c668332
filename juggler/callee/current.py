"""The running call: what a function can ask about it, and publishing from within a function."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from juggler.broker import Caller, IncomingCall

running: ContextVar[IncomingCall] = ContextVar("callee.running")
"""The call that runs in this context."""


def current_call() -> IncomingCall:
    """Return the running call.

    Greenlets and threads that the function starts have to run in its context: ``copy_context().run``.

    Raises:
        RuntimeError: no call is running here.
    """
    try:
        return running.get()
    except LookupError:
        raise RuntimeError("no call is running here: use this within a registered function") from None


def caller() -> Caller:
    """Return the caller of the running call. Its `callee.Caller.identity` is ``None`` if the server sent none."""
    return current_call().caller


def trace() -> str:
    """Return the W3C traceparent of the running call's caller; empty if it sent none."""
    return current_call().trace


def time_left() -> float:
    """Return the seconds until the deadline of the running call; 0 after it."""
    return current_call().time_left()


def given_up() -> bool:
    """Return whether the running call was abandoned: it was cancelled, or its deadline has passed."""
    return current_call().given_up()


def cancelled() -> bool:
    """Return whether the running call was cancelled: by its caller, or because the caller's connection has closed."""
    return current_call().cancelled


def progress(value: Any) -> None:
    """Send a part of the result to a caller that has asked for parts, for example how far the function has got.

    At most 10 per second are sent; a newer one replaces one that was not sent yet. Never blocks. Does nothing if the
    caller has not asked for parts.

    Args:
        value: any JSON value.

    Raises:
        RuntimeError: no call is running here.
        juggler.errors.InvalidValue: JSON does not support the value.
        callee.TimeIsUp: the call was cancelled or has expired.
    """
    current_call().progress(value)


def publish(channel: str, value: Any = None) -> None:
    """Publish an event from within a function. Blocks until the broker has it.

    Args:
        channel: name of the channel, not empty.
        value: any JSON value, sent to the subscribers.

    Raises:
        RuntimeError: no call is running here, or the worker's broker does not support pub-sub.
        juggler.errors.InvalidValue: JSON does not support the value.
        juggler.errors.BrokerError: the event was not published.
    """
    current_call().publish(channel, value)
