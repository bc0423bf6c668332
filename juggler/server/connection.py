"""One websocket on the server: what it may do, what it waits for, the greenlets that serve it, and its end."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import Enum
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event as Signal

from juggler.broker import Event, PendingCall, Subscriber
from juggler.errors import CloseCode, ConnectionClosed, InvalidMessage, NackCode, Refused
from juggler.process.metrics import SLOW
from juggler.process.uuids import new_uuid
from juggler.protocol import codec
from juggler.protocol.messages import Ack, Evnt, Message, MessageType, Nack, Response, nack
from juggler.server.connect_hook import ConnectRequest
from juggler.server.processing import Context
from juggler.server.websocket import SharedText, WebSocket

if TYPE_CHECKING:
    from juggler.server import Server

log = logging.getLogger("juggler.connection")

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})  # one for all: most connections keep none


class State(Enum):
    """What the server's ``on_state`` is told of a connection (the Go package's ``ConnState``)."""

    ACCEPTING = "accepting"
    """It is upgraded; nothing has been read."""
    CONNECTED = "connected"
    """Its requests are read from now on."""
    CLOSED = "closed"
    """It has ended; `Connection.closed` says how."""


class Connection(Subscriber):
    """A client's connection.

    The greenlet that the WSGI server gave it reads requests. With the standard handler alone, what a broker has to tell
    goes straight from the broker's greenlet to the websocket. With a handler of the user's, which may block, it goes
    through two greenlets of the connection's own, one for results and one for events, each started when first needed.

    Attributes:
        uuid: the connection's name, in logs for example.
        server: the server that it belongs to.
        subprotocol: the negotiated subprotocol, or None where the server lets clients come without.
        allowed: the types of requests that it may send.
        address: the client's address, behind trusted proxies what they say; empty for a UNIX socket.
        peer: the address of whoever made the TCP connection: the client, or a proxy.
        headers: the request's headers that the server keeps (``Server(keep_headers=…)``), by the name given there.
        closed: how it has ended, with code and reason; None as long as it has not.
        identity: who it is, as the server's connect hook said; None without one.
        attrs: a place for the application's own values.
    """

    __slots__ = (
        "_attrs",
        "_calls",
        "_events",
        "_results",
        "_room",
        "_subscriptions",
        "_unanswered",
        "address",
        "allowed",
        "closed",
        "headers",
        "identity",
        "peer",
        "server",
        "subprotocol",
        "uuid",
        "websocket",
    )

    websocket: WebSocket

    def __init__(self, server: Server, request: ConnectRequest, identity: Any = None) -> None:
        """Made by `Server.admit`; it has its websocket once it is served."""
        self.uuid = new_uuid()
        self.server = server
        self.subprotocol = request.subprotocol
        self.allowed = request.allowed
        self.address = request.address
        self.peer = request.peer
        self.identity = identity
        self.headers = _kept(request, server.keep_headers) if server.keep_headers else _NO_HEADERS
        self.closed: ConnectionClosed | None = None
        self._attrs: SimpleNamespace | None = None
        self._unanswered = 0
        self._room: Signal | None = None
        # All of these are made when they are first needed: most connections are idle.
        self._calls: set[PendingCall] | None = None
        self._subscriptions: set[tuple[str, bool]] | None = None
        self._results: _Outbox | None = None
        self._events: _Outbox | None = None

    @property
    def attrs(self) -> SimpleNamespace:
        if self._attrs is None:
            self._attrs = SimpleNamespace()
        return self._attrs

    @property
    def busy(self) -> bool:
        """Whether the client still waits for something: a result, an ACK, or a response that a handler has."""
        if self._calls or self._unanswered:
            return True
        return any(outbox is not None and outbox.waiting for outbox in (self._results, self._events))

    @property
    def calls_in_flight(self) -> int:
        """How many calls wait for their results."""
        return len(self._calls or ())

    @property
    def outboxes(self) -> list[int]:
        """How many responses wait for the handler, in each of the greenlets for them."""
        return [len(outbox.waiting) for outbox in (self._results, self._events) if outbox is not None]

    def send(self, message: Response) -> None:
        """Send a response through the server's handler."""
        self._handle(message)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Begin to close; does not block. The first code and reason count.

        Args:
            code: close code, see `juggler.errors.CloseCode`.
            reason: for people; what is over 123 bytes of UTF-8 is cut off.
        """
        self.websocket.close(code, reason)

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait until the websocket is closed, for at most ``timeout`` seconds. Return whether it is."""
        return self.websocket.wait_closed(timeout)

    # Requests, in the reading greenlet

    def serve(self) -> None:
        """Read and process requests until the connection has ended."""
        metrics = self.server.metrics
        try:
            self.tell_state(State.CONNECTED)
            while True:
                text = self.websocket.receive()
                try:
                    message = codec.decode_request(text, self.allowed)  # type: ignore[arg-type]  # binary is not allowed
                except InvalidMessage as error:
                    metrics.invalid += 1
                    log.info("%s", error, extra=self._in_log)
                    self.close(error.close_code, str(error))
                    continue
                metrics.read[message.type] += 1
                self._handle(message)
                if self._unanswered >= self.server.max_unanswered:
                    self._wait_for_room()
        except ConnectionClosed as end:
            self.closed = ConnectionClosed(end.code, end.reason)  # without the traceback, which holds all this
            log.debug("closed: %s", end, extra=self._in_log)
        finally:
            self._end()

    def _handle(self, message: Message) -> None:
        """Give a message to the handler; the one place where a refusal becomes a NACK."""
        began = time.monotonic()
        try:
            self.server.handler(Context(), self, message)
        except Refused as refusal:
            if isinstance(message, Nack):
                log.warning("a NACK was refused: %s", refusal, extra=self._in_log)
            else:
                self._handle(nack(message, refusal.code, refusal.reason))
        except (Exception, gevent.Timeout):
            self.server.metrics.panics += 1
            log.exception("the handler failed on %s %s", message.type.name, message.uuid, extra=self._in_log)
            self.close(CloseCode.INTERNAL_ERROR, "internal error")
        if time.monotonic() - began > SLOW:
            self.server.metrics.slow[message.type] += 1

    def _wait_for_room(self) -> None:
        self._room = Signal()
        self._room.wait()
        self._room = None

    def _end(self) -> None:
        for pending in self._calls or ():
            self.server.caller_broker.forget(pending)
        if self._subscriptions is not None:
            self.server.pubsub_broker.unsubscribe_all(self)
        for outbox in (self._results, self._events):
            if outbox is not None:
                outbox.close()
        # They know us: without this the connection would wait for the garbage collector.
        self._calls = self._results = self._events = None
        if self.closed is None:  # its greenlet is being killed
            code = self.websocket.close_code or CloseCode.GOING_AWAY
            self.closed = ConnectionClosed(code, self.websocket.close_reason)
        self.tell_state(State.CLOSED)

    @property
    def _in_log(self) -> dict[str, str]:
        return {"connection": self.uuid}

    def tell_state(self, state: State) -> None:
        """Tell the server's ``on_state``, whose failure costs the connection nothing."""
        on_state = self.server.on_state
        if on_state is not None:
            try:
                on_state(self, state)
            except Exception:
                log.exception("on_state failed at %s", state.value, extra=self._in_log)

    # What the standard processing keeps here

    def begin_call(self, pending: PendingCall) -> None:
        """Note a call whose result is awaited.

        Raises:
            Refused: there are too many of them.
        """
        if self._calls is None:
            self._calls = set()
        elif len(self._calls) >= self.server.max_calls:
            raise Refused(NackCode.TOO_MANY_REQUESTS, f"{len(self._calls)} calls are in flight already")
        self._calls.add(pending)

    def end_call(self, pending: PendingCall) -> None:
        """Forget a call that has ended."""
        if self._calls is not None:
            self._calls.discard(pending)

    def begin_subscription(self, channel: str, pattern: bool) -> bool:
        """Note a subscription, and return whether it is a new one.

        Raises:
            Refused: there are too many of them.
        """
        if self._subscriptions is None:
            self._subscriptions = set()
        if (channel, pattern) in self._subscriptions:
            return False
        if len(self._subscriptions) >= self.server.max_subscriptions:
            raise Refused(NackCode.TOO_MANY_REQUESTS, f"{len(self._subscriptions)} subscriptions exist already")
        self._subscriptions.add((channel, pattern))
        return True

    def end_subscription(self, channel: str, pattern: bool) -> None:
        """Forget a subscription that has ended, or that was refused."""
        if self._subscriptions is not None:
            self._subscriptions.discard((channel, pattern))

    # Responses. All but `write` are called by brokers and do not block.

    def expect_answer(self) -> None:
        """A request has gone to the broker: its ACK or NACK will come through `answer`."""
        self._unanswered += 1

    def answer(self, response: Ack | Nack) -> None:
        """Send the ACK or NACK of a request that the broker has confirmed or refused."""
        self._unanswered -= 1
        if self._room is not None:
            self._room.set()
        self.respond(response)

    def respond(self, response: Response) -> None:
        """Send a response: at once, or through the handler in the greenlet for responses of its kind."""
        if self.server.direct:
            self.write(response)
        elif self.websocket.close_code is not None:
            return
        elif response.type is MessageType.RES or getattr(response, "for_type", None) == MessageType.CALL:
            if self._results is None:
                self._results = _Outbox(self, "results")
            self._results.put(response)
        else:
            if self._events is None:
                self._events = _Outbox(self, "events")
            self._events.put(response)

    def on_event(self, event: Event) -> None:
        if not self.server.direct:
            self.respond(Evnt(for_=event.uuid, channel=event.channel, pattern=event.pattern, args=event.args))
            return
        text = event.shared
        if text is None:
            message = Evnt(for_=event.uuid, channel=event.channel, pattern=event.pattern, args=event.args)
            text = event.shared = SharedText(self._fit(message)[1])
        if self.websocket.send_shared(text):
            self.server.metrics.written[MessageType.EVNT] += 1

    def write(self, response: Response) -> None:
        """Put a response on the websocket; where it is too large, a NACK that refers to the original request."""
        # Events come unasked for; what the client has asked for may come faster than it can read.
        extra = 0 if type(response) is Evnt else self.server.answer_limit
        response, text = self._fit(response)
        if self.websocket.send(text, extra):
            metrics = self.server.metrics
            metrics.written[response.type] += 1
            if type(response) is Nack:
                metrics.nacks[response.code] += 1

    def _fit(self, response: Response) -> tuple[Response, bytes]:
        """Return a response and its text, or the NACK that takes its place where it is too large."""
        text = codec.encode(response, new_uuid())
        limit = self.server.write_limit
        if limit is None or len(text) <= limit:
            return response, text
        self.server.metrics.write_limit_exceeded += 1
        reason = f"the {response.type.name} has {len(text)} bytes, the limit is {limit}"
        refusal = nack(response, NackCode.TOO_LARGE, reason)
        return refusal, codec.encode(refusal, new_uuid())


def _kept(request: ConnectRequest, names: Iterable[str]) -> Mapping[str, str]:
    return {name: value for name in names if (value := request.header(name)) is not None}


class _Outbox:
    """Responses that wait for the handler, and the greenlet that gives them to it."""

    __slots__ = ("_connection", "_greenlet", "_signal", "waiting")

    def __init__(self, connection: Connection, kind: str) -> None:
        self._connection = connection
        self.waiting: deque[Response] = deque()
        self._signal = Signal()
        connection.server.metrics.outboxes += 1
        self._greenlet = gevent.spawn(self._run)
        self._greenlet.name = f"juggler-{kind}-{connection.uuid}"

    def put(self, response: Response) -> None:
        if len(self.waiting) >= self._connection.server.max_waiting:
            self._connection.close(CloseCode.PEER_TOO_SLOW, f"{len(self.waiting)} responses wait for the handler")
            return
        self.waiting.append(response)
        self._signal.set()

    def close(self) -> None:
        self._greenlet.kill(block=False)

    def _run(self) -> None:
        # An exception that stays in the greenlet would keep all this alive, by its traceback.
        with suppress(gevent.GreenletExit):
            self._send_all()

    def _send_all(self) -> None:
        while True:
            self._signal.wait()
            self._signal.clear()
            while self.waiting:
                # One that the handler has still waits, or a server that shuts down would not let it through.
                self._connection.send(self.waiting[0])
                self.waiting.popleft()
