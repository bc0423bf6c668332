"""One websocket on the server: the greenlets that serve it, its responses, and its end."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from types import MappingProxyType, SimpleNamespace
from typing import TypeAlias
from uuid import uuid4

import gevent
from gevent.event import Event as Signal

from juggler.broker import CallerBroker, Event, PubSubBroker, Subscriber
from juggler.errors import BrokerError, CloseCode, ConnectionClosed, InvalidMessage, NackCode, Refused
from juggler.process.logline import Line
from juggler.process.metrics import Metrics
from juggler.process.spare_greenlets import SpareGreenlets
from juggler.process.uuids import new_uuid
from juggler.protocol import codec
from juggler.protocol.messages import (
    Ack,
    Crdt,
    Ends,
    Message,
    MessageType,
    Nack,
    Response,
    Sub,
    Wlcm,
    is_nackable,
    nack,
    type_name,
)
from juggler.protocol.subprotocols import AUTH, CANCEL, IDENTITY, JUGGLER_1, PARTS
from juggler.server.catalogue import Catalogue
from juggler.server.connect_hook import ConnectRequest
from juggler.server.held_acks import HeldAck, HeldAcks
from juggler.server.identities import Identity
from juggler.server.options import ServerOptions
from juggler.server.outgoing import Outgoing, event_message
from juggler.server.request_spans import fail_span, with_spans
from juggler.server.tokens import Tokens, TokenState, ttl
from juggler.server.websocket import WebSocket

log = logging.getLogger("juggler.connection")

FEATURES: tuple[str, ...] = (AUTH, CANCEL, IDENTITY, PARTS)
"""Features that this server supports, for the WLCM; see `juggler.protocol.subprotocols`."""

_RESULTS = frozenset({MessageType.RES, MessageType.PART})
_ABOUT_CALLS = frozenset({MessageType.CALL, MessageType.CNCL})
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})  # shared: most connections keep none


class Context(SimpleNamespace):
    """Values that handlers keep for the duration of one message; each message has a new one."""


_UNUSED = Context()  # for the standard handler, which keeps no values

Handler: TypeAlias = "Callable[[Context, Connection, Message], None]"
"""``handler(ctx, connection, message)``. It may block; it then blocks its own connection only."""


class State(Enum):
    """State of a connection, as passed to the server's ``on_state`` (the Go package's ``ConnState``)."""

    ACCEPTING = "accepting"
    """Upgraded; nothing has been read."""
    CONNECTED = "connected"
    """Its requests are read from now on."""
    CLOSED = "closed"
    """Closed; `Connection.closed` has the reason."""


class Connection(Subscriber):
    """A client's connection.

    It has a greenlet while it processes requests that have arrived, and none while it is idle. With the standard
    handler alone, responses go straight from the broker's greenlet to the websocket. With other handlers, which may
    block, they go through two more greenlets, one for results and one for events, while there are any.

    Attributes:
        uuid: identifier of the connection, in logs for example.
        options: options of the server.
        metrics: counters of the server.
        caller_broker: broker of its calls.
        pubsub_broker: broker of its subscriptions and publications.
        catalogue: catalogue of registered functions.
        subprotocol: the negotiated subprotocol; ``None`` where the server admits clients without one.
        allowed: types of requests that the client may send.
        address: address of the client, behind trusted proxies the one they report; empty for a UNIX socket.
        peer: address of the TCP peer: the client or a proxy.
        peer_port: port of the TCP peer; ``None`` for a UNIX socket.
        local_address: address on which it arrived: a host, or the path of a UNIX socket.
        local_port: port on which it arrived; ``None`` for a UNIX socket.
        path: path of its request.
        headers: the request headers that the server keeps (``Server(keep_headers=…)``), by the name given there.
        closed: code and reason with which it closed; ``None`` while it is open.
        identity: what the server's connect hook returned; ``None`` without a hook or for `ANONYMOUS`. An AUTH replaces
            it.
        by: identity that accompanies its calls, as JSON text; empty for none, ``None`` until the first CALL.
        draining: whether it refuses new calls, because it closes once the calls in flight have completed.
        began: when its connect hook was called, on ``time.monotonic``.
        unanswered: requests that the broker has neither confirmed nor refused.
        greenlets: greenlets in which its handlers run.
        held_acks: where the ACKs of its calls are held; ``None`` if they are sent at once, as under juggler.0.
        tokens: asks the connect hook; ``None`` without one.
        token_state: what `tokens` keeps of it; ``None`` while there is nothing to keep.
        websocket: its websocket, once it is served.
    """

    __slots__ = (
        "_attrs",
        "_decoders",
        "_events",
        "_handler",
        "_identify",
        "_is_direct",
        "_on_end",
        "_on_state",
        "_outgoing",
        "_results",
        "_room",
        "_serve_request",
        "_welcomed",
        "address",
        "allowed",
        "began",
        "by",
        "caller_broker",
        "catalogue",
        "closed",
        "draining",
        "greenlets",
        "headers",
        "held_acks",
        "identity",
        "local_address",
        "local_port",
        "metrics",
        "options",
        "path",
        "peer",
        "peer_port",
        "pubsub_broker",
        "subprotocol",
        "token_state",
        "tokens",
        "unanswered",
        "uuid",
        "websocket",
    )

    websocket: WebSocket

    def __init__(
        self,
        request: ConnectRequest,
        identity: Identity,
        *,
        began: float,
        options: ServerOptions,
        handler: Handler,
        is_direct: bool,
        identify: Callable[[Connection], bytes],
        caller_broker: CallerBroker,
        pubsub_broker: PubSubBroker,
        catalogue: Catalogue,
        metrics: Metrics,
        outgoing: Outgoing,
        held_acks: HeldAcks | None,
        tokens: Tokens | None,
        greenlets: SpareGreenlets,
    ) -> None:
        """Created by `juggler.server.Server.admit`.

        Args:
            request: the client's request.
            identity: what the connect hook returned.
            began: when it was called.
            options: options of the server.
            handler: handler of every message.
            is_direct: whether responses need no handler and go straight to the websocket.
            identify: returns the identity that accompanies its calls.
            caller_broker: broker of calls.
            pubsub_broker: broker of subscriptions and publications.
            catalogue: catalogue of registered functions.
            metrics: counters.
            outgoing: writes the responses.
            held_acks: holds the ACKs of the server's calls under juggler.1; ``None`` if they are sent at once.
            tokens: asks the connect hook; ``None`` without one.
            greenlets: greenlets in which handlers run.
        """
        self.uuid = str(uuid4())  # unlike those of messages, hard to guess
        self.options = options
        self.metrics = metrics
        self.caller_broker = caller_broker
        self.pubsub_broker = pubsub_broker
        self.catalogue = catalogue
        self.subprotocol = request.subprotocol
        self.allowed = request.allowed
        self.address = request.address
        self.peer = request.peer
        self.peer_port = request.peer_port
        self.local_address = request.local_address
        self.local_port = request.local_port
        self.path = sys.intern(request.path)  # few differ
        self.identity = identity.value
        self.tokens = tokens
        left = identity.seconds_left(time.time())
        self.token_state = None if left == math.inf else TokenState(time.monotonic() + left, request.saved())
        self.began = began
        self.headers = _kept(request, options.keep_headers) if options.keep_headers else _NO_HEADERS
        self.by: bytes | None = None
        self.closed: ConnectionClosed | None = None
        self.draining = False
        self.unanswered = 0
        self.held_acks = held_acks if request.subprotocol == JUGGLER_1 else None
        self.greenlets = greenlets
        self._handler = handler
        self._identify = identify
        self._is_direct = is_direct
        self._decoders = codec.REQUESTS_1 if self.subprotocol == JUGGLER_1 else codec.REQUESTS_0
        checks = tokens is not None and not is_direct
        self._serve_request = with_spans(Connection._handle_and_check if checks else Connection._handle)
        self._on_state: Callable[[Connection, State], None] | None = None
        self._on_end: Callable[[Connection], None] | None = None
        self._outgoing = outgoing
        self._room: Signal | None = None
        self._welcomed = False
        # Created when they are first needed: most connections are idle.
        self._attrs: SimpleNamespace | None = None
        self._results: _Outbox | None = None
        self._events: _Outbox | None = None

    @property
    def attrs(self) -> SimpleNamespace:
        """A place for the application's own values."""
        if self._attrs is None:
            self._attrs = SimpleNamespace()
        return self._attrs

    @property
    def busy(self) -> bool:
        """Whether the client still waits for a result, an ACK, or a response that a handler has."""
        return bool(self.unanswered or self.calls_in_flight or self.waiting_responses)

    @property
    def calls_in_flight(self) -> int:
        """Calls that await their results."""
        return self.caller_broker.in_flight(self)

    @property
    def waiting_responses(self) -> int:
        """Responses that wait for the handler."""
        return sum(len(outbox.waiting) for outbox in (self._results, self._events) if outbox is not None)

    def identify(self) -> bytes:
        """Find the identity that accompanies its calls, set `by` and return it."""
        self.by = self._identify(self)
        return self.by

    def send(self, message: Message) -> None:
        """Send a response through the server's handler.

        It may be of a registered type, see `juggler.protocol.custom`. A message of a local type, or of a class with a
        ``type`` from 256 that is not registered, reaches the handler and is never sent.
        """
        self._handle(message)

    def end_subscription(self, channel: str, pattern: bool, code: int, reason: str) -> bool:
        """End a subscription of the client, which receives ENDS under juggler.1. Does not block.

        Args:
            channel: channel, or pattern.
            pattern: whether it is a pattern.
            code: code of the ENDS, see `juggler.errors.NackCode`.
            reason: text for people.

        Returns:
            Whether the subscription existed.
        """
        broker = self.pubsub_broker
        if not broker.is_subscribed(channel, pattern, self):
            return False
        broker.unsubscribe(channel, pattern, self, _ignore)
        if self.subprotocol == JUGGLER_1:
            self.respond(Ends(channel=channel, is_pattern=pattern, code=code, message=reason))
        return True

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Start closing; does not block. The first code and reason count.

        Args:
            code: close code, see `juggler.errors.CloseCode`.
            reason: text for people, cut to 123 bytes of UTF-8.
        """
        self.websocket.close(code, reason)

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait at most ``timeout`` seconds until the websocket is closed. Return whether it is."""
        return self.websocket.wait_closed(timeout)

    # Requests, in a greenlet that reads the websocket

    def serve(
        self,
        on_state: Callable[[Connection, State], None] | None,
        on_end: Callable[[Connection], None],
    ) -> None:
        """Send the WLCM, and process requests from then on. Blocks only while the handler has the WLCM.

        Args:
            on_state: called when the connection is accepting, connected and closed.
            on_end: called once it is closing and has cleaned up; not if this method raises.
        """
        self._on_state = on_state
        self._report(State.ACCEPTING)
        if self.subprotocol == JUGGLER_1:
            self._send_welcome()
        self._report(State.CONNECTED)
        self._on_end = on_end
        self.websocket.deliver(self, self.greenlets)

    def on_text(self, text: str) -> None:
        """Process a request."""
        try:
            message = codec.decode_request(text, self.allowed, self._decoders)
        except InvalidMessage as error:
            self.metrics.invalid += 1
            log.info(Line("connection: invalid message", error=error), extra=self._in_log)
            self.close(error.close_code, str(error))
            return
        self.metrics.read[message.type] += 1
        self._serve_request(self, message)
        if self.unanswered >= self.options.max_unanswered:
            self._wait_for_room()

    def on_end(self) -> None:
        """Clean up: the websocket is closing or closed."""
        websocket = self.websocket
        if self.closed is None:
            self.closed = ConnectionClosed(websocket.close_code or CloseCode.GOING_AWAY, websocket.close_reason)
            log.debug(Line("connection: closed", code=self.closed.code, reason=self.closed.reason), extra=self._in_log)
        try:
            self.caller_broker.abandon(self, cancel=self._cancels_calls)
            self.pubsub_broker.unsubscribe_all(self)
            for outbox in (self._results, self._events):
                if outbox is not None:
                    outbox.close()
            # They reference the connection, which would otherwise wait for the garbage collector.
            self._results = self._events = None
            self._report(State.CLOSED)
        finally:
            if self._on_end is not None:
                self._on_end(self)

    def _handle_and_check(self, message: Message) -> None:
        """Handle a request. If the handler has permitted a SUB while an AUTH changed the identity, ask it again."""
        identity = self.identity
        self._handle(message)
        if type(message) is Sub and self.identity is not identity:
            self.check_subscriptions()

    def _handle(self, message: Message) -> None:
        """Pass a message to the handler; the one place where a refusal becomes a NACK."""
        began = time.monotonic()
        try:
            self._handler(_UNUSED if self._is_direct else Context(), self, message)
        except Refused as refusal:
            if type(message) is Crdt:
                return  # it gets no answer, and a client may send many
            if type(message) is Sub and message.is_check:
                self.end_subscription(message.channel, message.is_pattern, refusal.code, refusal.reason)
            elif not is_nackable(message):
                log.warning(
                    Line(
                        "connection: handler refused a message that needs no answer",
                        type=type_name(message),
                        error=refusal,
                    ),
                    extra=self._in_log,
                )
            else:
                fail_span(str(refusal.code))
                self._handle(nack(message, refusal.code, refusal.reason))
        except (Exception, gevent.Timeout, SystemExit) as error:
            fail_span(type(error).__name__)
            self.metrics.panics += 1
            log.exception(
                Line("connection: handler failed", type=type_name(message), message=message.uuid), extra=self._in_log
            )
            self.close(CloseCode.INTERNAL_ERROR, "internal error")
        if time.monotonic() - began > self.metrics.slow_after and message.type < len(self.metrics.slow):
            self.metrics.slow[message.type] += 1

    def _send_welcome(self) -> None:
        """Send the first message of juggler.1, for which clients wait: a handler may change it, but not stop it."""
        limits = self.options.limits()
        message = Wlcm(conn=self.uuid, features=FEATURES, limits=limits, ttl=ttl(self.token_state))
        self._handle(message)
        if not self._welcomed:
            self.welcome(message)

    def check_subscriptions(self) -> None:
        """Pass each subscription through the handler again, and end those that it stops. Blocks as the handler does."""
        state = self.token_state
        if self._is_direct or state is None:
            return  # the standard handler permits all
        for channel, is_pattern in self.pubsub_broker.subscriptions_of(self):
            check = Sub(uuid=new_uuid(), channel=channel, is_pattern=is_pattern, is_check=True)
            self._handle(check)
            if self.websocket.close_code is not None:
                return
            if not state.took_permission(check.uuid):
                self.end_subscription(channel, is_pattern, NackCode.FORBIDDEN, "the subscription is no longer allowed")

    def permit(self, check: Sub) -> None:
        """Keep the subscription that `check_subscriptions` has passed through the handler."""
        if self.token_state is not None:
            self.token_state.permitted += (check.uuid,)

    def _wait_for_room(self) -> None:
        self._room = Signal()
        self._room.wait()
        self._room = None

    @property
    def _cancels_calls(self) -> bool:
        """Whether its calls are cancelled when it closes."""
        option = self.options.cancel_on_close
        return option == "always" or (option == "juggler.1" and self.subprotocol == JUGGLER_1)

    @property
    def _in_log(self) -> dict[str, str]:
        return {"connection": self.uuid}

    def _report(self, state: State) -> None:
        """Call ``on_state``; its errors are logged and cost the connection nothing."""
        if self._on_state is not None:
            try:
                self._on_state(self, state)
            except (Exception, gevent.Timeout, SystemExit):
                log.exception(Line("connection: on_state failed", state=state.value), extra=self._in_log)

    # Responses. All but `write` are called by brokers and do not block.

    def answer(self, response: Ack | Nack) -> None:
        """Send the ACK or NACK of a request that the broker has confirmed or refused."""
        self.unanswered -= 1
        if self._room is not None:
            self._room.set()
        if self._is_direct:
            self._outgoing.write(self.websocket, response)
        else:
            self.respond(response)

    def answered(self) -> None:
        """Count a request as answered that needs no ACK or NACK any more."""
        self.unanswered -= 1
        if self._room is not None:
            self._room.set()

    def hold_ack(self, call: HeldAck) -> None:
        """Send the ACK of a call in a moment, unless its result is sent before."""
        self.answered()
        assert self.held_acks is not None
        self.held_acks.add(call)

    def respond(self, response: Response) -> None:
        """Send a response: at once, or through the handler in the greenlet for responses of its kind."""
        if self._is_direct:
            self._outgoing.write(self.websocket, response)
        elif self.websocket.close_code is not None:
            return
        elif response.type in _RESULTS or getattr(response, "for_type", None) in _ABOUT_CALLS:
            if self._results is None:
                self._results = _Outbox(self)
            self._results.put(response)
        else:
            if self._events is None:
                self._events = _Outbox(self)
            self._events.put(response)

    def on_event(self, event: Event) -> None:
        if not self._is_direct:
            self.respond(event_message(event))
            return
        outgoing = self._outgoing
        if outgoing.event is not event:
            outgoing.load(event)
        if self.websocket.send_shared(outgoing.text):
            outgoing.written[outgoing.type] += 1
            if outgoing.is_refused:
                self.metrics.nacks[NackCode.TOO_LARGE] += 1

    def welcome(self, message: Wlcm) -> None:
        """Put the WLCM on the websocket."""
        self._welcomed = True
        self._outgoing.write(self.websocket, message)

    def write(self, response: Message) -> None:
        """Put a response on the websocket, past the handlers."""
        self._outgoing.write(self.websocket, response)


def _ignore(error: BrokerError | None) -> None:
    """Ignore the outcome: the broker delivers nothing from now on, whatever Redis answers."""


def _kept(request: ConnectRequest, names: Iterable[str]) -> Mapping[str, str]:
    return {name: value for name in names if (value := request.header(name)) is not None}


class _Outbox:
    """Responses that wait for the handler, and the greenlet that passes them to it while there are any."""

    __slots__ = ("_connection", "_sends", "waiting")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.waiting: deque[Response] = deque()
        self._sends = False

    def put(self, response: Response) -> None:
        if len(self.waiting) >= self._connection.options.max_waiting:
            self._connection.close(CloseCode.PEER_TOO_SLOW, f"{len(self.waiting)} responses wait for the handler")
            return
        self.waiting.append(response)
        if not self._sends:
            self._sends = True
            self._connection.greenlets.run_soon(self._send_all)

    def close(self) -> None:
        self.waiting.clear()

    def _send_all(self) -> None:
        try:
            while self.waiting:
                # It waits until the handler returns, or a server that drains would not let it through.
                self._connection.send(self.waiting[0])
                if self.waiting:  # it may have been closed meanwhile
                    self.waiting.popleft()
        except BaseException:
            self._connection.close(CloseCode.GOING_AWAY)  # the handler has ended its greenlet
            raise
        finally:
            self._sends = False
