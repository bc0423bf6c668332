"""Call functions as a client would, without a client, a server or Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from gevent import get_hub
from gevent.hub import Hub
from gevent.monkey import get_original

from juggler.broker import MARK, IncomingCall
from juggler.callee import answer
from juggler.callee.failures import Cancelled
from juggler.callee.pools.greenlets import GreenletRunner
from juggler.callee.testing.inline_stream import Stream
from juggler.callee.testing.outcome import Outcome
from juggler.callee.thunk import Thunk
from juggler.errors import CloseCode, Expired, NackCode, Nacked
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import decode_args, encode_args
from juggler.protocol.connection_events import (
    ON_CONNECT,
    ON_DISCONNECT,
    ConnectionEvent,
    encode_connection_event,
)

_allocate_lock = get_original("_thread", "allocate_lock")
_start_new_thread = get_original("_thread", "start_new_thread")


class Published(NamedTuple):
    """An event published by a function. ``args`` is decoded."""

    channel: str
    args: Any


class Caller:
    """Runs the functions of a callee in place.

    ::

        caller = Caller(rpc)
        assert caller.call("math.add", [1, 2]) == 3

    Arguments and results are encoded as JSON, arguments are validated, and errors are those of `juggler.client`.
    Functions registered for a pool run in place as well.

    Attributes:
        published: events that functions have published, oldest first.
    """

    def __init__(
        self,
        callee: Mapping[str, Thunk],
        *,
        caller: Any = None,
        time_limit: float | None = None,
        mask_errors: bool = False,
    ) -> None:
        """Create a caller.

        Args:
            callee: functions by URI.
            caller: identity that functions receive, any JSON value, see `callee.caller`. ``None`` means unknown.
            time_limit: see `callee.worker.Worker`.
            mask_errors: see `callee.worker.Worker`. Default: False, so that tests show every error.

        Raises:
            juggler.errors.InvalidValue: JSON does not support the identity.
        """
        self.published: list[Published] = []
        self._callee = callee
        self._runner = GreenletRunner(time_limit)
        self._mask = mask_errors
        self._by = b"" if caller is None else encode_args(caller)

    def call(self, uri: str, args: Any = None, timeout: float = 60.0, *, cancel_after: float | None = None) -> Any:
        """Call a function and return its result.

        Args:
            uri: URI of the function.
            args: any JSON value.
            timeout: deadline of the call, in seconds from now.
            cancel_after: seconds after which the call is cancelled, as by ``Pending.cancel(wait=True)`` of a client. 0
                cancels it before the function starts. ``None``: never.

        Raises:
            juggler.errors.CallFailed: the function raised, the arguments do not match, or JSON does not support the
                result. ``__cause__`` is the exception that the function raised. After a cancel, type is "Cancelled" and
                code is 499, unless the function returned a result.
            juggler.errors.Expired: the call took longer than ``timeout``.
            juggler.errors.Nacked: no function is registered for the URI; code 404.
            juggler.errors.InvalidValue: JSON does not support the arguments.
        """
        thunk, call = self._begin(uri, args, timeout)
        with self._cancelling(thunk, call, cancel_after):
            outcome = self._run(thunk, call)
        if time.monotonic() >= call.deadline:
            raise Expired(f"no result of {uri} within {timeout:g} s")
        return outcome.value()

    def connect(self, connection: str = "", address: str = "127.0.0.1") -> None:
        """Call the function for clients that have connected, as a server does; see `callee.Callee.on_connect`.

        The identity is that of this object.

        Args:
            connection: identifier of the connection. Default: a new UUID.
            address: address of the client.

        Raises:
            juggler.errors.CallFailed: the function raised.
            juggler.errors.Nacked: there is no such function; code 404.
        """
        self._report(ON_CONNECT, connection, address, None, "")

    def disconnect(
        self,
        connection: str = "",
        address: str = "127.0.0.1",
        *,
        code: int = CloseCode.NORMAL,
        reason: str = "",
    ) -> None:
        """Call the function for clients that have disconnected, as `connect`, with a close code and its reason."""
        self._report(ON_DISCONNECT, connection, address, code, reason)

    def _report(self, uri: str, connection: str, address: str, code: int | None, reason: str) -> None:
        event = ConnectionEvent(
            connection=connection or new_uuid(), at=time.time(), address=address, code=code, reason=reason
        )
        thunk, call = self._begin(uri, None, 60.0)
        call.args = encode_connection_event(event)
        call.msg_uuid = call.msg_uuid[:13] + MARK + call.msg_uuid[19:]
        self._run(thunk, call).value()

    def stream(self, uri: str, args: Any = None, timeout: float = 60.0) -> Stream:
        """Call a function, and return its result in parts.

        ::

            with caller.stream("shop.describe", "green tea") as stream:
                assert list(stream) == ["green", "tea"]
                assert stream.result() == {"words": 2}

        The function runs only while the next part is awaited, so that a test knows where it is. Each value of
        `callee.progress` is a part. The end of the ``with`` block cancels the call and waits for the function to end.

        Args:
            uri: URI of the function.
            args: any JSON value.
            timeout: seconds for each part and the result.

        Raises:
            juggler.errors.Nacked: no function is registered for the URI; code 404.
            juggler.errors.InvalidValue: JSON does not support the arguments.
        """
        thunk, call = self._begin(uri, args, timeout)
        return Stream(call, timeout, lambda: self._run(thunk, call), lambda: self._cancel(thunk, call))

    def _begin(self, uri: str, args: Any, timeout: float) -> tuple[Thunk, IncomingCall]:
        thunk = self._callee.get(uri)
        if thunk is None:
            raise Nacked(NackCode.NOT_FOUND, f"no function is registered for {uri}")
        text = encode_args(args)
        deadline = time.monotonic() + timeout
        return thunk, IncomingCall(new_uuid(), new_uuid(), uri, text, deadline, publisher=self._publish, by=self._by)

    def _run(self, thunk: Thunk, call: IncomingCall) -> Outcome:
        try:
            if call.cancelled:
                raise Cancelled
            return Outcome(call.uri, self._runner.run(thunk, call), None)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exception:
            return Outcome(call.uri, answer.error(exception, call.msg_uuid, self._mask), exception)

    @contextmanager
    def _cancelling(self, thunk: Thunk, call: IncomingCall, after: float | None) -> Iterator[None]:
        """Cancel the call some time after the start of the ``with`` block, unless the block ends before."""
        if after is None:
            yield
            return
        if after <= 0:
            self._cancel(thunk, call)
            yield
            return
        # A native thread: a function that blocks or computes blocks the timers of gevent.
        ended = _allocate_lock()
        ended.acquire()
        hub = get_hub()

        def wait() -> None:
            if not ended.acquire(timeout=after):
                self._cancel_from_thread(hub, thunk, call)

        _start_new_thread(wait, ())
        try:
            yield
        finally:
            ended.release()

    def _cancel(self, thunk: Thunk, call: IncomingCall) -> None:
        if thunk.cancel != "ignore":
            call.cancelled = True
            self._runner.cancel(thunk, call)

    def _cancel_from_thread(self, hub: Hub, thunk: Thunk, call: IncomingCall) -> None:
        if thunk.cancel != "ignore":
            call.cancelled = True
            hub.loop.run_callback_threadsafe(self._runner.cancel, thunk, call)

    def _publish(self, channel: str, args: bytes, trace: str) -> None:
        self.published.append(Published(channel, decode_args(args)))
