"""A blocking client of a juggler server, for threads and, under gevent's monkey-patching, for greenlets.

What messages mean is `juggler.session`'s business; here are only the websocket, the waiting, and the threads: one that
reads, and, with ``on_message``, one that looks after expired calls.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from websockets.exceptions import ConnectionClosed as WebsocketClosed
from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from juggler.codec import MAX_TIMEOUT, decode_args, encode, encode_args
from juggler.errors import (
    CloseCode,
    ConfigError,
    ConnectionClosed,
    Expired,
    HandshakeRefused,
    InvalidMessage,
    JugglerError,
)
from juggler.message import Call, Evnt, Pub, Request, Res, Response, Sub, Unsb
from juggler.session import Exp, Outcome, Session, Sink, result_value

if TYPE_CHECKING:
    from typing_extensions import Self

SUBPROTOCOL = Subprotocol("juggler.0")
MAX_REASON_BYTES = 123  # RFC 6455 §5.5.1

# Messages that wait for our reader, which takes them as they come. When there are more, websockets pauses; and when it
# is closed while it pauses, it polls a closed socket, for which gevent's event loop aborts the process.
READ_AHEAD = 4096

OnMessage: TypeAlias = Callable[[Response | Exp], None]

_log = logging.getLogger(__name__)


class Client:
    """A connection to a juggler server. Any number of threads or greenlets may share it.

    It connects when it is made, and is closed by `close` or at the end of a ``with`` block. A lost connection is not
    made anew: all that wait get `ConnectionClosed`, as does every later request.

    Args:
        url: ``ws://host:port/path`` or ``wss://…``.
        timeout: seconds to connect, to write a message, and to wait for the server's ACK.
        call_timeout: seconds for which the result of a call is wanted, unless the call says otherwise.
        headers: more headers for the upgrade, for example ``Authorization``.
        allowed_messages: the only requests that will be made, for example ``"call, pub"``, so that the server does
            less; any other then ends the connection. ``None`` allows all.
        max_size: largest message to accept, in bytes; the default is that of a server's ``write_limit``. ``None``: no
            limit.
        ping_interval: seconds between pings. ``None``: none are sent.
        ping_timeout: seconds after which a missing pong ends the connection. ``None``: never.
        max_events: how many events a subscription keeps for its reader; then it drops the oldest.
        on_message: is told every message from the server, and an `Exp` for each call that expired, from the client's
            own threads; it must be quick, and must not wait for an answer.
        options: further options of ``websockets.sync.client.connect``, such as ``ssl`` and ``proxy``.

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
        headers: Mapping[str, str] | None = None,
        allowed_messages: str | None = None,
        max_size: int | None = 16 * 2**20,
        ping_interval: float | None = 20.0,
        ping_timeout: float | None = 20.0,
        max_events: int = 1000,
        on_message: OnMessage | None = None,
        **options: Any,
    ) -> None:
        self._timeout = timeout
        self._call_timeout = call_timeout
        self._max_events = max_events
        self._on_message = on_message
        self._session = Session()
        # Guards the session; told when a call is made or the session ends.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # SUB and UNSB of one channel must be sent in the order in which the session got them.
        self._order = threading.Lock()
        self._websocket = _open(
            url,
            additional_headers=_headers(headers, allowed_messages),
            open_timeout=timeout,
            close_timeout=timeout,
            max_size=max_size,
            max_queue=READ_AHEAD,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            **options,
        )
        # Bounds each write. Reads are not concerned: they begin when there is something to read.
        self._websocket.socket.settimeout(timeout)
        self._threads = [_start("juggler-client-reader", self._read)]
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
        """Why the connection has ended, ``None`` while it is open."""
        return self._session.ended

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """End the connection; all that wait get `ConnectionClosed`. Any thread may call it, any number of times.

        Waits for the server's close frame, but no longer than a few ``timeout``.
        """
        self._end(ConnectionClosed(code, reason or "closed by this client"))
        self._websocket.close(code, _short(reason))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(self._timeout)

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
        timeout = self._call_timeout if timeout is None else timeout
        if not 0 < timeout <= MAX_TIMEOUT:
            raise ValueError(f"timeout: expected more than 0 and at most {MAX_TIMEOUT:.0f} seconds, got {timeout!r}")
        message = Call(uri=uri, args=encode_args(args), timeout=timeout)
        text = encode(message)
        now = time.monotonic()
        self._expire(now)
        pending = Pending(self._expire, uri, now + timeout)
        with self._changed:
            self._session.call(message, now + timeout, pending)
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
        message = Pub(channel=channel, args=encode_args(args))
        text = encode(message)
        waiter = _Waiter()
        with self._lock:
            self._session.publish(message, waiter)
        self._send(text)
        self._wait_for_ack(message, waiter)

    def subscribe(self, channel: str, pattern: bool = False) -> Subscription:
        """Subscribe, and wait until the server has acknowledged it: each later event is received.

        Args:
            channel: the channel, or a Redis glob such as ``news.*``.
            pattern: whether it is a glob.

        Raises:
            Nacked: the server refused it.
            Expired: it was not acknowledged in time.
            ConnectionClosed: the connection ended before.
        """
        message = Sub(channel=channel, pattern=pattern)
        text = encode(message)
        waiter = _Waiter()
        subscription = Subscription(self._unsubscribe, channel, pattern, self._max_events)
        try:
            with self._order:
                with self._lock:
                    is_first = self._session.subscribe(message, subscription, waiter)
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
        message = Unsb(channel=channel, pattern=pattern)
        text = encode(message)
        waiter = _Waiter()
        with self._order:
            with self._lock:
                is_last = self._session.unsubscribe(message, sink, waiter)
            if is_last:
                self._send(text)
        self._wait_for_ack(message, waiter)

    def _wait_for_ack(self, message: Request, waiter: _Waiter) -> None:
        try:
            if not waiter.wait(self._timeout):
                raise Expired(f"no acknowledgement of {message.type.name} within {self._timeout:g} s")
        finally:
            with self._lock:
                self._session.forget(message.uuid)
        waiter.outcome()

    def _send(self, text: bytes) -> None:
        try:
            self._websocket.send(text.decode())
        except WebsocketClosed as error:
            ended = self._end(_reason_of(error))
            raise ConnectionClosed(ended.code, ended.reason) from error

    def _read(self) -> None:
        """Process what the server sends, until the connection ends."""
        ended = ConnectionClosed(CloseCode.INTERNAL_ERROR, "the client's reader failed")
        try:
            while True:
                self._receive(self._websocket.recv())
        except WebsocketClosed as error:
            ended = _reason_of(error)
        except InvalidMessage as error:
            ended = ConnectionClosed(error.close_code, f"the server sent an invalid message: {error}")
        finally:
            self._end(ended)
            self._websocket.close(ended.code if ended.code >= 4000 else CloseCode.INTERNAL_ERROR, _short(ended.reason))

    def _receive(self, text: str | bytes) -> None:
        if isinstance(text, bytes):
            raise InvalidMessage("expected a text message, got a binary one")
        with self._lock:
            message = self._session.receive(text)
        self._tell(message)

    def _end(self, error: ConnectionClosed) -> ConnectionClosed:
        """End the session; returns why it ended, which may have been before."""
        with self._changed:
            self._session.end(error)
            self._changed.notify()
            return self._session.ended or error

    def _watch(self) -> None:
        """Tell of expired calls when nobody waits for them."""
        while self._session.ended is None:
            with self._changed:
                deadline = self._session.next_deadline()
                if self._session.ended is None:
                    self._changed.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            self._expire(time.monotonic())

    def _expire(self, now: float) -> None:
        with self._lock:
            expired = self._session.expire(now)
        for exp in expired:
            self._tell(exp)

    def _tell(self, message: Response | Exp) -> None:
        if self._on_message is None:
            return
        try:
            self._on_message(message)
        except Exception:
            _log.exception("on_message failed for %s", type(message).__name__)


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

    def __init__(self, expire: Callable[[float], None], uri: str, deadline: float) -> None:
        super().__init__()
        self._expire = expire
        self._deadline = deadline
        self.uri = uri

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


@dataclass(frozen=True)
class Event:
    """A publication that a subscription received.

    Attributes:
        channel: the channel on which it was published.
        pattern: the pattern that matched, empty for a subscription to the channel itself.
        uuid: UUID of the PUB that caused it.
        json: what was published, as JSON text.
    """

    channel: str
    pattern: str
    uuid: str
    json: bytes

    @cached_property
    def args(self) -> Any:
        """What was published, decoded when first asked for. Raises `InvalidValue` when it has no Python value."""
        return decode_args(self.json)


class Subscription:
    """The events of a channel or pattern: an iterator, and a context manager that unsubscribes at its end.

    Keeps up to ``max_events`` for its reader; when it is full, a new event drops the oldest. Several threads or
    greenlets may read; each event goes to one of them.

    Attributes:
        channel: what was subscribed to.
        pattern: whether it is a glob.
        dropped: number of events dropped so far.
    """

    def __init__(
        self, unsubscribe: Callable[[str, bool, Sink], None], channel: str, pattern: bool, max_events: int
    ) -> None:
        self._unsubscribe = unsubscribe
        self._events: deque[Event] = deque(maxlen=max_events)
        self._changed = threading.Condition()
        self._ended: ConnectionClosed | None = None
        self.channel = channel
        self.pattern = pattern
        self.dropped = 0

    def get(self, timeout: float | None = None) -> Event:
        """Wait for the next event.

        Args:
            timeout: seconds; ``None``: until there is one, or there can be none.

        Raises:
            TimeoutError: there was none in time.
            ConnectionClosed: the subscription or the connection has ended, and all its events were read.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._events or self._ended, timeout):
                raise TimeoutError(f"no event of {self.channel} within {timeout:g} s")
            if self._events:
                return self._events.popleft()
            assert self._ended is not None
            raise ConnectionClosed(self._ended.code, self._ended.reason)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """Return the next event; ends when the subscription does, or the connection with code 1000."""
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
            self.dropped += len(self._events) == self._events.maxlen
            self._events.append(Event(event.channel, event.pattern, event.for_, event.args))
            self._changed.notify()

    def on_end(self, error: ConnectionClosed) -> None:
        """Called by the client."""
        with self._changed:
            self._ended = error
            self._changed.notify_all()


def _open(url: str, **options: Any) -> ClientConnection:
    shown = re.sub(r"//[^/@]*@", "//***@", url)
    try:
        # Entered by hand: some versions of websockets return a connection, others what makes one.
        websocket: ClientConnection = connect(url, subprotocols=[SUBPROTOCOL], compression=None, **options).__enter__()
    except (InvalidURI, ValueError) as error:
        why = getattr(error, "msg", error)
        raise ConfigError(f"url: expected ws://host:port/path or wss://…, got {shown!r}: {why}") from error
    except InvalidStatus as error:
        status = f"{error.response.status_code} {error.response.reason_phrase}"
        reason = (error.response.body or b"").decode(errors="replace").strip()
        raise HandshakeRefused(status, reason or "no reason given") from error
    except (OSError, EOFError, WebSocketException) as error:
        raise ConnectionClosed(CloseCode.ABNORMAL, f"cannot connect to {shown}: {error}") from error
    if websocket.subprotocol != SUBPROTOCOL:
        websocket.close(CloseCode.PROTOCOL_ERROR)
        raise ConnectionClosed(CloseCode.PROTOCOL_ERROR, f"the server at {shown} does not speak {SUBPROTOCOL}")
    return websocket


def _headers(headers: Mapping[str, str] | None, allowed_messages: str | None) -> dict[str, str]:
    allowed = {} if allowed_messages is None else {"Juggler-Allowed-Messages": allowed_messages}
    return {**(headers or {}), **allowed}


def _start(name: str, target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


def _reason_of(error: WebsocketClosed) -> ConnectionClosed:
    if error.rcvd is not None:
        return ConnectionClosed(error.rcvd.code, error.rcvd.reason)
    cause = error.__cause__ or (error.sent and error.sent.reason) or "the server is gone"
    return ConnectionClosed(CloseCode.ABNORMAL, f"the connection was lost: {cause}")


def _short(reason: str) -> str:
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
