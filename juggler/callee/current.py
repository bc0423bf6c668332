"""The call that is running: what a function can learn of it, and publish with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeAlias

from juggler.broker import IncomingCall
from juggler.protocol.codec import decode_args, encode_args

Publish: TypeAlias = Callable[[str, bytes], None]
"""Publishes JSON text on a channel, and returns when it is published."""


class Call:
    """A call, as its function sees it.

    Attributes:
        uri: the URI that was called.
        msg_uuid: identifies the call, in logs for example.
        conn_uuid: identifies whom the result is for; the same for many clients of one server.
        args: the arguments as JSON text, as the client has written them.
        deadline: until when the result is wanted, on the clock ``time.monotonic``, in seconds.
        waited: seconds for which it had waited for a callee.
    """

    __slots__ = ("_clock", "_publish", "args", "conn_uuid", "deadline", "msg_uuid", "uri", "waited")

    def __init__(self, incoming: IncomingCall, publish: Publish, clock: Callable[[], float] = time.monotonic) -> None:
        """Made by whoever runs the function."""
        self.uri = incoming.uri
        self.msg_uuid = incoming.msg_uuid
        self.conn_uuid = incoming.conn_uuid
        self.args = incoming.args
        self.deadline = incoming.deadline
        self.waited = incoming.waited
        self._publish = publish
        self._clock = clock

    @property
    def value(self) -> Any:
        """The arguments, decoded. Raises `juggler.errors.InvalidValue` when they have no Python value."""
        return decode_args(self.args)

    def time_left(self) -> float:
        """Return for how many seconds the result is still wanted; 0 when it is not."""
        return max(0.0, self.deadline - self._clock())

    def given_up(self) -> bool:
        """Return whether nobody waits for the result any more."""
        return self.deadline <= self._clock()

    def publish(self, channel: str, value: Any = None) -> None:
        """See `callee.publish`."""
        self._publish(channel, encode_args(value))


running: ContextVar[Call] = ContextVar("callee.running")
"""The call that runs in this greenlet or thread."""


def current_call() -> Call:
    """Return the call that is running here: in its function, and in greenlets that the function has spawned.

    Raises:
        RuntimeError: no call is running here.
    """
    try:
        return running.get()
    except LookupError:
        raise RuntimeError("no call is running here: ask from within a registered function") from None


def time_left() -> float:
    """Return for how many seconds the result of the running call is still wanted; 0 when it is not."""
    return current_call().time_left()


def given_up() -> bool:
    """Return whether nobody waits for the result of the running call any more: its time is over."""
    return current_call().given_up()


def publish(channel: str, value: Any = None) -> None:
    """Publish an event on a channel from within a function, and wait until it is published.

    Args:
        channel: the channel, not empty.
        value: what subscribers get: whatever JSON can carry.

    Raises:
        RuntimeError: no call is running here, or the worker's broker does not publish.
        juggler.errors.InvalidValue: JSON has no such value.
        juggler.errors.BrokerError: it could not be published.
    """
    current_call().publish(channel, value)
