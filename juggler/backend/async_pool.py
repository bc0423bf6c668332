"""`AsyncPool`: the connections of an `AsyncBackend` to Redis. It carries out steps, like `juggler.backend.pool`."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import redis
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.sentinel import MasterNotFoundError

from juggler.backend.limits import Limits, refused, too_many
from juggler.backend.steps import Address, Pause, Reconnect, Send, Step, Steps, T
from juggler.broker.redis.connector import CONNECT_TIMEOUT, no_master, sentinel_options, time_limits
from juggler.broker.redis.replies import OTHER_NODE, REFUSALS
from juggler.broker.redis.url import Host, RedisUrl
from juggler.errors import BrokerUnavailable, JugglerError, OutcomeUnknown


class AsyncRun(Protocol):
    """Carries out an operation: `AsyncPool.run`."""

    async def __call__(self, steps: Steps[T]) -> T: ...


class AsyncPool:
    """Connections, each used by one task at once. Idle ones are kept, for the event loop that opened them."""

    def __init__(self, url: RedisUrl, version_key: bytes, limits: Limits) -> None:
        self._url = url
        self._version_key = version_key
        self._limits = limits
        self._is_closed = False
        self.begin_process()

    def begin_process(self) -> None:
        """Start without connections."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: dict[Address | None, list[Any]] = {}
        self._free: dict[bool, asyncio.Semaphore] = {}

    async def run(self, steps: Steps[T]) -> T:
        """Carry out an operation."""
        outcome: Any = None
        error: JugglerError | None = None
        while True:
            try:
                step = steps.send(outcome) if error is None else steps.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            outcome = error = None
            try:
                outcome = await self._perform(step)
            except JugglerError as failure:
                error = failure

    async def close(self) -> None:
        """Close idle connections, and those in use when they are released. Idempotent."""
        self._is_closed = True
        if self._loop is not asyncio.get_running_loop():
            self.begin_process()
        for address in list(self._idle):
            await self._drop(Reconnect(address))

    async def _perform(self, step: Step) -> Any:
        """Carry out a step. Errors are those of `juggler.backend.pool.Pool`."""
        if self._loop is not asyncio.get_running_loop():
            self._begin_loop()
        if isinstance(step, Send):
            free = self._free[step.waits]
            if not await acquire(free, self._limits.patience):
                raise too_many(step.waits, self._limits)
            try:
                return await self._exchange(step)
            finally:
                free.release()
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        return await self._drop(step)

    def _begin_loop(self) -> None:
        """Leave the connections of another event loop, which may have closed."""
        self.begin_process()
        self._loop = asyncio.get_running_loop()
        self._free = {True: asyncio.Semaphore(self._limits.waits), False: asyncio.Semaphore(self._limits.commands)}

    async def _exchange(self, step: Send) -> list[Any]:
        connection = await self._take(step.address)
        try:
            await connection.send_packed_command(b"".join(step.commands), check_health=False)
            replies = [await _read(connection) for _ in step.commands]
        except (redis.RedisError, OSError) as error:
            await connection.disconnect(nowait=True)
            raise OutcomeUnknown("the connection to Redis was lost", detail=str(error)) from error
        except BaseException:
            await connection.disconnect(nowait=True)  # its next reply is that of this step
            raise
        if self._is_closed:
            await connection.disconnect()
        else:
            self._idle.setdefault(step.address, []).append(connection)
        return replies

    async def _take(self, address: Address | None) -> Any:
        if self._is_closed:
            raise BrokerUnavailable("the backend is closed")
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if await _is_usable(connection):
                return connection
            await connection.disconnect(nowait=True)
        try:
            return await self._connect(self._url if address is None else self._url.at(address))
        except REFUSALS as error:
            raise refused(self._url, error) from error
        except (redis.RedisError, OSError) as error:
            raise BrokerUnavailable(f"no connection to Redis at {self._url.shown}", detail=str(error)) from error

    async def _connect(self, url: RedisUrl) -> Any:
        options = {**url.options, **time_limits(CONNECT_TIMEOUT), "retry": _once()}
        connection: Any
        if url.kind == "unix":
            connection = UnixDomainSocketConnection(path=url.path, **options)
        else:
            host, port = await _master(url) if url.kind == "sentinel" else url.hosts[0]
            connection = (SSLConnection if url.tls else Connection)(host=host, port=port, **options)
        # As in `juggler.broker.redis.connector`: without CLIENT SETINFO, and to a server that accepts writes.
        connection.driver_info = connection.lib_name = connection.lib_version = None
        try:
            await connection.connect()
            await connection.send_command("PEXPIRE", self._version_key, 1)
            reply = await _read(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        if isinstance(reply, redis.RedisError) and not isinstance(reply, OTHER_NODE):
            await connection.disconnect(nowait=True)
            raise reply
        return connection

    async def _drop(self, step: Reconnect) -> None:
        for connection in self._idle.pop(step.address, []):
            await connection.disconnect()


async def acquire(lock: asyncio.Semaphore | asyncio.Lock, timeout: float | None) -> bool:
    """Acquire a lock within ``timeout`` seconds. Return whether it was acquired.

    Before Python 3.12, `asyncio.wait_for` may lose a lock that is acquired just when its time is over.
    """
    if timeout is None or not lock.locked():
        return await lock.acquire()
    acquiring = asyncio.ensure_future(lock.acquire())
    try:
        await asyncio.wait([acquiring], timeout=timeout)
    except asyncio.CancelledError:
        if acquiring.done() and not acquiring.cancelled():
            lock.release()
        acquiring.cancel()
        raise
    if acquiring.done():
        return True
    acquiring.cancel()
    return False


def _once() -> Retry:
    return Retry(NoBackoff(), 0)


async def _master(url: RedisUrl) -> Host:
    """Return the address of the master, from the first sentinel that knows it."""
    asked = Sentinel(url.hosts, sentinel_kwargs={**sentinel_options(url), "retry": _once()})  # type: ignore[no-untyped-call]
    try:
        host, port = await asked.discover_master(url.service)
        return str(host), int(port)
    except MasterNotFoundError as error:
        raise no_master(url) from error
    finally:
        for sentinel in asked.sentinels:
            await sentinel.aclose()


async def _is_usable(connection: Any) -> bool:
    """Return whether Redis has neither closed an idle connection nor sent anything."""
    try:
        # Its name before redis-py 8.
        can_read = getattr(connection, "can_read", None) or connection.can_read_destructive
        return not await can_read()
    except (redis.RedisError, OSError):
        return False


async def _read(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except (redis.ResponseError, redis.exceptions.BusyLoadingError) as error:
        return error
