"""A blocking client of a juggler server, for threads and, under gevent's monkey-patching, for greenlets.

`juggler.client.state` decides what happens, and `juggler.client.transport` is the websocket. Here are the locks and the
threads: one reads and reconnects, another one, if there is an ``on_message``, lets calls expire in time.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from juggler.client.base import THREADS, BaseClient, is_stop, run_callback
from juggler.client.bookkeeping import Callback, PendingRequest
from juggler.client.events import Event, EventQueue, WhenFull
from juggler.client.forks import check_process
from juggler.client.parts_queue import DEFAULT_WINDOW, PartsQueue
from juggler.client.state import RENEWAL_PAUSE
from juggler.client.transport import Transport
from juggler.errors import CallFailed, CloseCode, ConnectionClosed, InvalidMessage, JugglerError
from juggler.protocol.codec import check_args, encode_args
from juggler.protocol.messages import Evnt, Parts, Res
from juggler.protocol.part_streams import BlockingStream
from juggler.protocol.results import result_value

if TYPE_CHECKING:
    from typing_extensions import Self


_LONGEST_WAIT = 3600.0
"""Maximum number of seconds between two checks whether the token is due: locks cannot wait for centuries."""


class Client(BaseClient):
    """A client of a juggler server. Any number of threads or greenlets may share it.

    The constructor connects; `close` or the end of a ``with`` block closes the client. If the connection is lost,
    requests in flight fail with `ConnectionClosed` and are never sent again. With ``reconnect``, the client then
    reconnects with exponential backoff and jitter, and re-establishes its subscriptions; until then, requests fail. If
    the server refuses the client for a lasting reason, such as an invalid token, the client closes.

    In the child of a fork, each use raises `ConnectionClosed`: create a client in each process.

    Args:
        url: ``ws://host:port/path`` or ``wss://…``.
        timeout: seconds to connect, to write a message, and to wait for the server's ACK.
        call_timeout: seconds to wait for the result of a call, unless the call specifies another timeout.
        headers: additional headers for the upgrade, for example ``Authorization``; or a function that returns them,
            called for each attempt to connect.
        token: access token, sent as ``Authorization: Bearer``, or a function that returns it or ``None``. The function
            is called for each attempt to connect and, in a thread of its own, before the token expires: the client
            renews it on the live connection, and retries with a backoff. A header ``Authorization`` replaces it.
        allowed_messages: the only requests that this client makes, for example ``"call, pub"``, which saves work on the
            server. Any other request then makes the server close the connection. ``None``: all.
        max_size: maximum size of an incoming message in bytes; the default equals that of a server's ``write_limit``.
            ``None``: unlimited.
        ping_interval: seconds of silence before a ping. ``None``: no pings.
        ping_timeout: seconds to wait for the answer to a ping before the connection is closed. ``None``: unlimited.
        max_events: maximum number of unread events per subscription, unless the subscription specifies another one.
        reconnect: whether to reconnect.
        reconnect_timeout: seconds for which to try to reconnect; then the client closes. ``None``: unlimited.
        retry_first: whether to retry the first attempt to connect, too: the constructor returns when it has connected.
            It raises if the failure is a lasting one, or after ``reconnect_timeout``.
        follow_gaps: whether to subscribe to ``juggler.gap``, too. A server that may have lost events, such as in a
            restart of Redis, reports it there, and ``gaps`` and ``on_gap`` of each subscription count it.
        ssl: TLS context for ``wss://``. ``None``: the system's certificate authorities are trusted.
        on_message: called with each message from the server, and with an `Exp` for each call that expired. It runs in
            the client's own threads: it must be quick, and must not wait for an answer.
        on_state: called with the new state and the reason when the client connects, disconnects or closes, and with
            the same state and an error when the token could not be renewed. The same restrictions apply.
        on_raw: called with each message as it travels: ``"in"`` before it is processed, ``"out"`` before it is written,
            in the thread that does so. The same restrictions apply. For debugging tools.

    Raises:
        ConfigError: the URL is invalid.
        HandshakeRefused: the server answered with an HTTP error.
        ConnectionClosed: the server is unreachable, or does not speak juggler.
    """

    def _set_up(self) -> None:
        self._set_up_locks()
        self._transport: Transport
        self._connect_first()
        self._threads.append(_start("reader", self._run))
        if self._expects_messages:
            self._threads.append(_start("expiry", self._watch))

    def _set_up_locks(self) -> None:
        self._lock = threading.Lock()  # guards the state
        # Notified when a call starts, and when the client connects, disconnects or closes.
        self._changed = threading.Condition(self._lock)
        # Held from a change of subscriptions until it is sent, so that both have the same order.
        self._order = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._renewer: threading.Thread | None = None
        self._awaits_token = False  # in the user's function, which may block

    def on_fork(self) -> None:
        super().on_fork()
        self._set_up_locks()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait at most ``timeout`` seconds until requests can be made. Return whether they can.

        Raises:
            ConnectionClosed: the client has closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.connected or self.closed, timeout)
            self._state.check_open()
            return self.connected

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the client. All requests in flight fail with `ConnectionClosed`. Thread-safe and idempotent.

        Waits at most ``timeout`` seconds for the server's close frame.
        """
        self._close(ConnectionClosed(code, reason or "closed by this client"))
        self._transport.begin_close(code, reason)
        if threading.current_thread() in (*self._threads, self._renewer) or not self._threads:
            return
        deadline = time.monotonic() + self._timeout
        reader, *others = self._threads
        reader.join(self._timeout)
        if reader.is_alive():
            self._transport.abort()
            reader.join(self._timeout)
        if self._renewer is not None and not self._awaits_token:
            others.append(self._renewer)
        for thread in others:
            thread.join(max(0.0, deadline - time.monotonic()))

    def call(self, uri: str, args: Any = None, timeout: float | None = None) -> Any:
        """Call the function at ``uri`` and return its result.

        Args:
            uri: URI of the function.
            args: any value that JSON can represent.
            timeout: seconds to wait for the result. ``None``: the client's ``call_timeout``.

        Raises:
            CallFailed: the function failed.
            Nacked: the server refused the call.
            Expired: no result arrived in time.
            ConnectionClosed: the connection closed before there was a result.
            InvalidValue: JSON cannot represent ``args``.
        """
        return self.start_call(uri, args, timeout).result()

    def start_call(self, uri: str, args: Any = None, timeout: float | None = None) -> Pending:
        """Start a call without waiting for its result. Arguments and errors are those of `call`."""
        return self._start_call(uri, encode_args(args), timeout)

    def start_call_json(self, uri: str, args: bytes, timeout: float | None = None) -> Pending:
        """Like `start_call`, but ``args`` is JSON text in UTF-8, which is sent unchanged.

        Raises:
            InvalidValue: ``args`` is not a JSON value.
        """
        check_args(args)
        return self._start_call(uri, args, timeout)

    def _start_call(self, uri: str, args: bytes, timeout: float | None) -> Pending:
        now = time.monotonic()
        self._expire(now)
        pending = Pending(self._lock, self._expire, self._cancel, self._state.callbacks)
        with self._changed:
            text = self._state.call(pending, uri, args, timeout, now)
            self._changed.notify()
        self._send(text)
        return pending

    def stream(
        self,
        uri: str,
        args: Any = None,
        timeout: float | None = None,
        *,
        window: int = DEFAULT_WINDOW,
        mode: Literal["all", "latest"] = "all",
    ) -> Stream:
        """Call a function, and return its result in parts, as they arrive.

        ::

            with client.stream("shop.describe", "tea") as stream:
                for part in stream:
                    print(part)
                print(stream.result())

        Args:
            uri: URI of the function.
            args: any value that JSON can represent.
            timeout: seconds to wait for each part and the result. ``None``: the client's ``call_timeout``.
            window: parts that the server may send before some have been read, 1 to 1024: a slow reader slows the
                function down. Default: 64.
            mode: ``"all"`` parts, or the ``"latest"``: the function never waits, and parts that could not be sent in
                time are dropped.

        Raises:
            NotSupported: the server cannot send parts.
            ConnectionClosed: there is no connection.
            InvalidValue: JSON cannot represent ``args``.
            ValueError: an argument is out of range.
        """
        return self._stream(uri, encode_args(args), timeout, window, mode)

    def stream_json(
        self,
        uri: str,
        args: bytes,
        timeout: float | None = None,
        *,
        window: int = DEFAULT_WINDOW,
        mode: Literal["all", "latest"] = "all",
    ) -> Stream:
        """Like `stream`, but ``args`` is JSON text in UTF-8, which is sent unchanged.

        Raises:
            InvalidValue: ``args`` is not a JSON value.
        """
        check_args(args)
        return self._stream(uri, args, timeout, window, mode)

    def _stream(
        self, uri: str, args: bytes, timeout: float | None, window: int, mode: Literal["all", "latest"]
    ) -> Stream:
        self._expire(time.monotonic())
        arrived = threading.Event()
        queue = PartsQueue(self._state.callbacks, arrived.set, Parts(mode, window), self._state.timeout_of(timeout))
        with self._changed:
            message = self._state.call(queue, uri, args, timeout, time.monotonic(), queue.parts)
            self._changed.notify()
        self._send(message)
        return Stream(queue, arrived, self._expire, self._cancel, self._renew_credit)

    def publish(self, channel: str, args: Any = None) -> None:
        """Publish an event, and wait for the server's ACK.

        Raises:
            Nacked: the server refused the event.
            Expired: there was no ACK in time; the event may have been published.
            ConnectionClosed: the connection closed before the ACK; the event may have been published.
            InvalidValue: JSON cannot represent ``args``.
        """
        self._publish(channel, encode_args(args))

    def publish_json(self, channel: str, args: bytes) -> None:
        """Like `publish`, but ``args`` is JSON text in UTF-8, which is sent unchanged.

        Raises:
            InvalidValue: ``args`` is not a JSON value.
        """
        check_args(args)
        self._publish(channel, args)

    def _publish(self, channel: str, args: bytes) -> None:
        waiter = _Waiter(self._state.callbacks)
        with self._lock:
            text = self._state.publish(waiter, channel, args)
        self._send(text)
        self._wait_for_ack(waiter)

    def subscribe(
        self,
        channel: str,
        pattern: bool = False,
        *,
        max_events: int | None = None,
        when_full: WhenFull = "drop_oldest",
        on_gap: Callable[[], None] | None = None,
    ) -> Subscription:
        """Subscribe, and wait for the server's ACK. The subscription receives each later event.

        After a reconnect, the client re-establishes the subscription; events in between are missing. Once the server
        has acknowledged it again, ``Subscription.gaps`` is incremented and ``on_gap`` called.

        Args:
            channel: channel, or a Redis glob such as ``news.*``.
            pattern: whether ``channel`` is a glob.
            max_events: maximum number of unread events. ``None``: the client's ``max_events``.
            when_full: what to do with more events: ``"drop_oldest"``, ``"drop_newest"``, or ``"end"``, which ends the
                subscription with `ConnectionClosed` (4429) once the events before have been read.
            on_gap: called at each gap, in the client's own thread: it must be quick, and must not wait for an answer.

        Raises:
            Nacked: the server refused the subscription.
            Expired: there was no ACK in time.
            ConnectionClosed: the connection closed before the ACK.
            ValueError: an argument is out of range.
        """
        max_events = self._max_events if max_events is None else max_events
        subscription = Subscription(self._unsubscribe, channel, pattern, max_events, when_full, on_gap)
        waiter = _Waiter(self._state.callbacks)
        try:
            self._send_in_order(lambda: self._state.subscribe(waiter, subscription))
            self._wait_for_ack(waiter)
        except BaseException:
            with suppress(JugglerError):
                subscription.close()
            raise
        return subscription

    def unsubscribe(self, channel: str, pattern: bool = False) -> None:
        """End all subscriptions of this client to a channel or pattern. Without one, do nothing.

        Raises:
            Nacked: the server refused to unsubscribe. It may still send events, which are dropped.
            Expired: there was no ACK in time.
            ConnectionClosed: the connection has closed, and with it all subscriptions.
        """
        self._unsubscribe(channel, pattern, None)

    def _unsubscribe(self, channel: str, pattern: bool, subscription: Subscription | None) -> None:
        waiter = _Waiter(self._state.callbacks)
        self._send_in_order(lambda: self._state.unsubscribe(waiter, channel, pattern, subscription))
        self._wait_for_ack(waiter)

    def _wait_for_ack(self, waiter: _Waiter) -> None:
        try:
            if not waiter.wait(self._timeout):
                raise waiter.unacknowledged(self._timeout)
        finally:
            with self._lock:
                self._state.forget(waiter)
        waiter.outcome()

    def send_raw(self, message: str | bytes) -> None:
        """Send a string as a text message, or bytes as a binary message, unchanged. For tools and tests of servers.

        ``on_message`` receives the answer. The server closes the connection if the message is not a request (4400) or
        is binary (1003).

        Raises:
            ConnectionClosed: the connection has closed.
            UnicodeEncodeError: UTF-8 cannot represent the text.
        """
        if isinstance(message, str):
            self._send(message.encode())
        else:
            self._listeners.raw("out", message)
            self._transport.send(message, is_binary=True)

    def _send(self, text: bytes) -> None:
        if self._listeners.has_raw:
            self._listeners.raw("out", text.decode())
        self._transport.send(text)

    def _send_in_order(self, change: Callable[[], list[bytes]]) -> None:
        """Change subscriptions, and send what the state returns before the next change."""
        with self._order:
            with self._lock:
                texts = change()
            for text in texts:
                self._send(text)

    # Connections

    def _connect(self) -> Transport:
        return Transport(
            self._url,
            headers=self._upgrade_headers(self._ask_token()),
            timeout=self._timeout,
            max_size=self._max_size,
            ping_interval=self._ping_interval,
            ping_timeout=self._ping_timeout,
            ssl_context=self._ssl,
        )

    def _ask_token(self) -> Any:
        return self._token() if callable(self._token) else self._token

    def _connect_first(self) -> None:
        while True:
            try:
                return self._use(self._connect())
            except Exception as error:
                if not self._retry_first:
                    raise
                self._log_bug(error)
                if not self._may_reconnect(error):
                    raise

    def _use(self, transport: Transport) -> None:
        """Make a new connection the client's own, and re-establish subscriptions.

        Raises:
            ConnectionClosed: the connection was lost at once, or the client has closed.
        """
        with self._order:
            try:
                welcome = self._read_welcome(transport.welcome)
                with self._changed:
                    is_wanted = self.closed is None
                    texts = self._state.on_connected(time.monotonic(), welcome) if is_wanted else []
                    if is_wanted:
                        self._transport = transport
                    self._changed.notify_all()
                self._state.check_open()
                for text in texts:
                    self._send(text)
            except BaseException:
                transport.begin_close(CloseCode.NORMAL, "")
                transport.release()
                raise
        self._listeners.state(*self._state.status())
        if welcome is not None:
            self._listeners.message(welcome)
            if welcome.ttl is not None and callable(self._token) and self._renewer is None:
                self._renewer = _start("token", self._renew_tokens)

    def _run(self) -> None:
        """Read, and reconnect, until the client has closed."""
        failure: BaseException = self._read()
        while self._may_reconnect(failure):
            try:
                self._use(self._connect())
            except BaseException as error:  # a function for tokens may raise gevent.Timeout
                if is_stop(error):
                    raise
                self._log_bug(error)
                failure = error
            else:
                failure = self._read()

    def _read(self) -> ConnectionClosed:
        """Process messages until the connection closes. Return the reason."""
        transport = self._transport
        ended = ConnectionClosed(CloseCode.INTERNAL_ERROR, "the client's reader failed")
        try:
            while True:
                text = transport.receive()
                self._listeners.raw("in", text)
                with self._lock:
                    message = self._state.receive(text, time.monotonic())
                    needs_renewal = self._state.begin_renewal()
                if self._state.has_overfull:
                    self._send_in_order(self._state.drop_overfull)
                if self._state.callbacks:
                    self._run_callbacks()
                if needs_renewal:
                    self._renew_later()
                self._listeners.message(message)
        except ConnectionClosed as error:
            ended = ConnectionClosed(error.code, error.reason)
        except InvalidMessage as error:
            ended = ConnectionClosed(error.close_code, f"the server sent an invalid message: {error}")
            transport.begin_close(ended.code, ended.reason)
        finally:
            transport.release(ended)
        return ended

    def _may_reconnect(self, failure: BaseException) -> bool:
        """Report a failure to the state, and wait before the next attempt. Return False if the client has closed."""
        with self._changed:
            pause = self._state.on_failure(failure, time.monotonic())
            self._changed.notify_all()
        self._run_callbacks()
        self._listeners.state(*self._state.status())
        with self._changed:
            if pause is not None:
                self._changed.wait_for(lambda: self.closed, pause)
            may_connect = self._state.may_connect(time.monotonic())
            self._changed.notify_all()
        self._run_callbacks()
        self._listeners.state(*self._state.status())
        return may_connect

    def _renew_later(self) -> None:
        def renew() -> None:
            with suppress(ConnectionClosed):
                self._send_in_order(self._state.renew)

        timer = threading.Timer(RENEWAL_PAUSE, renew)
        timer.daemon = True
        timer.start()

    def _close(self, reason: ConnectionClosed) -> None:
        with self._changed:
            self._state.close(reason)
            self._changed.notify_all()
        self._run_callbacks()

    def _watch(self) -> None:
        """Let calls expire in time, also those for which no thread waits."""
        while self.closed is None:
            with self._changed:
                deadline = self._state.next_deadline()
                if self.closed is None:
                    self._changed.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            self._expire(time.monotonic())

    def _expire(self, now: float) -> None:
        with self._lock:
            expired = self._state.expire(now)
        self._run_callbacks()
        for exp in expired:
            self._listeners.message(exp)

    def _cancel(self, pending: PendingRequest, wait: bool = False) -> None:
        with self._lock:
            texts = self._state.cancel(pending, wait)
        self._run_callbacks()
        with suppress(ConnectionClosed):
            for text in texts:
                self._send(text)

    def _renew_tokens(self) -> None:
        """Renew the token in time, until the client has closed."""
        while self.closed is None:
            with self._changed:
                due = self._state.renewal.due
                pause = None if due is None else due - time.monotonic()
                if self.closed is None and (pause is None or pause > 0):
                    self._changed.wait(pause and min(pause, _LONGEST_WAIT))
                    continue
            if self.closed is None:
                self._renew_token()

    def _renew_token(self) -> None:
        waiter = _Waiter(self._state.callbacks)
        try:
            self._awaits_token = True
            try:
                token = self._ask_token()
            finally:
                self._awaits_token = False
            with self._lock:
                text = self._state.authenticate(waiter, token)
            self._send(text)
            self._wait_for_ack(waiter)
        except BaseException as error:
            if is_stop(error):
                raise
            with self._lock:
                self._state.renewal.on_failure(time.monotonic())
            if self.connected:
                self._report_token(error)

    def _renew_credit(self, queue: PartsQueue) -> None:
        with self._lock:
            until = queue.renew(time.monotonic())
            text = None if until is None else self._state.credit(queue, until)
        if text is not None:
            with suppress(ConnectionClosed):
                self._send(text)


class _Waiter(PendingRequest):
    """A request for whose outcome a thread or greenlet waits."""

    def __init__(self, callbacks: deque[Callback]) -> None:
        self._settled = threading.Event()
        super().__init__(callbacks, self._settled.set)

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds. Return whether the request is settled."""
        return self._settled.wait(timeout)


class Pending(_Waiter):
    """A call in flight. Several threads or greenlets may wait for it.

    Attributes:
        uri: URI of the function.
        uuid: UUID of the CALL.
    """

    def __init__(
        self,
        lock: threading.Lock,
        expire: Callable[[float], None],
        cancel: Callable[[Pending, bool], None],
        callbacks: deque[Callback],
    ) -> None:
        super().__init__(callbacks)
        self._pid = os.getpid()
        self._lock = lock
        self._expire = expire
        self._cancel = cancel

    def on_done(self, callback: Callable[[Pending], None]) -> None:
        """Call ``callback`` with this object as soon as `result` returns or raises at once.

        If it does already, the callback runs now. Otherwise it runs in the client's own thread: it must be quick, and
        must not wait for an answer. Without an ``on_message`` of the client, an expired call is only noticed when a
        thread waits for it, or when the next call starts.
        """
        with self._lock:
            if not self.is_settled:
                self.on_settled.append(callback)
                return
        run_callback("on_done", self.uri, callback, self)

    def cancel(self, wait: bool = False) -> None:
        """Cancel the call. If there is a result already, do nothing. Does not block.

        Args:
            wait: `result` waits for how the function ends: in most cases with `CallFailed` of type "Cancelled" and code
                499. Otherwise `result` raises `Cancelled` at once. The function may still run, for example if the
                server is older and cannot cancel calls.

        Raises:
            NotSupported: with ``wait``, if the server cannot cancel calls.
        """
        self._cancel(self, wait)

    @property
    def done(self) -> bool:
        """Whether `result` returns or raises at once."""
        return self.is_settled or time.monotonic() >= self.deadline

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result and return it. Errors are those of `Client.call`.

        Args:
            timeout: seconds to wait for now. ``None``: until the call's own timeout.

        Raises:
            TimeoutError: there is no result yet. You may call `result` again.
        """
        return result_value(self.response(timeout))

    def result_json(self, timeout: float | None = None) -> bytes:
        """Like `result`, but return the callee's JSON text, even if it is an error."""
        return self.response(timeout).args

    def response(self, timeout: float | None = None) -> Res:
        """Like `result`, but return the RES message, whether the function failed or not."""
        check_process(self._pid)
        now = time.monotonic()
        until = self.deadline if timeout is None else min(self.deadline, now + timeout)
        if not self.wait(max(0.0, until - now)):
            if until < self.deadline:
                raise TimeoutError(f"no result of {self.uri} yet")
            self._expire(self.deadline)
        response = self.outcome()
        assert response is not None
        return response


class Stream(BlockingStream):
    """A call whose result arrives in parts: an iterator of them, and a context manager that cancels the call.

    One thread or greenlet reads. If it leaves the loop early, the end of the ``with`` block or `close` cancels the
    call; without them, dropping the last reference does.

    Raises, while it is iterated:
        CallFailed: the function failed, after the parts before.
        Nacked: the server refused the call.
        Expired: no part arrived in time.
        Cancelled: the stream was closed.
        ConnectionClosed: the connection closed.
        InvalidValue: the part has no Python value.
    """

    def __init__(
        self,
        queue: PartsQueue,
        arrived: threading.Event,
        expire: Callable[[float], None],
        cancel: Callable[[PartsQueue], None],
        renew: Callable[[PartsQueue], None],
    ) -> None:
        """Created by `Client.stream`."""
        super().__init__(queue.uri, queue.uuid)
        self._pid = os.getpid()
        self._queue = queue
        self._arrived = arrived
        self._expire = expire
        self._cancel = cancel
        self._renew = renew

    def next_json(self) -> bytes | None:
        check_process(self._pid)
        queue = self._queue
        self._arrived.clear()
        while not queue.is_readable:
            self._arrived.wait(max(0.0, queue.deadline - time.monotonic()))
            self._arrived.clear()
            self._expire(time.monotonic())
        text = queue.take()
        if text is None:
            response = queue.outcome()
            assert response is not None
            result_value(response)
        else:
            self._renew(queue)
        return text

    def response(self) -> Res:
        while not self._queue.is_settled or self._queue.is_unread:
            try:
                self.next_json()
            except CallFailed:
                break
        response = self._queue.outcome()
        assert response is not None
        return response

    def close(self) -> None:
        """Cancel the call, unless it has completed. Does not wait. Idempotent."""
        self._cancel(self._queue)

    def __del__(self) -> None:
        # In a thread of its own: this one may hold the lock of the client.
        if not self._queue.is_settled and os.getpid() == self._pid:
            with suppress(RuntimeError):  # the interpreter is shutting down
                threading.Thread(target=self._cancel, args=(self._queue,), daemon=True).start()


class Subscription(EventQueue):
    """The events of a channel or pattern: an iterator, and a context manager that unsubscribes at its end.

    Several threads or greenlets may read; each event is delivered to one of them.

    Attributes:
        channel: channel or pattern of the subscription.
        pattern: whether it is a pattern.
        dropped: number of events dropped because they were not read in time.
        gaps: number of times that events may be missing: the subscription was re-established after a reconnect, or the
            server reported it, see ``follow_gaps`` of `Client`.
    """

    def __init__(
        self,
        unsubscribe: Callable[[str, bool, Subscription], None],
        channel: str,
        pattern: bool,
        max_events: int,
        when_full: WhenFull,
        on_gap: Callable[[], None] | None,
    ) -> None:
        super().__init__(channel, pattern, max_events, when_full, on_gap)
        self._pid = os.getpid()
        self._unsubscribe = unsubscribe
        self._changed = threading.Condition()

    def get(self, timeout: float | None = None) -> Event:
        """Wait for the next event.

        Args:
            timeout: seconds to wait. ``None``: until there is an event, or the subscription has ended.

        Raises:
            TimeoutError: there was no event in time.
            ConnectionClosed: the subscription or the client has closed, and all events have been read.
            Nacked: the server has cancelled the subscription, or refused to re-establish it.
        """
        check_process(self._pid)
        with self._changed:
            if not self._changed.wait_for(lambda: self.is_readable, timeout):
                raise TimeoutError(f"no event of {self.channel} within {timeout:g} s")
            return self.take()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """Return the next event. Stops when the subscription has ended, or the client has closed with code 1000."""
        try:
            return self.get()
        except ConnectionClosed as error:
            if error.code == CloseCode.NORMAL:
                raise StopIteration from None
            raise

    def close(self) -> None:
        """Unsubscribe, and wait for the server's ACK. Events that were received before can still be read.

        Idempotent. If the connection has closed, do nothing.

        Raises:
            Nacked: the server refused to unsubscribe.
            Expired: there was no ACK in time.
        """
        with suppress(ConnectionClosed):
            self._unsubscribe(self.channel, self.pattern, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def on_event(self, event: Evnt) -> bool:
        with self._changed:
            is_taken = super().on_event(event)
            self._changed.notify()
        return is_taken

    def on_end(self, error: JugglerError) -> None:
        with self._changed:
            super().on_end(error)
            self._changed.notify_all()


def _start(name: str, target: Callable[[], None]) -> threading.Thread:
    pid = os.getpid()

    def run() -> None:
        target()
        if os.getpid() != pid:  # a greenlet, in the child of a fork, where threading does not know it
            threading.Event().wait()

    thread = threading.Thread(target=run, name=THREADS + name, daemon=True)
    thread.start()
    return thread
