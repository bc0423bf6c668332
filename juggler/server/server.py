"""The server: it admits clients, owns its connections, and shuts down. No HTTP here."""

from __future__ import annotations

import inspect
import logging
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gevent
from gevent.event import AsyncResult

from juggler.broker import Broker, CallerBroker, PubSubBroker
from juggler.broker.names import is_reserved, reserved
from juggler.errors import (
    BrokerError,
    BrokerUnavailable,
    CloseCode,
    ConfigError,
    HandshakeRefused,
    OutcomeUnknown,
)
from juggler.process.descriptors import RESERVE, raise_descriptor_limit
from juggler.process.logline import Line
from juggler.process.metrics import LagMeter, Metrics, Snapshot
from juggler.process.spare_greenlets import SpareGreenlets
from juggler.process.tracing import find_tracer
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import encode_args
from juggler.protocol.server_commands import disconnect_command
from juggler.server import figures
from juggler.server.caller_identity import CallerHook, CallerIdentity
from juggler.server.catalogue import Catalogue
from juggler.server.command_inbox import CommandInbox
from juggler.server.connect_hook import Connect, ConnectRequest, address_group
from juggler.server.connection import Connection, Handler, State
from juggler.server.draining import GOODBYE, drain
from juggler.server.event_calls import ConnectionEvents
from juggler.server.held_acks import HeldAcks
from juggler.server.identities import NO_IDENTITY, Identity
from juggler.server.options import ServerOptions
from juggler.server.outgoing import Outgoing
from juggler.server.processing import process_message
from juggler.server.status import StatusMeter
from juggler.server.tokens import Tokens
from juggler.server.websocket import Backlog, Sweeper, WebSocket

log = logging.getLogger("juggler.server")

DEFAULTS = ServerOptions()

UPGRADE_TIME = 30.0
"""Seconds from the answer of the connect hook until a client is connected, at most."""

PUBLISH_TIMEOUT = 10.0
"""Seconds after which `Server.publish` fails if the broker has not answered."""

_live: weakref.WeakSet[Server] = weakref.WeakSet()


class Server:
    """Serves websocket connections: RPC through one broker, pub-sub through the same or another one.

    Servers are stateless: run any number of them. Greenlets of one thread may share one.

    Attributes:
        options: its options.
        caller_broker: broker of calls.
        pubsub_broker: broker of subscriptions and publications.
        connections: its connections.
        draining: whether it shuts down.
        metrics: its counters.
    """

    def __init__(
        self,
        *,
        caller_broker: CallerBroker,
        pubsub_broker: PubSubBroker,
        handler: Handler = process_message,
        connect: Connect | None = None,
        caller: CallerHook | None = None,
        on_state: Callable[[Connection, State], None] | None = None,
        options: ServerOptions = DEFAULTS,
        **changes: Any,
    ) -> None:
        """Create a server. It uses its brokers from the first request on.

        Args:
            caller_broker: broker of calls.
            pubsub_broker: broker of subscriptions and publications; may be the same object.
            handler: handler of every message in both directions; see `juggler.server.processing`.
            connect: connect hook: receives the request of each client before it is admitted, and returns its identity
                or refuses it; see `juggler.server.connect_hook` and `juggler.auth`. ``None`` admits all clients without
                an identity.
            caller: caller hook: receives a connection and returns the identity that callees receive with its calls, any
                JSON value of at most 4 KiB; see `juggler.server.caller_identity`. Default: what the connect hook
                returned, if that is JSON of at most 4 KiB.
            on_state: called when a connection is accepting, connected and closed; see `State`. It must not block.
            options: options of the server.
            **changes: single options, by name: ``Server(…, max_calls=100)``.

        Raises:
            ValueError: an option is out of range.
            TypeError: there is no option of that name.
            ConfigError: the handler cannot be called with three arguments; a middleware without `chain` cannot.
        """
        self.options = replace(options, **changes) if changes else options
        self.caller_broker = caller_broker
        self.pubsub_broker = pubsub_broker
        self.connections: set[Connection] = set()
        self.draining = False
        self.metrics = Metrics(self.options.slow_threshold)
        _check_handler(handler)
        self._handler = handler
        self._tokens: Tokens | None = None
        if connect is not None:
            self._tokens = Tokens(connect, self.options.connect_timeout, self.options.token_grace)
        self._identify = CallerIdentity(caller)
        self._on_state = on_state
        self._catalogue = Catalogue(caller_broker)
        self._events = ConnectionEvents(caller_broker, self.metrics) if self.options.connection_events else None
        self._backlog = Backlog(self.options.total_answer_limit)
        self._outgoing = Outgoing(self.options, self.metrics)
        self._greenlets = SpareGreenlets("juggler-connection")
        self._held_acks = HeldAcks(self.options.ack_delay) if self.options.ack_delay else None
        self._asking = 0  # clients in the connect hook
        self._limit = self.options.max_connections
        self._by_address: Counter[str] = Counter()
        self._lag = LagMeter(self.metrics)
        find_tracer()
        self._sweeper: Sweeper | None = None
        meter = StatusMeter(
            self.connections,
            self.metrics,
            caller_broker.pending_calls,
            pubsub_broker.take_event_counts,
            lambda: self.draining,
        )
        self._inbox = CommandInbox(self.connections, meter, self.options.connect_timeout + UPGRADE_TIME)
        self._attends = False
        _live.add(self)

    @property
    def server_id(self) -> str:
        """Identifier of this server among those that share its broker; empty before `start`."""
        return self._inbox.server_id

    def start(self) -> None:
        """Announce this server in the broker, and execute commands from other processes from now on. Idempotent.

        `serve` calls it for the first client. Commands and the gunicorn worker call it when the process starts, so that
        idle servers are known, too. Do not call it before a fork.
        """
        if not self._attends and not self.draining:
            self._attends = True
            self._inbox.begin()
            self.caller_broker.attend(self._inbox)

    def check_admission(self) -> None:
        """Check that one more client may connect.

        Raises:
            HandshakeRefused: 503, with the time after which to retry.
        """
        if self.draining:
            raise HandshakeRefused("503 Service Unavailable", GOODBYE, [("Retry-After", "1")])
        limit = self._limit
        if limit is not None and len(self.connections) + self._asking >= limit:
            reason = f"the server has reached its limit of {limit} connections"
            raise HandshakeRefused("503 Service Unavailable", reason, [("Retry-After", "5")])

    def _check_address(self, request: ConnectRequest) -> None:
        limit = self.options.max_connections_per_address
        if limit is not None and self._by_address[address_group(request.address)] >= limit:
            reason = f"the server has reached its limit of {limit} connections from your address"
            raise HandshakeRefused("429 Too Many Requests", reason, [("Retry-After", "5")])

    def fit_to_process(self, sockets: int | None = None) -> int:
        """Raise the limit of open files for the connections, or lower the limit of connections to what is possible.

        Commands and the gunicorn worker call it at start.

        Args:
            sockets: maximum connections that the process accepts. None: unlimited.

        Returns:
            The limit of open files.
        """
        wanted = self.options.max_connections
        files = raise_descriptor_limit(None if wanted is None else wanted + RESERVE)
        possible = max(1, files - RESERVE) if sockets is None else min(max(1, files - RESERVE), sockets)
        if wanted is None or wanted > possible:
            self._limit = possible
            level = logging.WARNING if possible == files - RESERVE else logging.INFO
            log.log(level, Line("server: fewer connections are possible", max_connections=possible, open_files=files))
        return files

    def unready_reason(self) -> str | None:
        """Return why load balancers should send no clients to this server now; ``None`` if it is ready."""
        if self.draining:
            return GOODBYE
        try:
            self.caller_broker.check_ready()
            self.pubsub_broker.check_ready()
        except BrokerUnavailable as error:
            return error.reason
        return None

    def admit(self, request: ConnectRequest) -> Connection:
        """Decide whether a client may connect, and return its connection, which is not served yet.

        Args:
            request: the client's request. It is not kept.

        Raises:
            HandshakeRefused: the client may not connect; 503 if the connect hook fails.
        """
        began = time.monotonic()
        self.check_admission()
        self._check_address(request)
        identity = NO_IDENTITY
        if self._tokens is not None:
            identity = self._ask(self._tokens, request)
            self.check_admission()  # the hook may have taken its time
            self._check_address(request)
        return Connection(
            request,
            identity,
            began=began,
            options=self.options,
            handler=self._handler,
            is_direct=self._handler is process_message,
            identify=self._identify,
            caller_broker=self.caller_broker,
            pubsub_broker=self.pubsub_broker,
            catalogue=self._catalogue,
            metrics=self.metrics,
            outgoing=self._outgoing,
            held_acks=self._held_acks,
            tokens=self._tokens,
            greenlets=self._greenlets,
        )

    def _ask(self, tokens: Tokens, request: ConnectRequest) -> Identity:
        self._asking += 1
        group = address_group(request.address)
        self._by_address[group] += bool(group)
        try:
            return tokens.ask(request)
        finally:
            self._asking -= 1
            self._release(group)

    def snapshot(self) -> Snapshot:
        """Return the metrics of this server and its brokers."""
        brokers: list[Broker] = [self.caller_broker]
        if id(self.pubsub_broker) != id(self.caller_broker):  # they may be one object
            brokers.append(self.pubsub_broker)
        return figures.snapshot(self.connections, brokers, self.metrics, self._greenlets)

    def serve(self, connection: Connection, websocket: WebSocket) -> None:
        """Serve a connection from now on, until it closes. Returns after its WLCM.

        Args:
            connection: as `admit` returned it.
            websocket: the upgraded connection.
        """
        if self.draining:
            # It was admitted before the shutdown began, and closes with the others.
            websocket.close(CloseCode.GOING_AWAY, GOODBYE)
            return
        connection.websocket = websocket
        websocket.backlog = self._backlog
        if self._sweeper is None:
            self._sweeper = Sweeper()
        self.connections.add(connection)
        self.metrics.connections += 1
        group = address_group(connection.address)
        self._by_address[group] += bool(group)
        self._lag.start()
        self._sweeper.add(websocket)
        if self._tokens is not None and connection.token_state is not None:
            self._tokens.watch(connection)
        try:
            self.start()
            self._inbox.close_if_disconnected(connection)
            if self._events is not None:
                self._events.connected(connection)
            connection.serve(self._on_state, self._forget)
        except BaseException:
            try:
                connection.on_end()
            finally:
                self._forget(connection)
            raise

    def _forget(self, connection: Connection) -> None:
        """Count a connection that has closed, and keep nothing of it."""
        websocket = connection.websocket
        self.connections.discard(connection)
        self._release(address_group(connection.address))
        self.metrics.count_close(websocket.close_code or CloseCode.ABNORMAL)
        if self._sweeper is not None:
            self._sweeper.discard(websocket)
        if self._tokens is not None:
            self._tokens.discard(connection)
        if self._events is not None:
            self._events.disconnected(connection)

    def _release(self, group: str) -> None:
        self._by_address[group] -= bool(group)
        if self._by_address[group] <= 0:
            del self._by_address[group]

    def publish(self, channel: str, value: Any = None) -> None:
        """Publish an event. Blocks until the broker has it, for example in a handler or another greenlet.

        Args:
            channel: name of the channel, not empty.
            value: any JSON value, sent to the subscribers.

        Raises:
            InvalidValue: JSON does not support the value.
            BrokerError: the channel is invalid or reserved, or the event was not published; with `OutcomeUnknown`, it
                may have been.
        """
        if is_reserved(channel):
            raise reserved(channel)
        done: AsyncResult = AsyncResult()
        self.pubsub_broker.publish(channel, new_uuid(), encode_args(value), done.set)
        try:
            error: BrokerError | None = done.get(timeout=PUBLISH_TIMEOUT)
        except gevent.Timeout:
            raise OutcomeUnknown(f"the broker has not answered within {PUBLISH_TIMEOUT:g} s") from None
        if error is not None:
            raise error

    def disconnect(
        self,
        *,
        identity: Any = None,
        connection: str | None = None,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "",
    ) -> int:
        """Close connections of this server, and those of the same identity that are in their handshake.

        Args:
            identity: caller identity of the connections, any JSON value but null.
            connection: or the identifier of one.
            code: close code, 4000 to 4999. `CloseCode.DISCONNECTED` asks clients not to come back, `CloseCode.MOVED` to
                reconnect.
            reason: text for people, at most 123 bytes.

        Returns:
            The number of connections that were closed.

        Raises:
            InvalidValue: an argument is invalid, or not exactly one of ``identity`` and ``connection`` is given.
        """
        command = disconnect_command(identity=identity, connection=connection, code=code, reason=reason)
        return self._inbox.execute(command).count

    def shut_down(self, grace: float = 10.0, spread: float = 2.0) -> None:
        """Refuse new connections, and close each with 1001 once it is idle, all of them within ``grace``.

        It may be called again, also while it runs: when the first of the calls has to return, all connections are
        closed.

        Args:
            grace: seconds until all connections are closed, see `juggler.server.draining.drain`.
            spread: seconds over which closes are spread, so that clients do not reconnect all at once.
        """
        self.draining = True
        drain(self.connections, grace, spread)
        self.close()

    def close(self) -> None:
        """Start closing all connections, and stop the server's greenlets. Brokers stay open."""
        self.draining = True
        for connection in list(self.connections):
            connection.close(CloseCode.GOING_AWAY, GOODBYE)
        self._lag.close()
        if self._held_acks is not None:
            self._held_acks.close()
        self._catalogue.close()
        if self._tokens is not None:
            self._tokens.close()
        if self._attends:
            self._attends = False
            self.caller_broker.leave(self.server_id)
        self._inbox.close()
        self._greenlets.close()
        if self._sweeper is not None:
            self._sweeper.close()
            self._sweeper = None


def live_servers() -> list[Server]:
    """Return the servers of this process, to shut them down."""
    return list(_live)


def _check_handler(handler: Handler) -> None:
    if handler is process_message:
        return
    try:
        inspect.signature(handler).bind(None, None, None)
    except TypeError:
        expected = "handler(ctx, connection, message), or chain(…) of middleware"
        raise ConfigError(f"handler: expected {expected}, got {handler!r}") from None
    except ValueError:
        pass  # it reveals no signature
