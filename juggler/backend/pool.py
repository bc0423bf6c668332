"""`Pool`: the connections of a `Backend` to Redis. It carries out steps."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import redis

from juggler.backend.limits import Limits, check_process, refused, too_many
from juggler.backend.steps import Address, Pause, Reconnect, Send, Step, Steps, T
from juggler.broker.redis.connector import Connector, connector
from juggler.broker.redis.replies import REFUSALS
from juggler.broker.redis.url import RedisUrl
from juggler.errors import BrokerUnavailable, JugglerError, OutcomeUnknown


class Run(Protocol):
    """Carries out an operation: `Pool.run`."""

    def __call__(self, steps: Steps[T]) -> T: ...


class Pool:
    """Connections, each used by one thread or greenlet at once. Idle ones are kept."""

    def __init__(self, url: RedisUrl, version_key: bytes, limits: Limits) -> None:
        self._url = url
        self._limits = limits
        self._connector_to: Callable[[RedisUrl], Connector] = partial(connector, version_key=version_key)
        self.begin_process()

    def begin_process(self) -> None:
        """Start without connections: those of the parent are closed, and its locks may be held for ever."""
        self._is_closed = False
        self._lock = threading.Lock()
        self._idle: dict[Address | None, list[Any]] = {}
        limits = self._limits
        self._free = {True: threading.Semaphore(limits.waits), False: threading.Semaphore(limits.commands)}

    def run(self, steps: Steps[T]) -> T:
        """Carry out an operation."""
        pid = os.getpid()
        outcome: Any = None
        error: JugglerError | None = None
        while True:
            try:
                step = steps.send(outcome) if error is None else steps.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            outcome = error = None
            check_process(pid)  # under gevent, the child of a fork has copies of all greenlets
            try:
                outcome = self._perform(step)
            except JugglerError as failure:
                error = failure
            check_process(pid)

    def _perform(self, step: Step) -> Any:
        """Carry out a step, and return its outcome.

        Raises:
            BrokerUnavailable: there is no connection; nothing was executed.
            OutcomeUnknown: the connection was lost.
            BrokerError: all connections are in use.
            ConfigError: Redis refuses the credentials.
        """
        if isinstance(step, Send):
            free = self._free[step.waits]
            if not free.acquire(timeout=self._limits.patience):
                raise too_many(step.waits, self._limits)
            try:
                return self._exchange(step)
            finally:
                free.release()
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        return self._drop(step)

    def close(self) -> None:
        """Close idle connections, and those in use when they are released. Idempotent."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.disconnect()

    def _exchange(self, step: Send) -> list[Any]:
        connection = self._take(step.address)
        try:
            connection.send_packed_command([b"".join(step.commands)], check_health=False)
            replies = [_read(connection) for _ in step.commands]
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            raise OutcomeUnknown("the connection to Redis was lost", detail=str(error)) from error
        except BaseException:
            connection.disconnect()  # its next reply is that of this step
            raise
        self._release(step.address, connection)
        return replies

    def _take(self, address: Address | None) -> Any:
        while (connection := self._pop_idle(address)) is not None:
            if _is_usable(connection):
                return connection
            connection.disconnect()
        url = self._url if address is None else self._url.at(address)
        try:
            connection, _ = self._connector_to(url)()  # its socket is closed in children
        except REFUSALS as error:
            raise refused(self._url, error) from error
        except (redis.RedisError, OSError) as error:
            raise BrokerUnavailable(f"no connection to Redis at {self._url.shown}", detail=str(error)) from error
        return connection

    def _pop_idle(self, address: Address | None) -> Any:
        with self._lock:
            if self._is_closed:
                raise BrokerUnavailable("the backend is closed")
            idle = self._idle.get(address)
            return idle.pop() if idle else None

    def _release(self, address: Address | None, connection: Any) -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.setdefault(address, []).append(connection)
                return
        connection.disconnect()

    def _drop(self, step: Reconnect) -> None:
        with self._lock:
            idle = self._idle.pop(step.address, [])
        for connection in idle:
            connection.disconnect()


def _is_usable(connection: Any) -> bool:
    """Return whether Redis has neither closed an idle connection nor sent anything."""
    try:
        return not connection.can_read(timeout=0)
    except (redis.RedisError, OSError):
        return False


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except (redis.ResponseError, redis.exceptions.BusyLoadingError) as error:
        return error
