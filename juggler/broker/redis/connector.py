"""Connectors make and authenticate connections to Redis with redis-py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from juggler.broker.redis.replies import OTHER_NODE
from juggler.broker.redis.url import Host, RedisUrl
from juggler.process.forked import close_in_children

Connector: TypeAlias = Callable[[], tuple[Any, bool]]
"""Return an authenticated connection of redis-py, and whether the server is Redis 7 or later."""

CONNECT_TIMEOUT = 5.0
"""Seconds for connecting and authenticating."""

SENTINEL_TIMEOUT = 1.0
"""Seconds for each sentinel to reply before the next one is asked."""

_ONCE = Retry(NoBackoff(), 0)


def connector(url: RedisUrl, *, version_key: bytes, legacy: bool = False) -> Connector:
    """Return a connector, which raises redis-py's errors.

    Args:
        url: where Redis is; one node of a cluster.
        version_key: an unused key within the permissions of juggler's user.
        legacy: treat the server as older than Redis 7 whatever its version.
    """

    def connect() -> tuple[Any, bool]:
        connection = _connection(url)
        # Without these, redis-py does not send CLIENT SETINFO, which would need one more permission.
        connection.driver_info = connection.lib_name = connection.lib_version = None
        connection.connect()
        close_in_children(connection._sock)  # noqa: SLF001  # redis-py has no public name for it
        try:
            return connection, _supports_redis7(connection, version_key) and not legacy
        except BaseException:
            connection.disconnect()
            raise

    return connect


def _connection(url: RedisUrl) -> Any:
    options = {**url.options, **time_limits(CONNECT_TIMEOUT), "retry": _ONCE}
    if url.kind == "unix":
        return UnixDomainSocketConnection(path=url.path, **options)  # type: ignore[abstract,no-untyped-call]
    host, port = _master(url) if url.kind == "sentinel" else url.hosts[0]
    return (SSLConnection if url.tls else Connection)(host=host, port=port, **options)


def _master(url: RedisUrl) -> Host:
    """Return the address of the master, from the first sentinel that knows it."""
    asked = Sentinel(url.hosts, sentinel_kwargs={**sentinel_options(url), "retry": _ONCE})  # type: ignore[no-untyped-call]
    try:
        host, port = asked.discover_master(url.service)  # type: ignore[no-untyped-call]
        return str(host), int(port)
    except MasterNotFoundError as error:
        raise no_master(url) from error
    finally:
        for sentinel in asked.sentinels:
            sentinel.close()


def sentinel_options(url: RedisUrl) -> dict[str, Any]:
    """Return the options of redis-py for connections to the sentinels."""
    tls_options = {name: value for name, value in url.options.items() if name.startswith("ssl_")}
    return {"ssl": url.tls, **tls_options, **url.sentinel_options, **time_limits(SENTINEL_TIMEOUT)}


def no_master(url: RedisUrl) -> MasterNotFoundError:
    """Return the error of sentinels that do not know the master."""
    names = ", ".join(f"{host}:{port}" for host, port in url.hosts)
    return MasterNotFoundError(f"no sentinel of {names} knows a master {url.service!r} that is up")


def time_limits(timeout: float) -> dict[str, Any]:
    """Return the options of redis-py for a connection that connects and reads within ``timeout`` seconds."""
    return {"protocol": 2, "socket_timeout": timeout, "socket_connect_timeout": timeout}


def _supports_redis7(connection: Any, version_key: bytes) -> bool:
    """Return whether the server is Redis 7 or later; raise if it accepts no writes.

    ``PEXPIRE … NX`` came with Redis 7, as did ``BLMPOP``, and needs no permission that juggler does not need anyway.
    """
    connection.send_command("PEXPIRE", version_key, 1, "NX")
    try:
        connection.read_response()
    except redis.ResponseError as error:
        if "wrong number of arguments" in str(error):
            return False
        if not isinstance(error, OTHER_NODE):
            raise
    return True
