"""Makes connections: redis-py does the work, a parsed URL says how."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from juggler.broker.redis.link import CONNECT_TIMEOUT, Connector
from juggler.broker.redis.url import Host, RedisUrl

SENTINEL_TIMEOUT = 1.0
"""Seconds that one sentinel has to answer in before the next one is asked."""

REFUSALS = (redis.AuthenticationError, redis.exceptions.AuthorizationError, redis.exceptions.NoPermissionError)
"""What Redis says to credentials or rights that it will not accept later either."""

_ELSEWHERE = (redis.exceptions.AskError, redis.exceptions.ClusterDownError, redis.exceptions.TryAgainError)
"""What a node of a cluster says that has understood a command and will not execute it; ``MOVED`` is an ``AskError``."""


def connector(url: RedisUrl, *, version_key: bytes, legacy: bool = False) -> Connector:
    """Return a function that makes connections, or raises redis-py's errors.

    Args:
        url: where Redis is; of a cluster, one node.
        version_key: a key that nobody uses, within the rights of juggler's user.
        legacy: treat the server as one before Redis 7, whatever it is.
    """

    def connect() -> tuple[Any, bool]:
        connection = _connection(url)
        # Or else it would tell its name and version, for which juggler's user would need one right more.
        connection.driver_info = connection.lib_name = connection.lib_version = None
        connection.connect()
        try:
            return connection, _is_modern(connection, version_key) and not legacy
        except BaseException:
            connection.disconnect()
            raise

    return connect


def _connection(url: RedisUrl) -> Any:
    options = {**url.options, **_defaults(CONNECT_TIMEOUT)}
    if url.kind == "unix":
        return UnixDomainSocketConnection(path=url.path, **options)  # type: ignore[abstract,no-untyped-call]
    host, port = _master(url) if url.kind == "sentinel" else url.hosts[0]
    return (SSLConnection if url.tls else Connection)(host=host, port=port, **options)


def _master(url: RedisUrl) -> Host:
    """Ask the sentinels, one after the other, for the master's address."""
    tls_options = {name: value for name, value in url.options.items() if name.startswith("ssl_")}
    asked = Sentinel(  # type: ignore[no-untyped-call]
        url.hosts,
        sentinel_kwargs={"ssl": url.tls, **tls_options, **url.sentinel_options, **_defaults(SENTINEL_TIMEOUT)},
    )
    try:
        host, port = asked.discover_master(url.service)  # type: ignore[no-untyped-call]
        return str(host), int(port)
    except MasterNotFoundError as error:
        names = ", ".join(f"{host}:{port}" for host, port in url.hosts)
        raise MasterNotFoundError(f"no sentinel of {names} knows a master {url.service!r} that is up") from error
    finally:
        for sentinel in asked.sentinels:
            sentinel.close()


def _defaults(timeout: float) -> dict[str, Any]:
    return {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
    }


def _is_modern(connection: Any, version_key: bytes) -> bool:
    """Return whether it is Redis 7 or later, and raise when it takes no writes.

    Asked in a way that needs no rights beyond juggler's own: ``NX`` came with Redis 7, as did ``BLMPOP``.
    """
    connection.send_command("PEXPIRE", version_key, 1, "NX")
    try:
        connection.read_response()
    except redis.ResponseError as error:
        if "wrong number of arguments" in str(error):
            return False
        if not isinstance(error, _ELSEWHERE):
            raise
    return True
