"""The gunicorn worker: ``gunicorn -k juggler.worker.GeventWorker myapp:application``.

At SIGTERM it drains: no upgrades, calls in flight get their results, then connections are closed with 1001, all within
gunicorn's graceful timeout. SIGQUIT ends it at once.
"""

from __future__ import annotations

from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler

from juggler.server import live_servers
from juggler.websocket import WebSocketHandler

MARGIN = 2.0
"""Seconds of gunicorn's graceful timeout that are left for the worker's own end."""


class Handler(WebSocketHandler, PyWSGIHandler):  # type: ignore[misc]
    """pywsgi's handler with gunicorn's access log, for applications that upgrade."""

    def log_request(self) -> None:
        PyWSGIHandler.log_request(self)


class GeventWorker(GeventPyWSGIWorker):  # type: ignore[misc]
    """gunicorn's gevent worker, monkey-patched as that is, with websockets."""

    wsgi_handler = Handler

    def handle_exit(self, sig: Any, frame: Any) -> None:
        super().handle_exit(sig, frame)
        grace = max(0.0, self.cfg.graceful_timeout - MARGIN)
        for server in live_servers():
            # A signal handler must not block.
            gevent.spawn(server.shut_down, grace)
