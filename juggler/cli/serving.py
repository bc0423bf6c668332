"""Serve HTTP in the process of a command: listen, and stop at a signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from juggler.errors import ConfigError
from juggler.process.address import format_address

if TYPE_CHECKING:
    from gevent.event import Event
    from gevent.pool import Pool
    from gevent.pywsgi import WSGIServer

LAST_REQUESTS = 1.0
"""Seconds for open HTTP requests to complete after a shutdown."""


def listen(
    application: Callable[..., Any],
    bind: tuple[str, int],
    option: str,
    connections: Pool,
    *,
    request_timeout: float | None,
    max_header_size: int,
) -> WSGIServer:
    """Return an HTTP server that has started.

    Args:
        application: WSGI application.
        bind: address to listen on.
        option: option that sets it, for errors.
        connections: pool whose size is the maximum number of connections; others wait.
        request_timeout: see `juggler.server.websocket.requests.BoundedRequestHandler`.
        max_header_size: likewise.

    Raises:
        ConfigError: it cannot listen there.
    """
    from gevent.pywsgi import WSGIServer

    from juggler.server.websocket import WebSocketHandler
    from juggler.server.websocket.requests import with_limits

    handler = with_limits(WebSocketHandler, request_timeout=request_timeout, max_header_size=max_header_size)
    http = WSGIServer(bind, application, handler_class=handler, log=None, spawn=connections)
    try:
        http.start()
    except OSError as error:
        reason = (error.strerror or str(error)).partition(":")[0]
        raise ConfigError(f"cannot listen on {format_address(bind)}: {reason}; choose another with {option}") from error
    return http


def stop_at_signal() -> Event:
    """Return an event that the first SIGINT or SIGTERM sets; later ones have their default effect."""
    import signal

    import gevent
    from gevent.event import Event

    stop = Event()

    def on_signal() -> None:
        stop.set()
        for watcher in watchers:
            watcher.cancel()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    watchers = [gevent.signal_handler(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)]
    return stop
