"""Calls functions of the application when clients connect and disconnect: without waiting, best effort.

The calls are bounded like those of a client: `CAPACITY` of them in flight, each for `LIFETIME`. Others are lost.
"""

from __future__ import annotations

import logging
import time

import gevent

from juggler.broker import CallerBroker, PendingCall
from juggler.errors import BrokerError, CloseCode
from juggler.process.logline import Line
from juggler.process.metrics import Metrics
from juggler.protocol.connection_events import ON_CONNECT, ON_DISCONNECT, ConnectionEvent, encode_connection_event
from juggler.server.connection import Connection

log = logging.getLogger("juggler.server")

CAPACITY = 10_000
"""Maximum number of calls in flight of a server process. Further events are lost."""

LIFETIME = 60.0
"""Seconds after which an event is lost that no callee has processed."""


class ConnectionEvents:
    """The events of one server."""

    def __init__(self, broker: CallerBroker, metrics: Metrics) -> None:
        self._broker = broker
        self.metrics = metrics

    def connected(self, connection: Connection) -> None:
        """Report a connection that is going to be served. Blocks as the caller hook does, if there is one."""
        if connection.by is None:
            try:
                connection.identify()
            except (Exception, gevent.Timeout, SystemExit) as error:
                log.warning(
                    Line("server: no identity for the connect event", error=error),
                    extra={"connection": connection.uuid},
                )
        self._send(ON_CONNECT, connection, None, "")

    def disconnected(self, connection: Connection) -> None:
        """Report a connection that was served. Does not block."""
        closed = connection.closed
        if closed is None:
            self._send(ON_DISCONNECT, connection, CloseCode.ABNORMAL, "")
        else:
            # The application may have closed it with any text.
            self._send(ON_DISCONNECT, connection, closed.code, closed.reason.encode(errors="replace").decode())

    def _send(self, uri: str, connection: Connection, code: int | None, reason: str) -> None:
        event = ConnectionEvent(
            connection=connection.uuid, at=time.time(), address=connection.address, code=code, reason=reason
        )
        args = encode_connection_event(event)
        self._broker.call(uri, args, LIFETIME, _Sent(self), CAPACITY, None, connection.by or b"")


class _Sent(PendingCall):
    """The call of an event. Its result is ignored."""

    __slots__ = ()

    owner: ConnectionEvents

    def __init__(self, events: ConnectionEvents) -> None:
        self.owner = events

    def on_stored(self, error: BrokerError | None) -> None:
        if error is None:
            self.owner.metrics.connection_events += 1
        else:
            self.owner.metrics.connection_events_lost += 1

    def on_result(self, args: bytes, failed: bool | None) -> None:
        """The function has ended. If it failed, the callee has logged it."""

    def on_expired(self) -> None:
        self.owner.metrics.connection_events_lost += 1
