"""A connection to Redis that is re-established whenever it is lost.

redis-py connects and authenticates. From then on the socket belongs to the connection: commands written during one turn
of gevent's loop are sent together, and one greenlet parses the replies. Nothing is sent twice: when the connection is
lost, what is in flight has failed.
"""

from __future__ import annotations

import logging
import math
import struct
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import gevent
import hiredis
import redis
from gevent import monkey

from juggler.broker.redis.connector import Connector
from juggler.broker.redis.replies import Reply
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable
from juggler.process.backoff import pauses
from juggler.process.logline import Line
from juggler.process.output import Output, nonblocking, readable

log = logging.getLogger("juggler.redis")

RECEIVE_SIZE = 65536
"""Bytes read from the socket in one go."""

QUEUE_LIMIT = 64 * 1024 * 1024
"""Bytes queued while Redis does not read. Beyond it, commands are refused."""

FIRST_DELAY, LONGEST_DELAY = 0.05, 2.0
"""Seconds between attempts to connect: exponential backoff, with jitter."""

SHORTEST_LIFE = 0.1
"""Seconds after which a connection counts as established. One that is lost earlier counts as a failed attempt."""

SILENCE_TIMEOUT = 3.0
"""Seconds without a reply that is due, after which Redis counts as dead."""


LOOK_PERIOD = 1.0
"""Minimum number of seconds between two checks for another master."""

_RESET = struct.pack("ii", 1, 0)  # closing sends a reset and discards what was not delivered


class Closed(OSError):
    """Ends a greenlet that may be connecting. An OSError, so that redis-py closes the socket."""


class ReplyHandler(ABC):
    """Interprets what arrives on a connection. None of its methods may block for long."""

    @abstractmethod
    def on_reply(self, reply: Reply) -> None:
        """Process a reply.

        Raises:
            OSError: the connection is useless and must be re-established.
        """

    @abstractmethod
    def on_lost(self, error: BrokerUnavailable) -> None:
        """Fail what is in flight: the connection, or the first attempt to connect, has failed."""

    def on_up(self) -> None:  # noqa: B027  # not every handler has something to do
        """Use a new connection."""

    def before_send(self) -> None:  # noqa: B027
        """Add commands to those that are about to be sent."""

    @property
    @abstractmethod
    def reply_due(self) -> bool:
        """Whether Redis owes a reply."""

    @abstractmethod
    def ping(self) -> None:
        """Send a command that Redis replies to at once."""


class PersistentConnection:
    """One connection at any time, made when it is first used. Greenlets may share it.

    Until the first attempt to connect has completed, commands are queued. Whenever the connection is down after that,
    commands are refused with `BrokerUnavailable`.

    Attributes:
        name: for logs and greenlet names.
        connector: makes the next connection.
        up: whether commands can be sent now.
        supports_redis7: whether the server is Redis 7 or later; ``None`` before the first connection.
        losses: connections lost.
        refused_at: when Redis last refused a command for now (out of memory, read-only), on ``time.monotonic``.
    """

    def __init__(
        self,
        name: str,
        connector: Connector,
        watchdog: Watchdog,
        handler: ReplyHandler,
        *,
        blocking_timeout: float = 0.0,
    ) -> None:
        """Create an unconnected connection.

        Args:
            name: for logs and greenlet names.
            connector: connects, or raises redis-py's errors.
            watchdog: calls `check`.
            handler: interprets what arrives.
            blocking_timeout: seconds for which commands may block in Redis, in addition to `SILENCE_TIMEOUT`.
        """
        self.name = name
        self.connector = connector
        self.up = False
        self.supports_redis7: bool | None = None
        self.losses = 0
        self.refused_at = -math.inf
        self._watchdog = watchdog
        self._handler = handler
        self._silence_timeout = SILENCE_TIMEOUT + blocking_timeout
        self._first_attempt = True
        self._closed = False
        self._greenlet: gevent.Greenlet | None = None
        self._established: Any = None
        self._output: Output | None = None
        self._early = bytearray()
        self._heard = False
        self._waiting = False  # for data; otherwise what has arrived is being processed, and silence means nothing
        self._silence = 0.0
        self._looked_at = -math.inf
        self._looking: gevent.Greenlet | None = None

    @property
    def is_started(self) -> bool:
        """Whether it has begun to connect and is not closed."""
        return self._greenlet is not None and not self._closed

    @property
    def usable(self) -> bool:
        """Whether commands are accepted: it is up, or the first attempt to connect has not completed."""
        return self.up or (self._first_attempt and not self._closed)

    @property
    def queued(self) -> int:
        """Bytes of commands that are not sent yet."""
        return len(self._early) if self._output is None else self._output.queued

    def start(self) -> None:
        """Connect in the background, and stay connected. Idempotent.

        Raises:
            RuntimeError: the process is not monkey-patched, so waiting for Redis would block every greenlet.
        """
        if self._greenlet is None and not self._closed:
            if not monkey.is_module_patched("socket"):
                raise RuntimeError(
                    "the Redis broker needs gevent's monkey-patching: "
                    "call gevent.monkey.patch_all() first in your program"
                )
            self._watchdog.add(self.check)
            self._greenlet = gevent.spawn(self._run)
            self._greenlet.name = f"juggler-redis-{self.name}"

    def close(self) -> None:
        """Close the connection for good; what is in flight fails. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._watchdog.remove(self.check)
        if self._output is not None:
            # Commands whose replies are ignored should still be sent: keys are deleted this way.
            self._output.flush()
        self._lose(BrokerUnavailable("the broker is closed"))
        if self._greenlet is not None and self._greenlet is not gevent.getcurrent():
            self._greenlet.kill(Closed)
        if self._looking is not None:
            self._looking.kill(Closed)

    def drop(self, reason: str) -> None:
        """Replace the connection by a new one, if it is up; what is in flight fails."""
        if self.up:
            self._lose(BrokerUnavailable(reason))

    def look_for_master(self) -> None:
        """Replace the connection if a new one leads to another server that takes writes. Checks once a second."""
        now = time.monotonic()
        if self.up and now - self._looked_at >= LOOK_PERIOD:
            self._looked_at = now
            self._looking = gevent.spawn(self._look_for_master)
            self._looking.name = f"juggler-redis-{self.name}-master"

    def _look_for_master(self) -> None:
        with suppress(redis.RedisError, OSError):  # also `Closed`
            other, _ = self.connector()
            peer = other._sock.getpeername()  # noqa: SLF001  # redis-py has no public name for it
            other.disconnect()
            if self.up and peer != self._established._sock.getpeername():  # noqa: SLF001
                self.drop("another server is the master")

    def ensure(self) -> None:
        """Check that commands are accepted, and connect if this is the first use.

        Raises:
            BrokerUnavailable: the connection is down.
        """
        if self.up:
            return
        if self._closed:
            raise BrokerUnavailable("the broker is closed")
        if not self._first_attempt:
            raise BrokerUnavailable("no connection to Redis")
        self.start()

    def write(self, packed: bytes) -> None:
        """Queue packed commands. They are sent with all others of this turn of the loop.

        Raises:
            BrokerUnavailable: the connection is down, or Redis has not read for too long.
        """
        output = self._output
        if output is None:
            self.ensure()
            _check_room(len(self._early))
            self._early += packed
            return
        if output.queued > QUEUE_LIMIT:
            _check_room(output.queued)
        output.put(packed)

    def check(self, elapsed: float) -> None:
        """Detect a dead peer: called every ``elapsed`` seconds by the watchdog."""
        if not self.up:
            return
        if self._heard or not self._waiting:
            self._heard, self._silence = False, 0.0
            return
        self._silence += elapsed
        if not self._handler.reply_due:
            self._handler.ping()
        elif self._silence >= self._silence_timeout:
            self._lose(BrokerUnavailable(f"Redis has not replied for {self._silence:.0f} s"), reset=True)

    def _run(self) -> None:
        with suppress(Closed):
            self._stay_connected()

    def _stay_connected(self) -> None:
        delays = pauses(FIRST_DELAY, LONGEST_DELAY)
        while not self._closed:
            try:
                established, self.supports_redis7 = self.connector()
            except (redis.RedisError, OSError) as error:
                if self._closed:
                    return  # type: ignore[unreachable]  # another greenlet may have closed it
                self._lose(BrokerUnavailable("no connection to Redis", detail=str(error)))
                delay = next(delays)
                log.warning(Line("redis: connecting failed", link=self.name, error=error, retry_in=delay))
                gevent.sleep(delay)
                continue
            began = time.monotonic()
            self._use(established)
            if time.monotonic() - began >= SHORTEST_LIFE:
                delays = pauses(FIRST_DELAY, LONGEST_DELAY)
            elif not self._closed:
                gevent.sleep(next(delays))

    def _use(self, established: Any) -> None:
        if self.losses:
            log.warning(Line("redis: connection re-established", link=self.name))
        sock = established._sock  # noqa: SLF001  # redis-py has no public name for it
        sock.settimeout(None)
        self._established = established
        self._output = output = Output(nonblocking(sock), _ignore_failure, self._handler.before_send)
        self._heard, self._waiting, self._silence = True, False, 0.0
        self.up = True
        self._first_attempt = False
        if self._early:
            output.put(bytes(self._early))
            self._early.clear()
        self._handler.on_up()
        error: Exception
        try:
            self._read(sock, output)
            error = ConnectionError("closed by Redis")
        except (OSError, hiredis.ProtocolError) as failure:
            error = failure
        except Exception as failure:
            # A bug in the handler: the order of replies can no longer be trusted, so reconnect. After `_lose` it is
            # none: reading from a TLS socket that is closed is a ValueError.
            if output is self._output:
                log.exception(Line("redis: processing a reply failed", link=self.name))
            error = failure
        if output is self._output:
            log.warning(Line("redis: connection lost", link=self.name, error=error))
            self._lose(BrokerUnavailable("connection to Redis lost", detail=str(error)))

    def _read(self, sock: Any, output: Output) -> None:
        nothing = object()
        reader = hiredis.Reader(notEnoughData=nothing)
        feed, gets, on_reply = reader.feed, reader.gets, self._handler.on_reply
        recv, wait, watcher = output.socket.recv, gevent.get_hub().wait, readable(sock)
        while output is self._output:
            self._waiting = True
            wait(watcher)
            self._waiting = False
            try:
                data = recv(RECEIVE_SIZE)
            except BlockingIOError:
                continue
            if not data:
                return
            self._heard = True
            feed(data)
            while (reply := gets()) is not nothing:
                on_reply(reply)

    def _lose(self, error: BrokerUnavailable, *, reset: bool = False) -> None:
        """Release the connection and fail what is in flight; ``reset`` discards what the kernel still holds."""
        was_up, self.up = self.up, False
        self._first_attempt = False
        output, self._output = self._output, None
        established, self._established = self._established, None
        self._early.clear()
        if output is not None:
            output.close()
        if established is not None:
            if reset:
                # A dead peer may come back: commands that have failed here must not be executed then.
                with suppress(OSError):
                    established._sock.setsockopt(SOL_SOCKET, SO_LINGER, _RESET)  # noqa: SLF001
            established.disconnect()
        if was_up and not self._closed:
            self.losses += 1
            self._watchdog.count_loss(self.name)
        self._handler.on_lost(error)


def _check_room(queued: int) -> None:
    if queued > QUEUE_LIMIT:
        raise BrokerUnavailable(f"Redis does not read: {queued} bytes are queued")


def _ignore_failure(error: OSError) -> None:
    """Leave a failure to send to the reading greenlet: it sees the same failure and reports it."""
