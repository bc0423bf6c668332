"""``juggler server``: serves websockets, in one process or, with ``--workers``, in several under gunicorn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from juggler.cli.config.flags import flags_of, load_settings, setting_options
from juggler.cli.config.load import Settings
from juggler.cli.parameters import verbose_option
from juggler.errors import ConfigError
from juggler.process.address import format_address, parse_address

if TYPE_CHECKING:
    from gevent.event import Event
    from gevent.pywsgi import WSGIServer

LAST_REQUESTS = 1.0


@click.command()
@click.argument("app", metavar="[MODULE:OBJECT]", required=False)
@setting_options
@verbose_option
def command(app: str | None, config_file: str | None, **parameters: Any) -> None:
    """Serve websockets, until SIGTERM or Ctrl-C.

    MODULE:OBJECT is a juggler Server, or a WSGI application, of your own; without it the options make a server.

    A Redis that was named and does not answer is waited for, unless --fail-fast is given.

    When it ends, it takes no new connections, waits for the results of calls under way, and closes all connections
    with code 1001, within the seconds of --grace. A second Ctrl-C ends it at once. With several workers, the first
    Ctrl-C does already; SIGTERM lets calls end.

    Each option can be set in a file, too, and by a variable: see juggler config show.

    \b
    Exit codes:
      0    ended by Ctrl-C or SIGTERM
      2    a wrong option, a port in use, no Redis
    """
    settings = load_settings(config_file, flags_of(parameters))
    if settings["listen.workers"] > 1:
        # gunicorn's master stays as it is; each worker patches.
        from juggler.cli.workers import Workers, check

        check(settings, app)
        Workers(settings, app).run()
        return
    from gevent import monkey

    monkey.patch_all()
    from juggler.process import logs

    logs.configure(settings["log.level"], settings["log.format"])
    if app is None:
        _serve_settings(settings)
    else:
        from juggler.cli.config.build import load_application

        _serve(load_application(app, settings), settings)


def _serve_settings(settings: Settings) -> None:
    """Serve with what the settings say alone."""
    from juggler.cli.config.build import connect, make_application, make_brokers, make_server

    caller, pubsub = make_brokers(settings)
    try:
        server = make_server(settings, caller, pubsub)
        # Probes are answered while Redis is waited for.
        _serve(make_application(settings, server), settings, lambda: connect(settings, caller, pubsub))
    finally:
        caller.close()
        pubsub.close()


def _serve(application: Callable[..., Any], settings: Settings, wait: Callable[[], None] = lambda: None) -> None:
    import gevent

    from juggler.process.garbage import look_less_often
    from juggler.server import live_servers

    look_less_often()
    try:
        http = _listen(application, parse_address(settings["listen.bind"]))
        wait()
        stop = _stop_at_signal()
        paths = getattr(application, "paths", None)
        where = format_address(http.address)
        click.echo(f"juggler server: ws://{where}{paths[0]}" if paths else f"juggler server: http://{where}")
        stop.wait()
        http.close()
        gevent.joinall([gevent.spawn(server.shut_down, settings["listen.grace"]) for server in live_servers()])
        http.stop(LAST_REQUESTS)
    finally:
        for server in live_servers():
            server.close()


def _listen(application: Callable[..., Any], bind: tuple[str, int]) -> WSGIServer:
    from gevent.pywsgi import WSGIServer

    from juggler.server.websocket import WebSocketHandler

    http = WSGIServer(bind, application, handler_class=WebSocketHandler, log=None)
    try:
        http.start()
    except OSError as error:
        reason = (error.strerror or str(error)).partition(":")[0]
        raise ConfigError(f"cannot listen on {format_address(bind)}: {reason}; choose another with --bind") from error
    return http


def _stop_at_signal() -> Event:
    """Return what is set at Ctrl-C or SIGTERM. The next of these does what it does by default."""
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
