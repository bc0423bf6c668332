"""The server: its options, its live connections, and how it begins and ends to serve them. No HTTP here."""

from __future__ import annotations

import logging
import random
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import gevent

from juggler.broker import Broker, BrokerStats, CallerBroker, PubSubBroker
from juggler.errors import BrokerUnavailable, CloseCode, HandshakeRefused
from juggler.process.metrics import Metrics, Snapshot
from juggler.process.metrics.lag import LagMeter
from juggler.protocol.codec import MAX_TIMEOUT
from juggler.server.catalogue import Directory, ServedUris
from juggler.server.connect_hook import Connect, ConnectRequest
from juggler.server.connection import Connection, State
from juggler.server.processing import Handler, process_message
from juggler.server.websocket import Sweeper, WebSocket, WebSocketOptions

log = logging.getLogger("juggler.server")

_GOODBYE = "the server is shutting down"
_HANDSHAKE = 2.0  # seconds of a shutdown's grace for the answers to close frames
_PAUSE = 0.02  # seconds between two connections that are closed, where there are few
_POLL = 0.05  # seconds between two looks at the connections that are busy

_live: weakref.WeakSet[Server] = weakref.WeakSet()


class Server:
    """Serves websocket connections: RPC through one broker, pub-sub through the same or another one.

    Servers keep nothing that others need: run as many as you like. Greenlets of one thread may share it.
    """

    def __init__(
        self,
        *,
        caller_broker: CallerBroker,
        pubsub_broker: PubSubBroker,
        handler: Handler = process_message,
        connect: Connect | None = None,
        connect_timeout: float = 10.0,
        on_state: Callable[[Connection, State], None] | None = None,
        keep_headers: Sequence[str] = (),
        websocket: WebSocketOptions | None = None,
        call_timeout: float = 60.0,
        max_call_timeout: float = MAX_TIMEOUT,
        max_connections: int | None = 10_000,
        max_calls: int = 1000,
        max_subscriptions: int = 1000,
        max_unanswered: int = 256,
        max_waiting: int = 1000,
        max_uri_length: int | None = 512,
        max_channel_length: int | None = 512,
        write_limit: int | None = 16 * 1024 * 1024,
        answer_limit: int = 64 * 1024 * 1024,
        unknown_uris: Literal["queue", "refuse"] = "queue",
        list_uri: str | None = None,
    ) -> None:
        """Make a server. It starts to use its brokers with the first request.

        Args:
            caller_broker: takes the calls.
            pubsub_broker: takes subscriptions and publications.
            handler: sees every message, in both directions; see `juggler.server.processing`.
            connect: sees the request of each client before it is let in, and says who it is (`Connection.identity`) or
                refuses it; see `juggler.server.connect_hook` and `juggler.auth`. None lets all in.
            connect_timeout: seconds that the connect hook may wait for something; then the client gets 503. Clients it
                is asked about count as connections.
            on_state: is told when a connection is accepting, connected and closed; see `State`. It must not block.
            keep_headers: names of the request's headers that are kept as `Connection.headers`, for handlers.
            websocket: limits of each websocket, in time and size; None means the defaults of `WebSocketOptions`.
            call_timeout: seconds for which the result of a CALL is wanted that does not say it.
            max_call_timeout: seconds for which a result may be wanted, at most 24 hours; a CALL that wants more is
                refused with NACK 400.
            max_connections: connections at a time; more are refused with 503. None means no limit.
            max_calls: calls in flight on one connection; more are refused with NACK 429.
            max_subscriptions: subscriptions of one connection; more are refused with NACK 429.
            max_unanswered: requests of one connection that await their ACK; it is not read from meanwhile.
            max_waiting: responses that wait for a handler, of each kind; beyond, the connection is closed with 4429.
            max_uri_length: characters of a URI; a longer one is refused with NACK 400. None means no limit.
            max_channel_length: characters of a channel or pattern, likewise.
            write_limit: size of an outgoing message in bytes; a larger one becomes NACK 413. None means no limit.
            answer_limit: bytes of answers that may wait for a client to read them, beyond the
                `WebSocketOptions.queue_limit` that events are held to: results of many calls may come faster than they
                can be read.
            unknown_uris: what becomes of a CALL to a URI that no callee has announced: ``"queue"`` lets it wait for a
                callee until its timeout, as in the Go package; ``"refuse"`` answers NACK 404 at once. Callees of the Go
                package announce nothing.
            list_uri: a CALL to this URI is answered by the server itself with the list of what is served, see
                `juggler.broker.ServedFunction`. None means that there is no such URI.

        Raises:
            ValueError: an option is out of its range.
        """
        if unknown_uris not in ("queue", "refuse"):
            raise ValueError(f"unknown_uris: expected 'queue' or 'refuse', got {unknown_uris!r}")
        _check_seconds("max_call_timeout", max_call_timeout, MAX_TIMEOUT)
        _check_seconds("call_timeout", call_timeout, max_call_timeout)
        self.caller_broker = caller_broker
        self.pubsub_broker = pubsub_broker
        self.handler = handler
        _check_seconds("connect_timeout", connect_timeout, MAX_TIMEOUT)
        self.connect = connect
        self.connect_timeout = connect_timeout
        self.on_state = on_state
        self.keep_headers = _names(keep_headers)
        self.websocket_options = websocket or WebSocketOptions()
        self.call_timeout = call_timeout
        self.max_call_timeout = max_call_timeout
        self.max_connections = _positive("max_connections", max_connections)
        self.max_calls: int = _positive("max_calls", max_calls) or 0
        self.max_subscriptions: int = _positive("max_subscriptions", max_subscriptions) or 0
        self.max_unanswered: int = _positive("max_unanswered", max_unanswered) or 0
        self.max_waiting: int = _positive("max_waiting", max_waiting) or 0
        self.max_uri_length = _positive("max_uri_length", max_uri_length)
        self.max_channel_length = _positive("max_channel_length", max_channel_length)
        self.answer_limit: int = _positive("answer_limit", answer_limit) or 0
        self.write_limit = _positive("write_limit", write_limit)
        self.list_uri = list_uri
        self.directory = Directory(caller_broker)
        self.served_uris = ServedUris(caller_broker) if unknown_uris == "refuse" else None
        self.connections: set[Connection] = set()
        self._asking = 0  # clients about which the connect hook is being asked
        self.draining = False
        self.metrics = Metrics()
        self._lag = LagMeter(self.metrics)
        self._sweeper: Sweeper | None = None
        _live.add(self)

    @property
    def direct(self) -> bool:
        """Whether responses need no handler of the user's and go straight to the websocket."""
        return self.handler is process_message

    def check_admission(self) -> None:
        """See that one more connection may come.

        Raises:
            HandshakeRefused: 503, with the time after which to try again.
        """
        if self.draining:
            raise HandshakeRefused("503 Service Unavailable", _GOODBYE, [("Retry-After", "1")])
        if self.max_connections is not None and len(self.connections) + self._asking >= self.max_connections:
            reason = f"the server has its {self.max_connections} connections"
            raise HandshakeRefused("503 Service Unavailable", reason, [("Retry-After", "5")])

    def unready(self) -> str:
        """Return why no clients should be sent here now, empty when they may come."""
        if self.draining:
            return _GOODBYE
        try:
            self.caller_broker.check_ready()
            self.pubsub_broker.check_ready()
        except BrokerUnavailable as error:
            return error.reason
        return ""

    def admit(self, request: ConnectRequest) -> Connection:
        """Decide whether a client may come, and return its connection, which is not served yet.

        Args:
            request: what the client shows. It is looked at here, and not kept.

        Raises:
            HandshakeRefused: it may not; 503 where the connect hook fails.
        """
        self.check_admission()
        identity = None
        if self.connect is not None:
            identity = self._ask_hook(self.connect, request)
            self.check_admission()  # the hook may have taken its time
        return Connection(self, request, identity)

    def _ask_hook(self, connect: Connect, request: ConnectRequest) -> Any:
        self._asking += 1
        try:
            with gevent.Timeout(self.connect_timeout):
                return connect(request)
        except HandshakeRefused:
            raise
        except (Exception, gevent.Timeout):
            log.exception("the connect hook failed on a client from %s", request.address or "a UNIX socket")
            reason = "whether you may connect cannot be told now"
            raise HandshakeRefused("503 Service Unavailable", reason, [("Retry-After", "5")]) from None
        finally:
            self._asking -= 1

    def snapshot(self) -> Snapshot:
        """Return the figures of this server and its brokers, as they are now."""
        connections = list(self.connections)
        outboxes = [outbox for connection in connections for outbox in connection.outboxes]
        brokers: list[Broker] = [self.caller_broker]
        if id(self.pubsub_broker) != id(self.caller_broker):  # they may be one object
            brokers.append(self.pubsub_broker)
        snapshot = Snapshot(
            counters=self.metrics.counters(),
            gauges={
                "juggler_connections": {"": len(connections)},
                "juggler_connection_greenlets_active": {"": len(connections) + len(outboxes)},
                "juggler_calls_in_flight": {"": sum(connection.calls_in_flight for connection in connections)},
                "juggler_outgoing_queue_bytes": {"": sum(c.websocket.queued_bytes for c in connections)},
                "juggler_waiting_responses": {"": sum(outboxes)},
                "juggler_workers": {"": 1},
            },
            highest={"juggler_loop_lag_seconds": {"": self.metrics.lag}},
            calls=self.metrics.calls,
        )
        for broker in brokers:
            _add_broker(snapshot, broker.stats())
        return snapshot

    def serve(self, connection: Connection, websocket: WebSocket) -> None:
        """Serve a connection until it has ended, in the calling greenlet.

        Args:
            connection: as `admit` returned it.
            websocket: the upgraded connection.
        """
        if self.draining:
            # It was admitted before, and has to go like those that were here.
            websocket.close(CloseCode.GOING_AWAY, _GOODBYE)
            return
        connection.websocket = websocket
        connection.tell_state(State.ACCEPTING)
        if self._sweeper is None:
            self._sweeper = Sweeper()
        sweeper = self._sweeper  # should `close` let go of it meanwhile
        self.connections.add(connection)
        self.metrics.connections += 1
        self._lag.start()
        sweeper.add(websocket)
        try:
            connection.serve()
        finally:
            self.connections.discard(connection)
            self.metrics.count_close(websocket.close_code or CloseCode.ABNORMAL)
            sweeper.discard(websocket)

    def shut_down(self, grace: float = 10.0, spread: float = 2.0) -> None:
        """Take no new connections, close each with 1001 once nothing is under way on it, and all within ``grace``.

        It may be called again, meanwhile too: all connections are gone when the first of the calls has to return.

        Args:
            grace: seconds until all connections are closed, whatever their clients and calls do. The last 2 of them, or
                a quarter, are for the clients' answers to the close frame.
            spread: seconds over which closing is spread, at most a quarter of ``grace``, so that clients do not return
                all at once. Calls have what is left of ``grace``.
        """
        self.draining = True
        end = time.monotonic() + grace
        spread = min(spread, grace / 4)
        patience = end - spread - min(_HANDSHAKE, grace / 4)
        closing: list[Connection] = []
        while waiting := [c for c in self.connections if c.websocket.close_code is None]:
            random.shuffle(waiting)
            closed = _close_spread(waiting, spread, patience)
            closing += closed
            if len(closed) < len(waiting):
                gevent.sleep(_POLL)
        for connection in closing:
            if not connection.wait_closed(max(0.0, end - time.monotonic())):
                connection.websocket.abort()
        self.close()

    def close(self) -> None:
        """Begin to close what is left, and release the greenlet that watches over connections. Brokers stay open."""
        self.draining = True
        for connection in list(self.connections):
            connection.close(CloseCode.GOING_AWAY, _GOODBYE)
        self._lag.close()
        if self.served_uris is not None:
            self.served_uris.close()
        if self._sweeper is not None:
            self._sweeper.close()
            self._sweeper = None


def _add_broker(snapshot: Snapshot, stats: BrokerStats) -> None:
    for name, value in (
        ("juggler_calls_pushed", stats.calls),
        ("juggler_results_dropped", stats.dropped),
        ("juggler_results_invalid", stats.invalid_results),
        ("juggler_events_received", stats.events),
        ("juggler_events_invalid", stats.invalid_events),
        ("juggler_subscription_gaps", stats.gaps),
    ):
        labels = snapshot.counters.setdefault(name, {"": 0})
        labels[""] += value
    for link, up in stats.links.items():
        states = snapshot.lowest.setdefault("juggler_redis_up", {})
        states[link] = min(states.get(link, 1), int(up))
    for link, losses in stats.losses.items():
        reconnects = snapshot.counters.setdefault("juggler_redis_reconnects", {})
        reconnects[link] = reconnects.get(link, 0) + losses


def live_servers() -> list[Server]:
    """Return the servers of this process, for whoever has to shut it down."""
    return list(_live)


def _close_spread(connections: list[Connection], spread: float, patience: float) -> list[Connection]:
    """Close connections over ``spread`` seconds, but until the time ``patience`` no busy ones. Return the closed."""
    pause = min(spread / len(connections), _PAUSE)
    begin = time.monotonic()
    closed = []
    for connection in connections:
        now = time.monotonic()
        if now >= patience or not connection.busy:
            connection.close(CloseCode.GOING_AWAY, _GOODBYE)
            closed.append(connection)
            gevent.sleep(max(0.0, begin + len(closed) * pause - now))
    return closed


def _names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ValueError(f"keep_headers: expected a list of names, got {names!r}")
    return tuple(names)


def _check_seconds(name: str, value: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise ValueError(f"{name}: expected more than 0 and at most {most:g} s, got {value!r}")


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and value <= 0:
        raise ValueError(f"{name}: expected a number over 0, got {value!r}")
    return value
