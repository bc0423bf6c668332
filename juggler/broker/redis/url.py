"""What a Redis URL says: how to connect, and how to show it to people."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.retry import Retry

from juggler.broker.redis import keys
from juggler.broker.redis.link import CONNECT_TIMEOUT, Connector
from juggler.errors import ConfigError

SCHEMES = ("redis", "rediss", "unix")


def connector(url: str, *, legacy: bool = False) -> Connector:
    """Return a function that makes connections, or raises redis-py's errors.

    Args:
        url: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://…`` for TLS, ``unix://[…@]/path?db=…``, with the
            options of redis-py's URLs.
        legacy: treat the server as one before Redis 7, whatever it is.

    Raises:
        ConfigError: the URL cannot be used; the text names the part.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ConfigError(f"Redis URL {masked(url)!r}: expected a scheme of {', '.join(SCHEMES)}, got {parts.scheme!r}")
    if parts.scheme == "unix" and not parts.path:
        raise ConfigError(f"Redis URL {masked(url)!r}: expected a path, as in unix:///run/redis.sock")
    if parts.scheme != "unix" and not parts.path.strip("/").isdecimal() and parts.path.strip("/"):
        raise ConfigError(f"Redis URL {masked(url)!r}: expected a database number after the host, got {parts.path!r}")
    try:
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        connection_class = options.pop("connection_class", Connection)
        options |= {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": CONNECT_TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
        }
        connection_class(**options)
    except (ValueError, TypeError, redis.RedisError) as error:
        raise ConfigError(f"Redis URL {masked(url)!r}: {error}") from error

    def connect() -> tuple[Any, bool]:
        connection = connection_class(**options)
        connection.connect()
        return connection, not legacy and _is_modern(connection)

    return connect


def _is_modern(connection: Any) -> bool:
    """Ask in a way that needs no rights beyond juggler's own: ``NX`` came with Redis 7, as did ``BLMPOP``."""
    connection.send_command("PEXPIRE", keys.calls("version"), 1, "NX")
    try:
        connection.read_response()
    except redis.ResponseError as error:
        if isinstance(error, redis.exceptions.NoPermissionError):
            raise
        return False
    return True


def masked(url: str) -> str:
    """Return the URL with its password hidden."""
    try:
        parts = urlsplit(url)
        if parts.password is None:
            return url
    except ValueError:
        return url.rpartition("@")[2]
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{place}"))
