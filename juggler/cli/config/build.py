"""What is built from settings: brokers, server, application."""

from __future__ import annotations

from typing import Any

from juggler.broker.redis import DEFAULT_URL, RedisBroker
from juggler.cli.config.load import Settings
from juggler.errors import ConfigError
from juggler.handlers.drill import drill
from juggler.server import Server
from juggler.server.processing import Handler, chain, process_message
from juggler.server.websocket import WebSocketOptions
from juggler.server.websocket.options import DeflateOptions
from juggler.wsgi import Application


def make_brokers(settings: Settings) -> tuple[RedisBroker, RedisBroker]:
    """Return the brokers for calls and for events, which may be the same.

    Raises:
        ConfigError: a URL cannot be used.
    """
    options = settings.group("redis")
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
    """Return a server with the options of the settings."""
    websocket = settings.group("websocket")
    deflate = DeflateOptions() if websocket.pop("deflate") else None
    return Server(
        caller_broker=caller,
        pubsub_broker=pubsub,
        handler=_handler(settings),
        websocket=WebSocketOptions(deflate=deflate, **websocket),
        **settings.group("server"),
    )


def _handler(settings: Settings) -> Handler:
    uris = settings.group("debug")
    return chain(drill(**uris)) if any(uris.values()) else process_message


def make_application(settings: Settings, server: Server) -> Application:
    """Return the WSGI application for a server."""
    http = settings.group("http")
    return Application(server, path=settings["listen.path"], allowed_origins=http.pop("allow_origins"), **http)
