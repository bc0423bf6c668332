"""``juggler server --workers N``: several processes, under gunicorn."""

from __future__ import annotations

import os
from typing import Any

import click
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from juggler.cli.options import shown_address
from juggler.config.load import Settings
from juggler.config.table import address
from juggler.errors import ConfigError

USAGE = 2


class Workers(BaseApplication):  # type: ignore[misc]
    """gunicorn, with the settings of juggler."""

    def __init__(self, settings: Settings, app: str | None) -> None:
        self._settings = settings
        self._app = app
        super().__init__(prog="juggler server")

    def load_config(self) -> None:
        settings = self._settings
        host, port = address(settings["listen.bind"])
        options: dict[str, Any] = {
            "bind": shown_address((host or "0.0.0.0", port)),  # noqa: S104  # as one process does with no host
            "workers": settings["listen.workers"],
            "worker_class": "juggler.worker.GeventWorker",
            # Beyond its limit a server answers 503; gunicorn would let clients wait.
            "worker_connections": (settings["server.max_connections"] or 1_000_000) + 100,
            "graceful_timeout": max(1, round(settings["listen.grace"])),
            "loglevel": "warning",
            "when_ready": self._say,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        """Run until it ends.

        Raises:
            SystemExit: with the exit codes of `juggler server`.
        """
        master = os.getpid()
        try:
            super().run()
        except SystemExit as end:
            if os.getpid() != master:  # a worker, whose code is for gunicorn's master
                raise
            # gunicorn has said why: it cannot listen, or no worker can load the application.
            raise SystemExit(USAGE if end.code in (1, Arbiter.APP_LOAD_ERROR) else end.code) from None

    def _say(self, arbiter: Any) -> None:
        where = shown_address(arbiter.LISTENERS[0].sock.getsockname())
        path = self._settings["listen.path"][0]
        click.echo(f"juggler server: ws://{where}{path} ({self._settings['listen.workers']} workers)")

    def load(self) -> Any:
        from juggler import logs
        from juggler.cli.loading import load_application
        from juggler.config.build import make_application, make_brokers, make_server

        logs.configure(self._settings["log.level"], self._settings["log.format"])
        try:
            if self._app is not None:
                return load_application(self._app, self._settings)
            return make_application(self._settings, make_server(self._settings, *make_brokers(self._settings)))
        except ConfigError as error:
            click.echo(f"juggler server: {error}", err=True)
            raise SystemExit(Arbiter.APP_LOAD_ERROR) from error
