"""What commands have in common that work with Redis and need no server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from juggler.cli.jsontext import read_json
from juggler.errors import BrokerError, ConfigError, Expired
from juggler.process.logline import printable
from juggler.protocol.codec import decode_args
from juggler.protocol.server_commands import TIMEOUT, CommandOutcome

if TYPE_CHECKING:
    from juggler.backend.backend import Backend
    from juggler.broker.redis import RedisBroker

MAX_TIMEOUT = 60.0
"""Maximum number of seconds to wait for the answers of servers."""

F = Callable[..., Any]


def redis_options(of: str) -> Callable[[F], F]:
    """Return a decorator that adds ``--redis`` and ``--key-prefix``, as ``url`` and ``key_prefix``."""

    def add(command: F) -> F:
        redis = click.option(
            "--redis",
            "url",
            metavar="URL",
            envvar="REDIS_URL",
            show_envvar=True,
            help=f"Redis of the {of}. If unset: redis://127.0.0.1:6379.",
        )
        prefix = click.option(
            "--key-prefix",
            metavar="TEXT",
            default="",
            envvar="JUGGLER_REDIS_KEY_PREFIX",
            show_envvar=True,
            help="Prefix of every key in Redis.",
        )
        return redis(prefix(command))

    return add


def _identity(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    try:
        identity = decode_args(read_json(value, from_stdin=False))
    except ValueError as error:
        raise click.BadParameter(f"{printable(str(error))}; a text needs quotes: '\"ann\"'") from None
    if identity is None:
        raise click.BadParameter("null is the identity of no connection")
    return identity


def target_options(command: F) -> F:
    """Add ``--identity``, ``--connection`` and ``--timeout``: which connections, and how long to wait for servers."""
    identity = click.option(
        "--identity",
        metavar="JSON",
        callback=_identity,
        help='Connections of this caller identity, for example \'"ann"\' or \'{"sub": "ann"}\'.',
    )
    connection = click.option("--connection", metavar="UUID", help="The connection with this identifier.")
    timeout = click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True, max=MAX_TIMEOUT),
        default=TIMEOUT,
        show_default=True,
        help="Seconds to wait for the answers of servers.",
    )
    return identity(connection(timeout(command)))


@contextmanager
def backend_at(url: str | None, key_prefix: str) -> Iterator[Backend]:
    """Yield a backend.

    Raises:
        ConfigError: an option is invalid, or Redis is unreachable.
    """
    from juggler.backend.backend import Backend
    from juggler.backend.limits import DEFAULT_URL

    try:
        backend = Backend(url or DEFAULT_URL, key_prefix=key_prefix)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    with backend:
        try:
            yield backend
        except BrokerError as error:
            raise unreadable(backend.shown_url, error) from error


@contextmanager
def broker_at(url: str | None, key_prefix: str) -> Iterator[RedisBroker]:
    """Yield a connected broker. The process must be monkey-patched.

    Raises:
        ConfigError: an option is invalid, or Redis is unreachable.
    """
    from juggler.broker.redis import DEFAULT_URL, RedisBroker

    try:
        broker = RedisBroker(url or DEFAULT_URL, key_prefix=key_prefix)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    try:
        broker.connect()
        yield broker
    except BrokerError as error:
        raise unreadable(broker.shown_url, error) from error
    finally:
        broker.close()


def unreadable(shown_url: str, error: Exception) -> ConfigError:
    """Return the error for a Redis that does not respond as it should."""
    return ConfigError(f"cannot read from Redis at {shown_url}: {error}")


def check_complete(found: CommandOutcome, timeout: float) -> None:
    """Check that all servers have answered.

    Raises:
        Expired: some have not.
    """
    if found.answered < found.servers:
        reasons = "".join(f"; a server reports: {error}" for error in found.errors)
        missing = found.servers - found.answered
        raise Expired(f"{missing} of {found.servers} servers have not executed it within {timeout:g} s{reasons}")
