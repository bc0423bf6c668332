"""The options of both backends: checks, defaults, limits of connections, and errors that name them."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

from juggler.backend.operations import Operations
from juggler.backend.routing import Router
from juggler.backend.server_operations import ServerOperations
from juggler.broker import CALL_CAPACITY
from juggler.broker.redis.keys import Names
from juggler.broker.redis.url import RedisUrl, parse
from juggler.errors import BrokerError, ConfigError, NackCode
from juggler.process.fork_hooks import register
from juggler.process.tracing import current_trace
from juggler.process.uuids import new_uuid

DEFAULT_URL = "redis://127.0.0.1:6379"


class Limits(NamedTuple):
    """Limits of the connections of a backend.

    Attributes:
        waits: maximum connections that wait for results.
        commands: maximum connections for other commands.
        patience: seconds to wait for a free one.
    """

    waits: int
    commands: int
    patience: float


class BaseBackend:
    """The options of a backend; see `juggler.backend.Backend`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key_prefix: str = "",
        sharded_pubsub: bool = False,
        by: Any = None,
        call_timeout: float = 60.0,
        call_capacity: int = CALL_CAPACITY,
        max_stream_time: float = 3600.0,
        max_connections: int = 64,
        pool_timeout: float = 5.0,
    ) -> None:
        if max_connections < 2:
            raise ValueError(f"max_connections: expected at least 2, got {max_connections}")
        if not pool_timeout >= 0:
            raise ValueError(f"pool_timeout: expected at least 0 seconds, got {pool_timeout}")
        if not max_stream_time > 0:
            raise ValueError(f"max_stream_time: expected more than 0 seconds, got {max_stream_time}")
        parsed = parse(url)
        sharded = sharded_pubsub or parsed.sharded
        if sharded and parsed.kind != "cluster":
            raise ConfigError(f"Redis URL {parsed.shown!r}: sharded pub-sub needs a cluster")
        self.shown_url = parsed.shown
        self._url = parsed
        self._names = Names(key_prefix)
        commands = max(1, max_connections // 4)
        self._limits = Limits(max_connections - commands, commands, pool_timeout)
        router = Router(parsed, time.monotonic)
        self._operations = Operations(
            router,
            self._names,
            by=by,
            call_timeout=call_timeout,
            call_capacity=call_capacity,
            max_stream_time=max_stream_time,
            sharded=sharded,
            clock=time.monotonic,
            new_uuid=new_uuid,
            trace=current_trace,
        )
        self._servers = ServerOperations(router, self._names, self._operations.ask, new_uuid)
        self._set_up()
        register(self)

    def _set_up(self) -> None:
        """Create what does the I/O."""
        raise NotImplementedError

    def on_fork(self) -> None:
        """Start with new connections in a child process; see `juggler.process.fork_hooks`."""
        raise NotImplementedError


def check_process(pid: int) -> None:
    """Raise `BrokerError` unless this is the process ``pid``."""
    if os.getpid() != pid:
        raise BrokerError("the call was started before a fork, by another process")


def refused(url: RedisUrl, error: Exception) -> ConfigError:
    """Return the error for a Redis that refuses the credentials."""
    return ConfigError(f"Redis at {url.shown} refuses access: {error}")


def too_many(waits: bool, limits: Limits) -> BrokerError:
    """Return the error for a step that found no free connection in time."""
    what, number = ("that wait for results", limits.waits) if waits else ("for commands", limits.commands)
    reason = f"all {number} connections {what} are in use, for more than {limits.patience:g} s (max_connections)"
    return BrokerError(reason, NackCode.TOO_MANY_REQUESTS)
