"""Build brokers, server and application from settings. Import it after monkey-patching."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from msgspec.structs import asdict

from juggler.broker.redis import DEFAULT_URL, RedisBroker, connect_or_wait
from juggler.cli.config.load import given
from juggler.cli.config.schema import Settings
from juggler.errors import ConfigError
from juggler.handlers.drill import drill
from juggler.handlers.log import log_connections, log_messages
from juggler.process.loading import load_object
from juggler.server import Server
from juggler.server.processing import Handler, chain
from juggler.server.websocket import WebSocketOptions
from juggler.server.websocket.websocket_options import DeflateOptions
from juggler.wsgi import Application

_REMEDIES = "start Redis, set its URL with --redis or REDIS_URL, or run juggler demo"
_SERVER_GROUPS = ("redis", "server", "websocket", "debug", "log.connections", "log.messages")


def make_brokers(settings: Settings) -> tuple[RedisBroker, RedisBroker]:
    """Return the brokers for calls and for events, which may be the same.

    Raises:
        ConfigError: a Redis URL is invalid.
    """
    options = asdict(settings.redis)
    options.pop("fail_fast")
    url, caller_url, pubsub_url = (options.pop(name) for name in ("url", "caller_url", "pubsub_url"))
    sharded = options.pop("sharded_pubsub")
    caller_url = caller_url or url or DEFAULT_URL
    if not pubsub_url or pubsub_url == caller_url:
        broker = _broker(caller_url, sharded_pubsub=sharded, **options)
        return broker, broker
    return _broker(caller_url, **options), _broker(pubsub_url, sharded_pubsub=sharded, **options)


def _broker(url: str, **options: Any) -> RedisBroker:
    try:
        return RedisBroker(url, **options)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def make_server(settings: Settings, caller: RedisBroker, pubsub: RedisBroker) -> Server:
    """Return a server with the options of the groups server, websocket and debug, and the logs of the group log."""
    websocket = asdict(settings.websocket)
    deflate = DeflateOptions() if websocket.pop("deflate") else None
    return Server(
        caller_broker=caller,
        pubsub_broker=pubsub,
        handler=_handler(settings),
        on_state=log_connections() if settings.log.connections else None,
        websocket=WebSocketOptions(deflate=deflate, **websocket),
        **asdict(settings.server),
    )


def _handler(settings: Settings) -> Handler:
    uris = asdict(settings.debug)
    middlewares = [log_messages()] if settings.log.messages else []
    if any(uris.values()):
        middlewares.append(drill(**uris))
    return chain(*middlewares)


def make_application(settings: Settings, server: Server) -> Application:
    """Return the WSGI application of a server."""
    http = asdict(settings.http)
    origins, hosts = http.pop("allow_origins"), http.pop("allow_hosts") or None
    return Application(server, path=settings.listen.path, allowed_origins=origins, allowed_hosts=hosts, **http)


def load_application(name: str, settings: Settings) -> Callable[..., Any]:
    """Import ``MODULE:OBJECT`` and return it as a WSGI application.

    Args:
        name: a `Server` or a WSGI application; the current directory is searched first.
        settings: ``listen.path`` and the group ``http`` apply to a `Server`.

    Raises:
        ConfigError: the import failed, the object is neither, or a setting is given that the object defines itself.
    """
    found = load_object(name, "myapp:server")
    if isinstance(found, Server):
        _refuse(settings, _SERVER_GROUPS, f"{name} is a Server; set this in Python")
        return make_application(settings, found)
    if callable(found) and not isinstance(found, type):
        _refuse(settings, (*_SERVER_GROUPS, "http", "listen.path"), f"{name} is a WSGI application; set this in Python")
        return found  # type: ignore[no-any-return]
    raise ConfigError(f"{name!r}: expected a Server or a WSGI application, got {type(found).__name__}")


def _refuse(settings: Settings, groups: tuple[str, ...], why: str) -> None:
    if sources := given(settings, groups):
        raise ConfigError(f"{', '.join(sources)}: {why}")


def waits_for_redis(settings: Settings) -> bool:
    """Return whether to wait for an unreachable Redis: if its URL is set and ``fail_fast`` is not."""
    return bool(settings.redis.url or settings.redis.caller_url) and not settings.redis.fail_fast


def connect(settings: Settings, caller: RedisBroker, pubsub: RedisBroker) -> None:
    """Connect both brokers to Redis; report on standard error while waiting.

    Raises:
        ConfigError: Redis is unreachable and `waits_for_redis` is false, or it refuses the credentials.
    """

    def report(line: str) -> None:
        click.echo(f"juggler server: {line}", err=True)

    connect_or_wait(caller, report, wait=waits_for_redis(settings), remedies=_REMEDIES)
    if pubsub is not caller:
        connect_or_wait(pubsub, report, wait=not settings.redis.fail_fast, remedies=_REMEDIES)
