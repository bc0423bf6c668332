"""``juggler server --workers N``: several processes under gunicorn, which forks, restarts and stops them."""

from __future__ import annotations

import os
import traceback
from typing import Any

import click
from gunicorn.app.base import BaseApplication

from juggler.cli.config.schema import Settings
from juggler.errors import ConfigError
from juggler.process import stderr
from juggler.process.address import format_address, parse_address
from juggler.process.logline import printable
from juggler.process.metrics.shared import METRICS_BIND

USAGE = 2
_UNLIMITED = 1_000_000


class Workers(BaseApplication):  # type: ignore[misc]
    """gunicorn, configured by the settings of ``juggler server``."""

    def __init__(self, settings: Settings, app: str | None) -> None:
        self._settings = settings
        self._app = app
        super().__init__(prog="juggler server")

    def load_config(self) -> None:
        settings = self._settings
        binds = [_bind(settings.listen.bind)]
        if settings.listen.metrics_bind is not None:
            binds.append(_bind(settings.listen.metrics_bind))
            os.environ[METRICS_BIND] = settings.listen.metrics_bind
        # Above its limit a server responds with 503; gunicorn would leave clients waiting.
        connections = _UNLIMITED if self._app else (settings.server.max_connections or _UNLIMITED)
        options: dict[str, Any] = {
            "bind": binds,
            "workers": settings.listen.workers,
            "worker_class": _worker_class(settings),
            "worker_connections": connections,
            "graceful_timeout": max(1, round(settings.listen.grace)),
            "loglevel": "warning",
            "when_ready": self._announce,
        }
        if "control_socket_disable" in self.cfg.settings:  # gunicorn 25.1; it would write to the home directory
            options["control_socket_disable"] = True
        for name, value in options.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        """Run until stopped.

        Raises:
            SystemExit: with the exit codes of `juggler server`.
        """
        master = os.getpid()
        stderr.unblock()  # before gunicorn makes its loggers
        try:
            super().run()
        except SystemExit as end:
            if os.getpid() != master:  # a worker: its exit code is for gunicorn's master
                raise
            # 1: cannot listen; gunicorn has logged the reason.
            raise SystemExit(USAGE if end.code == 1 else end.code) from None

    def _announce(self, arbiter: Any) -> None:
        where = format_address(arbiter.LISTENERS[0].sock.getsockname())
        # Only the workers import the user's application and know its path.
        url = f"http://{where}" if self._app else f"ws://{where}{self._settings.listen.path[0]}"
        click.echo(f"juggler server: {url} ({self._settings.listen.workers} workers)")
        if self._settings.listen.metrics_bind is not None:
            click.echo(f"metrics: http://{format_address(arbiter.LISTENERS[1].sock.getsockname())}/metrics")

    def load(self) -> Any:
        """Return the WSGI application; called in each worker."""
        from juggler.process import logs

        logs.configure(self._settings.log.level, self._settings.log.format)
        return _make(self._settings, self._app)


def _worker_class(settings: Settings) -> type:
    from juggler.server.websocket.requests import with_limits
    from juggler.worker import GeventWorker, Handler

    handler = with_limits(
        Handler, request_timeout=settings.listen.request_timeout, max_header_size=settings.listen.max_header_size
    )
    return type("GeventWorker", (GeventWorker,), {"wsgi_handler": handler})


def _bind(text: str) -> str:
    host, port = parse_address(text)
    return format_address((host or "0.0.0.0", port))  # noqa: S104  # as one process does without a host


def check(settings: Settings, app: str | None) -> None:
    """Check in a forked process that workers can make the application; this process must stay unpatched.

    Raises:
        Exit: they cannot; the error is printed.
    """
    pid = os.fork()
    if pid == 0:
        code = USAGE
        try:
            from juggler.process.patching import patch_all

            patch_all()
            from juggler.cli.config.build import connect, waits_for_redis

            made = _make(settings, app)
            if app is None and not waits_for_redis(settings):
                connect(settings, made.server.caller_broker, made.server.pubsub_broker)
            code = 0
        except (ConfigError, ValueError) as error:
            click.echo(f"juggler server: {printable(str(error))}", err=True)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise click.exceptions.Exit(USAGE)


def _make(settings: Settings, app: str | None) -> Any:
    from juggler.cli.config.build import load_application, make_application, make_brokers, make_server

    if app is not None:
        return load_application(app, settings)
    return make_application(settings, make_server(settings, *make_brokers(settings)))
