"""``juggler server``: one process that serves websockets. gunicorn runs several, see `juggler.worker`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from juggler.cli.options import bind_option, path_option, shown_address, verbose_option
from juggler.errors import BrokerUnavailable, ConfigError

if TYPE_CHECKING:
    from gevent.event import Event
    from gevent.pywsgi import WSGIServer

    from juggler.broker.redis import RedisBroker
    from juggler.wsgi import Application

DEFAULT_REDIS = "redis://127.0.0.1:6379"
GRACE = 10.0
LAST_REQUESTS = 1.0
RETRY_INTERVAL = 0.1


@click.command()
@bind_option
@path_option
@click.option(
    "--redis", "redis_url", metavar="URL", envvar="REDIS_URL", show_envvar=True, help=f"Default: {DEFAULT_REDIS}."
)
@click.option(
    "--wait", default=0.0, type=click.FloatRange(min=0), help="Seconds to wait for Redis when it does not answer yet."
)
@click.option(
    "--allow-origin",
    "origins",
    metavar="ORIGIN",
    multiple=True,
    help="Pages that may connect, besides our own: https://example.com, https://*.example.com, or * for all.",
)
@verbose_option
def command(bind: tuple[str, int], path: str, redis_url: str | None, wait: float, origins: tuple[str, ...]) -> None:
    """Serve websockets in one process, until Ctrl-C or SIGTERM.

    It then takes no new connections, waits for the results of calls under way, and closes all connections with code
    1001, within 10 seconds. A second Ctrl-C ends it at once.

    \b
    Exit codes:
      0    ended by Ctrl-C or SIGTERM
      2    a wrong option, a port in use, no Redis
    """
    from gevent import monkey

    monkey.patch_all()
    _run(bind, path, redis_url, wait, origins)


def _run(bind: tuple[str, int], path: str, redis_url: str | None, wait: float, origins: tuple[str, ...]) -> None:
    import logging

    from juggler.server import Server
    from juggler.wsgi import Application

    # Until Redis has answered, the broker's warnings would only repeat what we are going to say.
    logging.disable(logging.WARNING)
    broker = _connect(redis_url, wait)
    logging.disable(logging.NOTSET)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    server = Server(caller_broker=broker, pubsub_broker=broker)
    try:
        http = _listen(Application(server, path=path, allowed_origins=origins), bind)
        stop = _stop_at_signal()
        click.echo(f"juggler server: ws://{shown_address(http.address)}{path}")
        stop.wait()
        http.close()
        server.shut_down(GRACE)
        http.stop(LAST_REQUESTS)
    finally:
        server.close()
        broker.close()


def _connect(url: str | None, wait: float) -> RedisBroker:
    from juggler.broker.redis import RedisBroker, masked

    deadline = time.monotonic() + wait
    broker = RedisBroker(url or DEFAULT_REDIS)
    while True:
        try:
            broker.connect()
            return broker
        except BrokerUnavailable as error:
            if time.monotonic() > deadline:
                broker.close()
                ways_out = "start Redis, name another with --redis or REDIS_URL, or try juggler demo"
                raise ConfigError(f"no Redis at {masked(url or DEFAULT_REDIS)}: {ways_out} ({error})") from error
            time.sleep(RETRY_INTERVAL)


def _listen(application: Application, bind: tuple[str, int]) -> WSGIServer:
    from gevent.pywsgi import WSGIServer

    from juggler.websocket import WebSocketHandler

    http = WSGIServer(bind, application, handler_class=WebSocketHandler, log=None)
    try:
        http.start()
    except OSError as error:
        reason = (error.strerror or str(error)).partition(":")[0]
        raise ConfigError(f"cannot listen on {shown_address(bind)}: {reason}; choose another with --bind") from error
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
