"""``juggler server``: serve websockets in one process or, with ``--workers``, in several under gunicorn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from juggler.cli.config.flags import flags_of, load_settings, setting_options
from juggler.cli.config.schema import Settings
from juggler.cli.parameters import verbose_option
from juggler.cli.serving import LAST_REQUESTS, listen, stop_at_signal
from juggler.process.address import format_address, parse_address
from juggler.process.descriptors import RESERVE, raise_descriptor_limit

if TYPE_CHECKING:
    from gevent.pool import Pool
    from gevent.pywsgi import WSGIServer


@click.command()
@click.argument("app", metavar="[MODULE:OBJECT]", required=False)
@setting_options
@verbose_option
def command(app: str | None, config_file: str | None, **parameters: Any) -> None:
    """Serve websockets until SIGTERM or Ctrl-C.

    MODULE:OBJECT is your own juggler Server or WSGI application. Without it, the options define the server.

    Every option can also be set in a file or by a variable: see juggler config show.

    If the Redis that you name is unreachable at startup, the server retries until it answers; --fail-fast exits
    instead. The default Redis is not retried.

    SIGTERM and Ctrl-C shut down gracefully, within --grace seconds: the server accepts no new connections, drains
    calls in flight, and closes all connections with code 1001. A second Ctrl-C exits at once. With several workers,
    the first Ctrl-C does; use SIGTERM to drain.

    \b
    Exit codes:
      0    stopped by Ctrl-C or SIGTERM
      2    invalid option or setting, port in use, or Redis unreachable
    """
    settings = load_settings(config_file, flags_of(parameters))
    if settings.listen.workers > 1:
        # gunicorn's master is not monkey-patched; each worker is.
        from juggler.cli.workers import Workers, check

        check(settings, app)
        Workers(settings, app).run()
        return
    from juggler.process.patching import patch_all

    patch_all()
    from juggler.process import logs
    from juggler.process.garbage import raise_gc_threshold

    raise_gc_threshold()  # before further imports: what they create stays
    logs.configure(settings.log.level, settings.log.format)
    if app is None:
        _serve_settings(settings)
    else:
        from juggler.cli.config.build import load_application

        _serve(load_application(app, settings), settings)


def _serve_settings(settings: Settings) -> None:
    """Serve with a server made from the settings alone."""
    from juggler.cli.config.build import connect, make_application, make_brokers, make_server

    caller, pubsub = make_brokers(settings)
    try:
        server = make_server(settings, caller, pubsub)
        # Listens first: health checks are answered while Redis is unreachable.
        _serve(make_application(settings, server), settings, lambda: connect(settings, caller, pubsub))
    finally:
        caller.close()
        pubsub.close()


def _serve(application: Callable[..., Any], settings: Settings, connect: Callable[[], None] = lambda: None) -> None:
    import gevent
    from gevent.pool import Pool

    from juggler.process.trim import returned_memory
    from juggler.server import live_servers
    from juggler.server.websocket import HttpPool
    from juggler.wsgi import Application, MetricsApplication

    files = min([server.fit_to_process() for server in live_servers()] or [raise_descriptor_limit(None)])
    try:
        http = _listen(application, settings, settings.listen.bind, "--bind", HttpPool(max(2, files - RESERVE // 2)))
        metrics = None
        if settings.listen.metrics_bind is not None:
            metrics = _listen(
                MetricsApplication(), settings, settings.listen.metrics_bind, "--metrics-bind", Pool(RESERVE // 4)
            )
        with _exit_at_signal():
            connect()
        for server in live_servers():
            server.start()
        stop = stop_at_signal()
        where = format_address(http.address)
        # Another WSGI application does not report where it accepts websockets.
        url = f"ws://{where}{application.paths[0]}" if isinstance(application, Application) else f"http://{where}"
        click.echo(f"juggler server: {url}")
        if metrics is not None:
            click.echo(f"metrics: http://{format_address(metrics.address)}/metrics")
        with returned_memory():
            stop.wait()
        http.close()
        gevent.joinall([gevent.spawn(server.shut_down, settings.listen.grace) for server in live_servers()])
        http.stop(LAST_REQUESTS)
        if metrics is not None:
            metrics.stop(0)
    finally:
        for server in live_servers():
            server.close()


def _listen(
    application: Callable[..., Any], settings: Settings, where: str, option: str, connections: Pool
) -> WSGIServer:
    return listen(
        application,
        parse_address(where),
        option,
        connections,
        request_timeout=settings.listen.request_timeout,
        max_header_size=settings.listen.max_header_size,
    )


@contextmanager
def _exit_at_signal() -> Iterator[None]:
    """Raise ``SystemExit(0)`` in this greenlet at SIGINT and SIGTERM, also as process 1 of a container."""
    import signal

    import gevent

    waiting = gevent.getcurrent()
    watchers = [
        gevent.signal_handler(number, gevent.kill, waiting, SystemExit(0)) for number in (signal.SIGINT, signal.SIGTERM)
    ]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()
