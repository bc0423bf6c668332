"""A blocking client of a juggler server, for threads and, under gevent's monkey-patching, for greenlets.

What messages mean is `juggler.client.state`'s business, the websocket that of `juggler.client.transport`; here are the
waiting and the threads: one that reads and connects again, and, with ``on_message``, one for expired calls.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from juggler.client.events import Event, EventQueue, WhenFull
from juggler.client.listeners import Listeners, OnMessage, OnRaw, OnState
from juggler.client.opening import Headers, upgrade_headers
from juggler.client.reconnect import RENEWAL_PAUSE, Reconnect, State, after_attempt, may_come_back
from juggler.client.state import ClientState, Outcome, Sink, result_value
from juggler.client.transport import Transport
from juggler.errors import (
    CloseCode,
    ConnectionClosed,
    Expired,
    InvalidMessage,
    JugglerError,
)
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import MAX_TIMEOUT, check_args, encode, encode_args
from juggler.protocol.messages import Call, Evnt, Pub, Request, Res, Sub, Unsb

if TYPE_CHECKING:
    from typing_extensions import Self


_log = logging.getLogger("juggler.client")


class Client:
    """A client of a juggler server. Any number of threads or greenlets may share it.

    It connects when it is made, and is closed by `close` or at the end of a ``with`` block. When the connection is
    lost, what is under way fails with `ConnectionClosed`, and is never sent again. With ``reconnect`` the client then
    connects anew, after growing, jittered pauses, and makes its subscriptions again; requests fail until it has. Where
    the server refuses the client for a reason that would last (a wrong token, say), it ends.

    Args:
        url: ``ws://host:port/path`` or ``wss://…``.
        timeout: seconds to connect, to write a message, and to wait for the server's ACK.
        call_timeout: seconds for which the result of a call is wanted, unless the call says otherwise.
        headers: more headers for the upgrade, for example ``Authorization``; or a function that returns them, and is
            asked whenever it connects.
        allowed_messages: the only requests that will be made, for example ``"call, pub"``, so that the server does
            less; any other then ends the connection. ``None`` allows all.
        max_size: largest message to accept, in bytes; the default is that of a server's ``write_limit``. ``None``: no
            limit.
        ping_interval: seconds of silence between pings. ``None``: none are sent.
        ping_timeout: seconds after which a missing answer ends the connection. ``None``: never.
        max_events: how many events a subscription keeps for its reader, unless the subscription says otherwise.
        reconnect: whether to connect again.
        reconnect_timeout: seconds after which it stops to try, and ends. ``None``: never.
        ssl: for ``wss://``; ``None``: the system's authorities are trusted.
        on_message: is told every message from the server, and an `Exp` for each call that expired, from the client's
            own threads; it must be quick, and must not wait for an answer.
        on_state: is told when the client is connected, disconnected and closed, and why; likewise.
        on_raw: is told every message as it travels: ``"in"`` before it is processed, ``"out"`` before it is written,
            from whatever thread does that; likewise. For tools that show what is said.

    Raises:
        ConfigError: the URL is none.
        HandshakeRefused: the server answered with an HTTP error.
        ConnectionClosed: it cannot be reached, or does not speak juggler.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        call_timeout: float = 60.0,
        headers: Headers | None = None,
        allowed_messages: str | None = None,
        max_size: int | None = 16 * 2**20,
        ping_interval: float | None = 20.0,
        ping_timeout: float | None = 20.0,
        max_events: int = 1000,
        reconnect: bool = True,
        reconnect_timeout: float | None = None,
        ssl: ssl.SSLContext | None = None,
        on_message: OnMessage | None = None,
        on_state: OnState | None = None,
        on_raw: OnRaw | None = None,
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._call_timeout = call_timeout
        self._headers = headers
        self._allowed_messages = allowed_messages
        self._max_events = max_events
        self._reconnect = reconnect
        self._reconnecting = Reconnect(reconnect_timeout)
        self._listeners = Listeners(on_message, on_state, on_raw)
        self._options: dict[str, Any] = {
            "timeout": timeout,
            "max_size": max_size,
            "ping_interval": ping_interval,
            "ping_timeout": ping_timeout,
            "ssl_context": ssl,
        }
        self._state = ClientState()
        self._renewing = False
        self._overfull: list[Subscription] = []
        # What is to be called once the lock is free again.
        self._deferred: deque[Callable[[], None]] = deque()
        # Guards the session; told when a call is made, and when the connection comes or goes.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # SUB and UNSB of one channel must be sent in the order in which the session got them.
        self._order = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._transport = self._connect()
        self._reconnecting.on_connected(time.monotonic())
        self._listeners.tell_state(State.CONNECTED, None)
        self._threads.append(_start("juggler-client-reader", self._run))
        if on_message is not None:
            self._threads.append(_start("juggler-client-expiry", self._watch))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> ConnectionClosed | None:
        """Why the client has ended, ``None`` while it has not."""
        return self._state.ended

    @property
    def connected(self) -> bool:
        """Whether requests can be made now."""
        return self._state.ended is None and self._state.lost is None

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until requests can be made, for at most ``timeout`` seconds. Return whether they can.

        Raises:
            ConnectionClosed: never more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.connected or self.closed, timeout)
            if self._state.ended is not None:
                raise ConnectionClosed(self._state.ended.code, self._state.ended.reason)
            return self.connected

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """End the client; all that wait get `ConnectionClosed`. Any thread may call it, any number of times.

        Waits for the server's close frame, but no longer than ``timeout``.
        """
        self._end(ConnectionClosed(code, reason or "closed by this client"))
        transport = self._transport
        transport.begin_close(code, reason)
        if threading.current_thread() in self._threads or not self._threads:
            return
        deadline = time.monotonic() + self._timeout
        reader, *others = self._threads
        reader.join(self._timeout)
        if reader.is_alive():
            self._transport.abort()
            reader.join(self._timeout)
        for thread in others:
            thread.join(max(0.0, deadline - time.monotonic()))

    def call(self, uri: str, args: Any = None, timeout: float | None = None) -> Any:
        """Run the function at ``uri`` and return its result.

        Args:
            uri: of the function.
            args: anything that JSON can carry.
            timeout: seconds for which the result is wanted; ``None``: the client's ``call_timeout``.

        Raises:
            CallFailed: the function failed.
            Nacked: the server refused the call.
            Expired: there was no result in time.
            ConnectionClosed: the connection ended before there was a result.
            InvalidValue: ``args`` cannot be JSON.
        """
        return self.start_call(uri, args, timeout).result()

    def start_call(self, uri: str, args: Any = None, timeout: float | None = None) -> Pending:
        """Start a call and do not wait for its result. Arguments and errors as those of `call`."""
        return self._start_call(uri, encode_args(args), timeout)

    def start_call_json(self, uri: str, args: bytes, timeout: float | None = None) -> Pending:
        """As `start_call`, with ``args`` as JSON text in UTF-8, which travels as it is.

        Raises:
            InvalidValue: ``args`` are not one JSON value.
        """
        check_args(args)
        return self._start_call(uri, args, timeout)

    def _start_call(self, uri: str, args: bytes, timeout: float | None) -> Pending:
        timeout = self._call_timeout if timeout is None else timeout
        if not 0 < timeout <= MAX_TIMEOUT:
            raise ValueError(f"timeout: expected more than 0 and at most {MAX_TIMEOUT:.0f} seconds, got {timeout!r}")
        message = Call(uuid=new_uuid(), uri=uri, args=args, timeout=timeout)
        text = encode(message)
        now = time.monotonic()
        self._expire(now)
        pending = Pending(self._expire, self._cancel, self._deferred.append, message, now + timeout)
        with self._changed:
            self._state.call(message, now + timeout, pending)
            self._changed.notify()
        self._send(text)
        return pending

    def publish(self, channel: str, args: Any = None) -> None:
        """Publish an event, and wait until the server has acknowledged it.

        Raises:
            Nacked: the server refused it.
            Expired: it was not acknowledged in time; it may have been published.
            ConnectionClosed: the connection ended before; it may have been published.
            InvalidValue: ``args`` cannot be JSON.
        """
        self._publish(channel, encode_args(args))

    def publish_json(self, channel: str, args: bytes) -> None:
        """As `publish`, with ``args`` as JSON text in UTF-8, which travels as it is.

        Raises:
            InvalidValue: ``args`` are not one JSON value.
        """
        check_args(args)
        self._publish(channel, args)

    def _publish(self, channel: str, args: bytes) -> None:
        message = Pub(uuid=new_uuid(), channel=channel, args=args)
        text = encode(message)
        waiter = _Waiter()
        with self._lock:
            self._state.publish(message, waiter)
        self._send(text)
        self._wait_for_ack(message, waiter)

    def subscribe(
        self,
        channel: str,
        pattern: bool = False,
        *,
        max_events: int | None = None,
        when_full: WhenFull = "drop_oldest",
        on_gap: Callable[[], None] | None = None,
    ) -> Subscription:
        """Subscribe, and wait until the server has acknowledged it: each later event is received.

        When the connection is lost and made again, so is the subscription; events may be missing in between. Each time
        ``Subscription.gaps`` is counted up, and ``on_gap`` is told, once the server has acknowledged it anew.

        Args:
            channel: the channel, or a Redis glob such as ``news.*``.
            pattern: whether it is a glob.
            max_events: how many events are kept for the reader; ``None``: as many as the client says.
            when_full: what happens when there are more: ``"drop_oldest"``, ``"drop_newest"``, or ``"end"``, which ends
                the subscription with `ConnectionClosed` (4429) once all that was kept is read.
            on_gap: is told of a gap from the client's own thread; it must be quick, and must not wait for an answer.

        Raises:
            Nacked: the server refused it.
            Expired: it was not acknowledged in time.
            ConnectionClosed: the connection ended before.
            ValueError: an argument is out of its range.
        """
        message = Sub(uuid=new_uuid(), channel=channel, pattern=pattern)
        text = encode(message)
        waiter = _Waiter()
        queue = EventQueue(self._max_events if max_events is None else max_events, when_full)
        told_gap = None if on_gap is None else partial(self._deferred.append, on_gap)
        subscription = Subscription(self._unsubscribe, self._overfull.append, channel, pattern, queue, told_gap)
        try:
            with self._order:
                with self._lock:
                    is_first = self._state.subscribe(message, subscription, waiter)
                if is_first:
                    self._send(text)
            self._wait_for_ack(message, waiter)
        except BaseException:
            with suppress(JugglerError):
                subscription.close()
            raise
        return subscription

    def unsubscribe(self, channel: str, pattern: bool = False) -> None:
        """End all subscriptions of this client to a channel or pattern. One that does not exist is no error.

        Raises:
            Nacked: the server refused it; it may still send events, which are dropped.
            Expired: it was not acknowledged in time.
            ConnectionClosed: the connection has ended, and so have all subscriptions.
        """
        self._unsubscribe(channel, pattern, None)

    def _unsubscribe(self, channel: str, pattern: bool, sink: Sink | None) -> None:
        message = Unsb(uuid=new_uuid(), channel=channel, pattern=pattern)
        text = encode(message)
        waiter = _Waiter()
        with self._order:
            with self._lock:
                is_last = self._state.unsubscribe(message, sink, waiter)
            if is_last:
                self._send(text)
        self._wait_for_ack(message, waiter)

    def _leave_overfull(self) -> None:
        """Unsubscribe those that have ended because nobody reads them, and do not wait for it."""
        while self._overfull:
            subscription = self._overfull.pop()
            message = Unsb(uuid=new_uuid(), channel=subscription.channel, pattern=subscription.pattern)
            with self._order:
                with self._lock:
                    is_last = self._state.unsubscribe(message, subscription, _Waiter())
                if is_last:
                    self._send(encode(message))

    def _wait_for_ack(self, message: Request, waiter: _Waiter) -> None:
        try:
            if not waiter.wait(self._timeout):
                raise Expired(f"no acknowledgement of {message.type.name} within {self._timeout:g} s")
        finally:
            with self._lock:
                self._state.forget(message.uuid)
        waiter.outcome()

    def send_raw(self, message: str | bytes) -> None:
        """Send a string as a text message, or bytes as a binary one, as they are: for tools, and tests of servers.

        Nobody waits for an answer: ``on_message`` is told of it. What is not a request makes a server close the
        connection (4400), and so does a binary message (1003).

        Raises:
            ConnectionClosed: the connection has ended.
            UnicodeEncodeError: UTF-8 cannot carry the text.
        """
        if isinstance(message, str):
            self._send(message.encode())
        else:
            self._listeners.tell_raw("out", message)
            self._transport.send(message, is_binary=True)

    def _send(self, text: bytes, transport: Transport | None = None) -> None:
        if self._listeners.hear_raw:
            self._listeners.tell_raw("out", text.decode())
        (transport or self._transport).send(text)

    # The connection

    def _connect(self) -> Transport:
        return Transport(self._url, headers=upgrade_headers(self._headers, self._allowed_messages), **self._options)

    def _run(self) -> None:
        """Read, and connect again, until the client has ended."""
        while True:
            ended = self._read()
            if self._state.ended is None and self._reconnect and may_come_back(ended):
                with self._changed:
                    self._state.lose(ended)
                    self._changed.notify_all()
                self._run_deferred()
                self._listeners.tell_state(State.DISCONNECTED, ended)
                failure = self._connect_again(ended)
                if failure is None:
                    continue
                ended = failure
            self._end(ended)
            self._listeners.tell_state(State.CLOSED, self._state.ended)
            return

    def _read(self) -> ConnectionClosed:
        """Process what the server sends, until the connection ends. Return why."""
        transport = self._transport
        ended = ConnectionClosed(CloseCode.INTERNAL_ERROR, "the client's reader failed")
        try:
            while True:
                text = transport.receive()
                self._listeners.tell_raw("in", text)
                with self._lock:
                    message = self._state.receive(text)
                if self._overfull:
                    self._leave_overfull()
                if self._deferred:
                    self._run_deferred()
                if self._state.unrenewed and not self._renewing:
                    self._renew_later()
                self._listeners.tell(message)
        except ConnectionClosed as error:
            ended = ConnectionClosed(error.code, error.reason)
        except InvalidMessage as error:
            ended = ConnectionClosed(error.close_code, f"the server sent an invalid message: {error}")
            transport.begin_close(ended.code, ended.reason)
        finally:
            transport.release(ended)
        return ended

    def _renew_later(self) -> None:
        """Ask once more, in a moment, for subscriptions that could not be made anew for the time being."""

        def renew() -> None:
            self._renewing = False
            with self._order, suppress(ConnectionClosed):
                with self._lock:
                    messages = self._state.renew_again()
                for message in messages:
                    self._send(encode(message))

        self._renewing = True
        timer = threading.Timer(RENEWAL_PAUSE, renew)
        timer.daemon = True
        timer.start()

    def _connect_again(self, lost: ConnectionClosed) -> ConnectionClosed | None:
        """Connect, and make the subscriptions again; return why not, if not."""
        self._reconnecting.on_lost(time.monotonic())
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._state.ended, self._reconnecting.next_pause())
            if self._state.ended is not None:
                return self._state.ended
            if self._reconnecting.is_over(time.monotonic()):
                return lost
            try:
                transport = self._connect()
            except JugglerError as error:
                lost = after_attempt(error, lost)
                if may_come_back(error):
                    continue
                return lost
            except Exception as error:
                # The function that returns the headers: it may be better the next time.
                _log.exception("cannot connect to the server again for now")
                lost = after_attempt(error, lost)
                continue
            if self._resume(transport):
                return None

    def _resume(self, transport: Transport) -> bool:
        """Use a new connection. Return False when it was lost at once, or the client has ended."""
        with self._order:
            with self._changed:
                if self._state.ended is not None:
                    transport.begin_close(CloseCode.NORMAL, "")
                    transport.release()
                    return False
                self._transport = transport
                self._reconnecting.on_connected(time.monotonic())
                messages = self._state.resume()
                self._changed.notify_all()
            try:
                for message in messages:
                    self._send(encode(message), transport)
            except ConnectionClosed as error:
                with self._changed:
                    self._state.lose(ConnectionClosed(error.code, error.reason))
                transport.release()
                return False
        self._listeners.tell_state(State.CONNECTED, None)
        return True

    def _end(self, error: ConnectionClosed) -> None:
        with self._changed:
            self._state.end(error)
            self._changed.notify_all()
        self._run_deferred()

    def _watch(self) -> None:
        """Tell of expired calls when nobody waits for them."""
        while self._state.ended is None:
            with self._changed:
                deadline = self._state.next_deadline()
                if self._state.ended is None:
                    self._changed.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            self._expire(time.monotonic())

    def _cancel(self, uuid: str) -> None:
        with self._lock:
            self._state.cancel(uuid)
        self._run_deferred()

    def _run_deferred(self) -> None:
        while self._deferred:
            try:
                self._deferred.popleft()()
            except IndexError:
                return  # another thread was quicker
            except Exception:
                _log.exception("a callback failed")

    def _expire(self, now: float) -> None:
        with self._lock:
            expired = self._state.expire(now)
        if self._deferred:
            self._run_deferred()
        for exp in expired:
            self._listeners.tell(exp)


class _Waiter:
    """A thread or greenlet that waits for what becomes of a request."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._outcome: Outcome = None

    def settle(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._event.set()

    def wait(self, timeout: float) -> bool:
        """Return whether the request is settled."""
        return self._event.wait(timeout)

    def outcome(self) -> Res | None:
        if isinstance(self._outcome, JugglerError):
            raise self._outcome
        return self._outcome


class Pending(_Waiter):
    """A call under way. Several threads or greenlets may wait for it."""

    def __init__(
        self,
        expire: Callable[[float], None],
        cancel: Callable[[str], None],
        defer: Callable[[Callable[[], None]], None],
        message: Call,
        deadline: float,
    ) -> None:
        super().__init__()
        self._expire = expire
        self._cancel = cancel
        self._defer = defer
        self._deadline = deadline
        self._callbacks: list[Callable[[Pending], None]] = []
        self._telling = threading.Lock()
        self.uri = message.uri
        self.uuid = message.uuid

    def settle(self, outcome: Outcome) -> None:
        """Called by the client."""
        with self._telling:
            super().settle(outcome)
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._defer(partial(self._tell, callback))

    def on_done(self, callback: Callable[[Pending], None]) -> None:
        """Call ``callback`` with this object when `result` returns or raises at once; now, if it does already.

        It runs in the client's own thread, must be quick, and must not wait for an answer. That a call has expired is
        noticed in time only with the client's ``on_message``, or by whoever waits for it.
        """
        with self._telling:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        self._tell(callback)

    def _tell(self, callback: Callable[[Pending], None]) -> None:
        try:
            callback(self)
        except Exception:
            _log.exception("on_done failed for a call of %s", self.uri)

    def cancel(self) -> None:
        """Wait no more: `result` raises `Cancelled`, unless it is there already. The function may run all the same."""
        self._cancel(self.uuid)

    @property
    def done(self) -> bool:
        """Whether `result` returns or raises at once."""
        return self._event.is_set() or time.monotonic() >= self._deadline

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result and return it. Errors as those of `Client.call`.

        Args:
            timeout: seconds to wait now; ``None``: until the call's own timeout is over.

        Raises:
            TimeoutError: there is no result yet; it may be asked for again.
        """
        return result_value(self.response(timeout))

    def result_json(self, timeout: float | None = None) -> bytes:
        """As `result`, but return the JSON text that the callee wrote, an error included."""
        return self.response(timeout).args

    def response(self, timeout: float | None = None) -> Res:
        """As `result`, but return the message, whether the function failed or not."""
        now = time.monotonic()
        until = self._deadline if timeout is None else min(self._deadline, now + timeout)
        if not self.wait(max(0.0, until - now)):
            if until < self._deadline:
                raise TimeoutError(f"no result of {self.uri} yet")
            self._expire(self._deadline)
        response = self.outcome()
        assert response is not None
        return response


class Subscription:
    """The events of a channel or pattern: an iterator, and a context manager that unsubscribes at its end.

    Several threads or greenlets may read; each event goes to one of them.

    Attributes:
        channel: what was subscribed to.
        pattern: whether it is a glob.
    """

    def __init__(
        self,
        unsubscribe: Callable[[str, bool, Sink], None],
        on_overfull: Callable[[Subscription], None],
        channel: str,
        pattern: bool,
        queue: EventQueue,
        on_gap: Callable[[], None] | None,
    ) -> None:
        self._unsubscribe = unsubscribe
        self._on_overfull = on_overfull
        self._queue = queue
        self._on_gap = on_gap
        self._changed = threading.Condition()
        self.channel = channel
        self.pattern = pattern

    @property
    def dropped(self) -> int:
        """Number of events dropped so far, because nobody read them in time."""
        return self._queue.dropped

    @property
    def gaps(self) -> int:
        """How often events may have been missed, as the connection was lost and made again."""
        return self._queue.gaps

    def get(self, timeout: float | None = None) -> Event:
        """Wait for the next event.

        Args:
            timeout: seconds; ``None``: until there is one, or there can be none.

        Raises:
            TimeoutError: there was none in time.
            ConnectionClosed: the subscription or the client has ended, and all its events were read.
            Nacked: the server refused it when it was made again.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._queue or self._queue.ended, timeout):
                raise TimeoutError(f"no event of {self.channel} within {timeout:g} s")
            event = self._queue.get()
            assert event is not None
            return event

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """Return the next event; ends when the subscription does, or the client with code 1000."""
        try:
            return self.get()
        except ConnectionClosed as error:
            if error.code == CloseCode.NORMAL:
                raise StopIteration from None
            raise

    def close(self) -> None:
        """Unsubscribe, and wait until the server has acknowledged it. Events that are here can still be read.

        Idempotent, and no error when the connection has ended.

        Raises:
            Nacked: the server refused it.
            Expired: it was not acknowledged in time.
        """
        with suppress(ConnectionClosed):
            self._unsubscribe(self.channel, self.pattern, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def on_event(self, event: Evnt) -> None:
        """Called by the client."""
        with self._changed:
            if not self._queue.put(event):
                self._on_overfull(self)
            self._changed.notify()

    def on_gap(self) -> None:
        """Called by the client."""
        self._queue.gaps += 1
        if self._on_gap is not None:
            self._on_gap()

    def on_end(self, error: JugglerError) -> None:
        """Called by the client."""
        with self._changed:
            self._queue.end(error)
            self._changed.notify_all()


def _start(name: str, target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
