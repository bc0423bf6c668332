"""A link: one connection to Redis that many greenlets share without waiting for each other.

redis-py makes the connection and authenticates it; from there on a link owns the socket. Commands that are handed in
during one turn of the event loop leave together, one greenlet parses the replies, and each is given to whoever waits
for it, in order. Nothing is ever sent twice: what is in flight when a connection ends has failed.
"""

from __future__ import annotations

import logging
import ssl
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeAlias

import gevent
import hiredis
import redis
from gevent import monkey
from gevent.event import AsyncResult, Event

from juggler.broker.redis.commands import pack
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerError, BrokerUnavailable
from juggler.process.backoff import pauses

log = logging.getLogger("juggler.redis")

Reply: TypeAlias = Any
"""What hiredis makes of a reply; an error is a `hiredis.ReplyError`, or a `BrokerUnavailable` if there was no reply."""

OnReply: TypeAlias = Callable[[Reply], None]
Connector: TypeAlias = Callable[[], tuple[Any, bool]]
"""Makes a connected, authenticated connection of redis-py, and tells whether the server is Redis 7 or later."""

RECEIVE_SIZE = 65536
"""Bytes read from the socket at a time."""

QUEUE_LIMIT = 64 * 1024 * 1024
"""Bytes of commands that wait because Redis does not read; beyond it, commands are refused."""

CONNECT_TIMEOUT = 5.0
"""Seconds for connecting and authenticating."""

FIRST_DELAY, LONGEST_DELAY = 0.05, 2.0
"""Seconds between attempts to connect: they double from the first to the longest, and are jittered by half."""

NO_MASTER = ("READONLY ", "LOADING ", "MASTERDOWN ", "UNBLOCKED ")
"""How a server answers that is not the master (any more, or yet): a new connection may lead to the one that is."""


UNSETTLED = ("ASK ", "CLUSTERDOWN ", "MOVED ", "TRYAGAIN ")
"""How a node answers while its cluster is being changed; it has executed nothing."""


def as_error(reply: Reply) -> BrokerError:
    """Return the error that a reply stands for, as one of ours."""
    if isinstance(reply, BrokerError):
        return reply
    kind = BrokerUnavailable if str(reply).startswith(UNSETTLED) else BrokerError
    return kind(f"redis refused the request: {reply}")


def ignore(reply: Reply) -> None:
    """Take a reply that nobody waits for; an error in it is logged, unless a cluster is being changed."""
    if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith(UNSETTLED):
        log.warning("redis answered with an error: %s", reply)


class Closed(OSError):
    """Ends a greenlet that may be connecting. An OSError, so that redis-py closes a socket that is being connected."""


class BaseLink(ABC):
    """The life of a connection: connect, read, lose, connect again. What replies mean is a subclass's business.

    Greenlets may share it. It connects when it is first used, and until the first attempt has ended commands are
    queued. Whenever it is down after that, commands are refused with `BrokerUnavailable`.

    Attributes:
        name: for logs and greenlet names.
        up: whether commands can be sent now.
        supports_redis7: whether the server is Redis 7 or later; ``None`` before the first connection.
        losses: how many connections have been lost.
    """

    def __init__(self, name: str, connector: Connector, watchdog: Watchdog, *, patience: float = 3.0) -> None:
        """Make a link that is not connected yet.

        Args:
            name: for logs and greenlet names.
            connector: makes the connection, or raises redis-py's errors.
            watchdog: calls `check`.
            patience: seconds of silence, while a reply is due, after which the peer counts as dead.
        """
        self.name = name
        self.up = False
        self.supports_redis7: bool | None = None
        self.losses = 0
        self._connector = connector
        self._watchdog = watchdog
        self._patience = patience
        self._first_attempt = True
        self._closed = False
        self._greenlet: gevent.Greenlet | None = None
        self._connection: Any = None
        self._socket: Any = None
        self._heard = False
        self._silence = 0.0
        self._loop: Any = None
        self._out: list[bytes] = []
        self._out_size = 0
        self._flush_scheduled = False
        self._writable: Any = None
        self._wake: Event | None = None
        self._tls_writer: gevent.Greenlet | None = None

    # What a subclass adds

    @abstractmethod
    def on_reply(self, reply: Reply) -> None:
        """A reply has come. Must not block for long. Raises OSError when the connection is of no use any more."""

    @abstractmethod
    def on_lost(self, error: BrokerUnavailable) -> None:
        """The connection, or the first attempt, has failed: nothing that was sent will be answered."""

    def on_up(self) -> None:  # noqa: B027  # not every link has something to do
        """A new connection is there. Must not block."""

    @property
    @abstractmethod
    def reply_due(self) -> bool:
        """Whether the peer owes us something."""

    @abstractmethod
    def ping(self) -> None:
        """Ask for a sign of life."""

    # Life

    @property
    def is_started(self) -> bool:
        """Whether it has begun to connect, and is meant to stay connected."""
        return self._greenlet is not None and not self._closed

    def start(self) -> None:
        """Connect in the background, and stay connected. Idempotent.

        Raises:
            RuntimeError: the process is not monkey-patched, so that waiting for Redis would stop every greenlet.
        """
        if self._greenlet is None and not self._closed:
            if not monkey.is_module_patched("socket"):
                raise RuntimeError(
                    "the Redis broker needs gevent's monkey-patching: "
                    "call gevent.monkey.patch_all() first in your program"
                )
            self._loop = gevent.get_hub().loop
            self._watchdog.add(self.check)
            self._greenlet = gevent.spawn(self._run)
            self._greenlet.name = f"juggler-redis-{self.name}"

    def close(self) -> None:
        """End the connection and the link; what is in flight fails. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._watchdog.remove(self.check)
        if self._wake is None:
            # What nobody waits for should still leave: keys are deleted this way.
            self._flush()
        self._lose(BrokerUnavailable("the broker is closed"))
        if self._greenlet is not None and self._greenlet is not gevent.getcurrent():
            self._greenlet.kill(Closed)

    def check(self, elapsed: float) -> None:
        """Notice a peer that is silently dead: called every ``elapsed`` seconds by the watchdog."""
        if not self.up:
            return
        if self._heard:
            self._heard, self._silence = False, 0.0
            return
        self._silence += elapsed
        if not self.reply_due:
            self.ping()
        elif self._silence >= self._patience:
            self._lose(BrokerUnavailable(f"redis has not answered for {self._silence:.0f} s"))

    def _run(self) -> None:
        with suppress(Closed):
            self._stay_connected()

    def _stay_connected(self) -> None:
        delays = pauses(FIRST_DELAY, LONGEST_DELAY)
        while not self._closed:
            try:
                connection, self.supports_redis7 = self._connector()
            except (redis.RedisError, OSError) as error:
                if self._closed:
                    return  # type: ignore[unreachable]  # another greenlet may have closed it
                self._lose(BrokerUnavailable(f"no connection to redis: {error}"))
                pause = next(delays)
                log.warning("redis link %s: %s; next attempt in %.1f s", self.name, error, pause)
                gevent.sleep(pause)
                continue
            delays = pauses(FIRST_DELAY, LONGEST_DELAY)
            self._use(connection)

    def _use(self, connection: Any) -> None:
        if self.losses:
            log.warning("redis link %s: connected again", self.name)
        self._connection = connection
        self._socket = sock = connection._sock
        sock.settimeout(None)
        if isinstance(sock, ssl.SSLSocket):
            self._wake = Event()
            self._tls_writer = gevent.spawn(self._write_tls, sock, self._wake)
            self._tls_writer.name = f"juggler-redis-{self.name}-writer"
        else:
            self._writable = self._loop.io(sock.fileno(), 2)
        self._heard, self._silence = True, 0.0
        self.up = True
        self._first_attempt = False
        self.on_up()
        self._schedule_flush()
        error: Exception
        try:
            self._read(sock)
            error = ConnectionError("closed by redis")
        except (OSError, hiredis.ProtocolError) as failure:
            error = failure
        except Exception as failure:
            # A fault of ours in what takes the replies: their order can no longer be trusted, so begin anew. If we have
            # closed it, it is none: to read a TLS socket that is closed is a ValueError.
            if sock is self._socket:
                log.exception("redis link %s: a reply could not be processed", self.name)
            error = failure
        if sock is self._socket:
            log.warning("redis link %s: connection lost: %s", self.name, error)
            self._lose(BrokerUnavailable(f"connection to redis lost: {error}"))

    def _read(self, sock: Any) -> None:
        nothing = object()
        reader = hiredis.Reader(notEnoughData=nothing)
        feed, gets, on_reply, recv = reader.feed, reader.gets, self.on_reply, sock.recv
        while data := recv(RECEIVE_SIZE):
            self._heard = True
            feed(data)
            while (reply := gets()) is not nothing:
                on_reply(reply)
            if sock is not self._socket:
                return

    def _lose(self, error: BrokerUnavailable) -> None:
        was_up, self.up = self.up, False
        self._first_attempt = False
        connection, self._connection, self._socket = self._connection, None, None
        self._out.clear()
        self._out_size = 0
        self._flush_scheduled = False
        if self._writable is not None:
            self._writable.close()
            self._writable = None
        if self._tls_writer is not None:
            self._tls_writer.kill(block=False)
            self._tls_writer = self._wake = None
        if connection is not None:
            connection.disconnect()
        self.losses += was_up
        self.on_lost(error)

    # The way out

    @property
    def usable(self) -> bool:
        """Whether commands are taken: those of before the first attempt are queued."""
        return self.up or (self._first_attempt and not self._closed)

    def drop(self, reason: str) -> None:
        """Give up the connection, if there is one, for a new one; what is in flight fails."""
        if self.up:
            self._lose(BrokerUnavailable(reason))

    def ensure(self) -> None:
        """See that commands can be sent now, or as soon as the first attempt to connect succeeds.

        Raises:
            BrokerUnavailable: the link is down.
        """
        if self.up:
            return
        if self._closed:
            raise BrokerUnavailable("the broker is closed")
        if not self._first_attempt:
            raise BrokerUnavailable("no connection to redis")
        self.start()

    def write(self, packed: bytes) -> None:
        """Queue packed commands; they leave with all others of this turn of the event loop.

        Raises:
            BrokerUnavailable: the link is down, or Redis has not read for too long.
        """
        self.ensure()
        if self._out_size > QUEUE_LIMIT:
            raise BrokerUnavailable(f"redis does not read: {self._out_size} bytes are waiting")
        self._out.append(packed)
        self._out_size += len(packed)
        if not self._flush_scheduled and self.up:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        if self._wake is not None:
            self._wake.set()
        elif self._out and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.run_callback(self._flush)

    def _flush(self) -> None:
        """Send what is queued without blocking; runs in the event loop's own greenlet."""
        self._flush_scheduled = False
        if self._socket is None or not self._out:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        try:
            sent = self._socket._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The reading greenlet sees the same failure, and tells everybody.
            return
        self._out.clear()
        self._out_size = len(data) - sent
        if self._out_size:
            self._out.append(data[sent:])
            self._flush_scheduled = True
            self._writable.start(self._flush_rest)

    def _flush_rest(self) -> None:
        self._writable.stop()
        self._flush()

    def _write_tls(self, sock: Any, wake: Event) -> None:
        while True:
            wake.wait()
            wake.clear()
            data = b"".join(self._out)
            self._out.clear()
            try:
                sock.sendall(data)
            except (OSError, ValueError):
                # The reading greenlet sees the same failure; or we have closed it, which is a ValueError here.
                return
            self._out_size -= len(data)


class Link(BaseLink):
    """A link on which each command has one reply. It ends a connection whose server is no master any more.

    Attributes:
        up_functions: called whenever a new connection is there; they must not block.
        lost_functions: called whenever a connection, or the first attempt, has failed; they must not block.
    """

    def __init__(self, name: str, connector: Connector, watchdog: Watchdog, *, patience: float = 3.0) -> None:
        super().__init__(name, connector, watchdog, patience=patience)
        self._waiting: deque[OnReply] = deque()
        self.up_functions: list[Callable[[], None]] = []
        self.lost_functions: list[Callable[[], None]] = []
        self._deferred: list[tuple[Callable[[], None], OnReply]] = []

    @property
    def reply_due(self) -> bool:
        return bool(self._waiting)

    def when_version_known(self, function: Callable[[], None], on_error: OnReply) -> None:
        """Call ``function`` when it is known what the server understands, see `supports_redis7`.

        Args:
            function: sends commands.
            on_error: told why they could not be sent after all.

        Raises:
            BrokerUnavailable: as `ensure`; nobody is told anything then.
        """
        self.ensure()
        if self.supports_redis7 is None:
            self._deferred.append((function, on_error))
        else:
            function()

    def on_up(self) -> None:
        deferred, self._deferred = self._deferred, []
        for function, on_error in deferred:
            try:
                function()
            except BrokerUnavailable as error:
                on_error(error)
        for function in self.up_functions:
            function()

    def send(self, packed: bytes, on_replies: Iterable[OnReply]) -> None:
        """Send packed commands; each of ``on_replies`` is told the reply of one, in order.

        An error is told as a `hiredis.ReplyError`, the loss of the connection as a `BrokerUnavailable`.

        Raises:
            BrokerUnavailable: as `write`; ``on_replies`` are told nothing then.
        """
        self.write(packed)
        self._waiting.extend(on_replies)

    def execute(self, *command: Any) -> Reply:
        """Send one command and wait for its reply. For rare commands: the hot path uses `send`.

        Raises:
            BrokerUnavailable: there is no connection, or it was lost meanwhile.
            BrokerError: Redis answered with an error.
        """
        result: AsyncResult = AsyncResult()
        self.send(pack(*command), (result.set,))
        reply = result.get()
        if isinstance(reply, Exception):
            raise as_error(reply)
        return reply

    def ping(self) -> None:
        self.send(b"*1\r\n$4\r\nPING\r\n", (ignore,))

    def on_reply(self, reply: Reply) -> None:
        if type(reply) is hiredis.ReplyError and str(reply).startswith(NO_MASTER):
            raise ConnectionError(str(reply))
        self._waiting.popleft()(reply)

    def on_lost(self, error: BrokerUnavailable) -> None:
        waiting, self._waiting = self._waiting, deque()
        deferred, self._deferred = self._deferred, []
        for on_reply in waiting:
            on_reply(error)
        for _, on_error in deferred:
            on_error(error)
        for function in self.lost_functions:
            function()
