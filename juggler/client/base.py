"""What both clients have in common outside of their pure state: options, calls of the user's functions, and spans."""

from __future__ import annotations

import logging
import random
import ssl
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

from juggler.client.bookkeeping import PendingRequest
from juggler.client.forks import forked
from juggler.client.opening import Headers, shown, upgrade_headers, welcome
from juggler.client.reconnect import Reconnect
from juggler.client.renewal import AsyncToken, Renewal
from juggler.client.state import ClientState, Exp, State
from juggler.errors import ConnectionClosed, JugglerError
from juggler.process.backoff import pauses
from juggler.process.fork_hooks import register
from juggler.process.logline import Line
from juggler.process.tracing import NAME, Span, current_trace, find_tracer
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import Message, Response, Unknown, Wlcm

OnMessage: TypeAlias = Callable[[Response | Exp], None]
OnState: TypeAlias = Callable[[State, JugglerError | None], None]
OnRaw: TypeAlias = Callable[[Literal["in", "out"], str | bytes], None]

THREADS = "juggler-client-"
"""What the names of threads of clients begin with."""

_log = logging.getLogger("juggler.client")


def is_stop(error: BaseException) -> bool:
    """Return whether an exception stops a thread, greenlet or task from outside: every other is one of a function.

    The one of gevent is known by its name. This module runs without gevent.
    """
    return isinstance(error, KeyboardInterrupt) or type(error).__name__ == "GreenletExit"


def run_callback(name: str, about: str, function: Callable[..., object], *args: Any) -> None:
    """Call a function of the user's. Log its exception: the client continues.

    In the user's own threads, an exception that is no `Exception` is one that the user expects, such as a timeout.
    """
    try:
        function(*args)
    except BaseException as error:
        is_own = threading.current_thread().name.startswith(THREADS)
        if is_stop(error) or not (is_own or isinstance(error, Exception)):
            raise
        _log.exception(Line("client: callback failed", callback=name, about=about))


class Listeners:
    """The functions of a client's options ``on_message``, ``on_state`` and ``on_raw``; each may be missing.

    Attributes:
        has_raw: whether there is an ``on_raw``.
    """

    def __init__(self, on_message: OnMessage | None, on_state: OnState | None, on_raw: OnRaw | None) -> None:
        self.has_raw = on_raw is not None
        self._on_message = on_message
        self._on_state = on_state
        self._on_raw = on_raw
        self._state: State | None = None

    def message(self, message: Message) -> None:
        """Report a message from the server that this version knows, or an expired call."""
        if self._on_message is not None and not isinstance(message, Unknown):
            run_callback("on_message", type(message).__name__, self._on_message, message)

    def state(self, state: State, error: JugglerError | None) -> None:
        """Report the state of the client, if it has changed."""
        if self._on_state is not None and state is not self._state:
            self._state = state
            run_callback("on_state", state.value, self._on_state, state, error)

    def failure(self, error: JugglerError) -> None:
        """Report an error that leaves the state of the client as it is."""
        if self._on_state is not None and self._state is not None:
            run_callback("on_state", self._state.value, self._on_state, self._state, error)

    def raw(self, direction: Literal["in", "out"], message: str | bytes) -> None:
        """Report a message as it travels."""
        if self._on_raw is not None:
            run_callback("on_raw", direction, self._on_raw, direction, message)


class BaseClient:
    """The options and the state of a client; see `juggler.client.Client`."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        call_timeout: float = 60.0,
        headers: Headers | None = None,
        token: AsyncToken | None = None,
        allowed_messages: str | None = None,
        max_size: int | None = 16 * 2**20,
        ping_interval: float | None = 15.0,
        ping_timeout: float | None = 10.0,
        max_events: int = 1000,
        reconnect: bool = True,
        reconnect_timeout: float | None = None,
        retry_first: bool = False,
        follow_gaps: bool = False,
        ssl: ssl.SSLContext | None = None,
        on_message: OnMessage | None = None,
        on_state: OnState | None = None,
        on_raw: OnRaw | None = None,
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._token = token
        self._upgrade_headers = partial(upgrade_headers, headers, allowed_messages)
        self._max_size = max_size
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._max_events = max_events
        self._retry_first = retry_first
        self._ssl = ssl
        self._new_state = partial(
            ClientState,
            call_timeout=call_timeout,
            reconnect=Reconnect(reconnect, reconnect_timeout, pauses),
            renewal=Renewal(pauses, random.uniform),
            new_uuid=new_uuid,
            follow_gaps=follow_gaps,
            trace=_begin_span,
        )
        self._state = self._new_state()
        self._expects_messages = on_message is not None
        self._listeners = Listeners(on_message, on_state, on_raw)
        self._set_up()
        register(self)

    def _set_up(self) -> None:
        """Create locks, threads and connections."""
        raise NotImplementedError

    def on_fork(self) -> None:
        """Close the copy of this client in a child process; see `juggler.client.forks`."""
        if self.closed is None:
            self._state = self._new_state()  # waking those that wait for the old one could block
            self._state.close(forked())

    @property
    def closed(self) -> ConnectionClosed | None:
        """Why the client has closed, ``None`` while it is open."""
        return self._state.closed

    @property
    def connected(self) -> bool:
        """Whether requests can be made."""
        return self._state.is_connected

    @property
    def subprotocol(self) -> str:
        """Subprotocol of the connection, or of the last one: ``juggler.1``, or ``juggler.0`` with an older server."""
        return self._state.subprotocol

    @property
    def features(self) -> frozenset[str]:
        """Features of the server, such as ``"cancel"``; empty under ``juggler.0``. See docs/protocol.md."""
        return self._state.features

    @property
    def limits(self) -> Mapping[str, Any]:
        """Limits of the server by name, such as ``max_calls``; empty under ``juggler.0``. See docs/protocol.md."""
        return self._state.limits

    def require(self, feature: str) -> None:
        """Check that the server has a feature. Calls that need it do so themselves.

        Raises:
            NotSupported: it has not.
            ConnectionClosed: there is no connection.
        """
        self._state.require(feature)

    def _read_welcome(self, text: str | None) -> Wlcm | None:
        """Decode the first message of a server, if it has sent one."""
        if text is None:
            return None
        self._listeners.raw("in", text)
        return welcome(text, self._url)

    def _log_bug(self, error: BaseException) -> None:
        """Log an error of an attempt to connect that is not a `JugglerError`: the user's function for headers or tokens
        failed."""
        if not isinstance(error, JugglerError):
            _log.error(Line("client: cannot connect", url=shown(self._url), error=error), exc_info=error)

    def _report_token(self, error: BaseException) -> None:
        """Report that the token could not be renewed. The client tries again."""
        if not isinstance(error, JugglerError):
            _log.error(Line("client: cannot renew the token", url=shown(self._url), error=error), exc_info=error)
            error = JugglerError(f"cannot renew the token: {type(error).__name__}: {error}")
        self._listeners.failure(error)

    def _run_callbacks(self) -> None:
        """Run the callbacks that are due. Several threads may do so."""
        callbacks = self._state.callbacks
        while callbacks:
            try:
                callback = callbacks.popleft()
            except IndexError:
                return  # another thread took the last one
            run_callback(*callback)


def _begin_span(pending: PendingRequest, uri: str, channel: str) -> str:
    """Begin the span of a call or a publication, which ends when it is settled. Return its traceparent.

    Without a tracer provider, return that of the current span; empty without one.
    """
    tracer = find_tracer()
    if tracer is None:
        return current_trace()
    if uri:
        span = tracer.begin(uri, "CLIENT", {"rpc.system": NAME, "rpc.method": uri})
    else:
        attributes = {"messaging.operation.type": "send", "messaging.operation.name": "publish"}
        attributes |= {"messaging.system": NAME, "messaging.destination.name": channel}
        span = tracer.begin("publish", "PRODUCER", attributes)
    pending.on_settled.append(partial(_end_span, span))
    return span.trace


def _end_span(span: Span, pending: PendingRequest) -> None:
    try:
        response = pending.outcome()
    except JugglerError as error:
        span.end(type(error).__name__)
    else:
        span.end("CallFailed" if response is not None and response.failed else "")
