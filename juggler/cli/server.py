"""``juggler server``: one process that serves websockets. gunicorn runs several, see `juggler.worker`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from juggler.cli.options import bind_option, path_option, shown_address, verbose_option
from juggler.errors import ConfigError

if TYPE_CHECKING:
    from gevent.event import Event
    from gevent.pywsgi import WSGIServer

    from juggler.broker.redis import RedisBroker
    from juggler.wsgi import Application

GRACE = 10.0
LAST_REQUESTS = 1.0
WAYS_OUT = "start Redis, name another with --redis or REDIS_URL, or try juggler demo"


class _Redis(NamedTuple):
    """Where Redis is, as the options say it."""

    url: str | None
    pubsub_url: str | None
    key_prefix: str
    fail_fast: bool


@click.command()
@bind_option
@path_option
@click.option(
    "--redis", "redis_url", metavar="URL", envvar="REDIS_URL", show_envvar=True, help="Default: redis://127.0.0.1:6379."
)
@click.option(
    "--pubsub-redis",
    "pubsub_url",
    metavar="URL",
    envvar="PUBSUB_REDIS_URL",
    show_envvar=True,
    help="Another one for events. Default: the same.",
)
@click.option("--key-prefix", default="", metavar="TEXT", help="What all names in Redis begin with.")
@click.option("--fail-fast", is_flag=True, help="End when Redis does not answer at the start, rather than wait for it.")
@click.option(
    "--allow-origin",
    "origins",
    metavar="ORIGIN",
    multiple=True,
    help="Pages that may connect, besides our own: https://example.com, https://*.example.com, or * for all.",
)
@verbose_option
def command(
    bind: tuple[str, int],
    path: str,
    redis_url: str | None,
    pubsub_url: str | None,
    key_prefix: str,
    fail_fast: bool,
    origins: tuple[str, ...],
) -> None:
    """Serve websockets in one process, until Ctrl-C or SIGTERM.

    A Redis that was named and does not answer is waited for, unless --fail-fast is given.

    When it ends, it takes no new connections, waits for the results of calls under way, and closes all connections
    with code 1001, within 10 seconds. A second Ctrl-C ends it at once.

    \b
    Exit codes:
      0    ended by Ctrl-C or SIGTERM
      2    a wrong option, a port in use, no Redis
    """
    from gevent import monkey

    monkey.patch_all()
    _run(bind, path, _Redis(redis_url, pubsub_url, key_prefix, fail_fast), origins)


def _run(bind: tuple[str, int], path: str, redis: _Redis, origins: tuple[str, ...]) -> None:
    import logging

    from juggler.server import Server
    from juggler.wsgi import Application

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    caller, pubsub = _brokers(redis)
    server = Server(caller_broker=caller, pubsub_broker=pubsub)
    try:
        # Probes are answered while Redis is waited for.
        http = _listen(Application(server, path=path, allowed_origins=origins), bind)
        _wait_for(redis, caller, pubsub)
        stop = _stop_at_signal()
        click.echo(f"juggler server: ws://{shown_address(http.address)}{path}")
        stop.wait()
        http.close()
        server.shut_down(GRACE)
        http.stop(LAST_REQUESTS)
    finally:
        server.close()
        caller.close()
        pubsub.close()


def _brokers(redis: _Redis) -> tuple[RedisBroker, RedisBroker]:
    """Return the brokers for calls and for events, which may be the same."""
    from juggler.broker.redis import DEFAULT_URL

    url = redis.url or DEFAULT_URL
    caller = _broker(url, redis.key_prefix)
    if not redis.pubsub_url or redis.pubsub_url == url:
        return caller, caller
    return caller, _broker(redis.pubsub_url, redis.key_prefix)


def _broker(url: str, key_prefix: str) -> RedisBroker:
    from juggler.broker.redis import RedisBroker

    try:
        return RedisBroker(url, key_prefix=key_prefix)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _wait_for(redis: _Redis, caller: RedisBroker, pubsub: RedisBroker) -> None:
    """See that Redis is there. One that nobody named is not waited for."""
    from juggler.broker.redis import wait_for

    def say(line: str) -> None:
        click.echo(f"juggler server: {line}", err=True)

    patient = not redis.fail_fast
    wait_for(caller, say, patient=patient and bool(redis.url), ways_out=WAYS_OUT)
    if pubsub is not caller:
        wait_for(pubsub, say, patient=patient, ways_out=WAYS_OUT)


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
