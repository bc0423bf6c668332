"""The gunicorn worker: ``gunicorn -k juggler.worker.GeventWorker myapp:application``.

SIGTERM shuts it down gracefully, within gunicorn's graceful timeout: it accepts no new connections, waits for calls in
flight, closes websockets with 1001, and completes requests. SIGQUIT and SIGINT stop it at once.

If ``JUGGLER_LISTEN_METRICS_BIND`` is one of gunicorn's addresses, the worker serves the metrics of all workers
there, and nothing else.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey
from gunicorn.glogging import SafeAtoms
from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler, PyWSGIServer

from juggler.errors import ConfigError, HandshakeRefused
from juggler.process.address import parse_address
from juggler.process.descriptors import RESERVE
from juggler.process.garbage import raise_gc_threshold
from juggler.process.logline import Line, PlainFormatter, printable
from juggler.process.metrics import Snapshot, merge
from juggler.process.metrics.shared import ENVIRON_KEY, METRICS_BIND, SharedMetrics
from juggler.process.patching import plugins_read_once
from juggler.process.trim import returned_memory
from juggler.server import live_servers
from juggler.server.websocket import HttpPool, WebSocketHandler
from juggler.wsgi import MetricsApplication

MARGIN = 1.0
"""Seconds of gunicorn's graceful timeout, at most half of it, that are reserved for the exit of the worker."""

_UNSUPPORTED = {
    "proxy_protocol": "let the proxy set X-Forwarded-For, with Application(trusted_proxies=...)",
    "forwarded_allow_ips": "set Application(trusted_proxies=...)",
    "limit_request_fields": "the limit is 100",
    "limit_request_field_size": "all headers together may have max_header_size of the handler, 16 KiB by default",
}
"""gunicorn's settings that have no effect here, and what to do instead."""

_MAX_REQUEST_LINE = 8190
_RELOAD_GRACE = 2.0  # seconds until the new code runs, in development
_ROOM = 100  # sockets beyond the websockets, for health checks and other requests
_POLL = 0.05

# With --preload, the application and redis are imported before the worker patches. This part of redis is not used.
_UNUSED = r"Monkey-patching ssl .*\(NOT patched\): \['redis\.asyncio\.connection [^,]*'\]\. $"

_NO_REQUEST = {"REQUEST_METHOD": "-", "RAW_URI": "-", "SERVER_PROTOCOL": "-"}

_query = re.compile(r"\?\S*")


class AccessLogAtoms(SafeAtoms):  # type: ignore[misc]
    """Values of the access log: printable, and without queries, which can hold tokens.

    The formats ``%(r)s``, ``%(q)s`` and ``%(f)s`` show ``?...``; ``%({query_string}e)s`` still has the query.
    """

    def __init__(self, atoms: dict[str, Any]) -> None:
        super().__init__({name: printable(value) if isinstance(value, str) else value for name, value in atoms.items()})
        for name in ("r", "f"):
            self[name] = _query.sub("?...", self[name])
        self["q"] = self["q"] and "..."


class Handler(WebSocketHandler, PyWSGIHandler):  # type: ignore[misc]
    """pywsgi's handler with gunicorn's logs, for applications that upgrade requests."""

    environ: dict[str, Any] | None

    def handle_one_request(self) -> Any:
        # If no request arrives, the log must not show the previous one of this connection.
        self.environ = None
        self.response_headers: list[tuple[bytes, bytes]] = []
        self.__dict__.pop("headers", None)
        return super().handle_one_request()

    def read_request(self, raw_requestline: str) -> bool:
        if len(raw_requestline) > self.server.max_request_line:
            raise HandshakeRefused("414 URI Too Long", "the request line is too long")
        return super().read_request(raw_requestline)

    def handle_one_response(self) -> None:
        self.server.on_request()
        self.server.responding.add(self)
        try:
            super().handle_one_response()
        finally:
            self.server.responding.discard(self)

    def log_request(self) -> None:
        if self.environ is None:  # the request was invalid
            self.environ = _NO_REQUEST | {"REMOTE_ADDR": self._peer()}
        PyWSGIHandler.log_request(self)

    def log_error(self, msg: str, *args: object) -> None:
        # pywsgi reports invalid requests here, which any client can cause.
        self.server.log.info(Line("http: invalid request", error=msg % args if args else msg))

    def _peer(self) -> str:
        # Clients of UNIX sockets have no address.
        return str(self.client_address[0]) if isinstance(self.client_address, tuple) else ""


class HttpServer(PyWSGIServer):  # type: ignore[misc]
    """pywsgi's server.

    Attributes:
        responding: handlers that have read a request and not completed the response.
        handshake_timeout: seconds for the TLS handshake of a client. Default: 10.
        max_request_line: maximum length of a request line in bytes.
        on_request: called for each request.
    """

    handshake_timeout = 10.0
    max_request_line = _MAX_REQUEST_LINE
    on_request: Callable[[], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.responding: set[Handler] = set()

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> None:
        with self.wrap_socket(client_socket, **self.ssl_args, do_handshake_on_connect=False) as tls:
            try:
                with gevent.Timeout(self.handshake_timeout, TimeoutError("no TLS handshake within the time")):
                    tls.do_handshake()
            except OSError as error:  # any client can cause it, so no traceback
                self.log.info(Line("tls: handshake failed", client=address, error=error))
                return
            self.handle(tls, address)


class GeventWorker(GeventPyWSGIWorker):  # type: ignore[misc]
    """gunicorn's gevent worker with websockets. Monkey-patches as that does. Subclass it to set other limits.

    Attributes:
        wsgi_handler: handler of requests. Its limits are those of `juggler.server.WebSocketHandler`.
        handshake_timeout: seconds for the TLS handshake of a client; None means that of `HttpServer`. Default: None.
    """

    wsgi_handler = Handler
    handshake_timeout: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http: list[HttpServer] = []
        self._drainer: gevent.Greenlet | None = None
        if self.log.atoms_wrapper_class is SafeAtoms:  # not a logger of your own with another one
            self.log.atoms_wrapper_class = AccessLogAtoms
        self._slot = _shared_metrics(self.app).take(self._is_alive)  # still in the master

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse settings of gunicorn that would have no effect. gunicorn calls it at start.

        Raises:
            RuntimeError: there is one; gunicorn prints it and exits.
        """
        for name, instead in _UNSUPPORTED.items():
            setting = cfg.settings[name]
            if setting.get() != type(setting)().get():
                raise RuntimeError(f"{name}: not supported by {cls.__module__}.{cls.__name__}; {instead}")
        if not 0 < cfg.limit_request_line <= _MAX_REQUEST_LINE:
            expected = f"expected 1 to {_MAX_REQUEST_LINE}"
            raise RuntimeError(f"limit_request_line: {expected}, got {cfg.limit_request_line}")

    def run(self) -> None:
        raise_gc_threshold()
        # At its limit, a server responds with 503. gunicorn would leave clients waiting, health checks included.
        self.worker_connections = self.cfg.worker_connections + _ROOM
        for server in live_servers():
            files = server.fit_to_process(self.cfg.worker_connections)
            self.worker_connections = min(self.worker_connections, max(2, files - RESERVE // 2))
        if logging.lastResort is not None:  # what writes juggler's records unless the application configures logging
            logging.lastResort.setFormatter(PlainFormatter())
        if self._slot is not None:
            self._slot.start(_snapshot)
        for server in live_servers():
            server.start()
        try:
            with returned_memory():
                super().run()
        finally:
            if self._slot is not None:
                self._slot.close()

    def patch(self) -> None:
        with plugins_read_once(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", _UNUSED, monkey.MonkeyPatchWarning)
            super().patch()

    def server_class(self, *args: Any, **kwargs: Any) -> HttpServer:
        """Create the server of one listening socket. gunicorn calls it like a class, and waits for its pool at exit."""
        server = HttpServer(*args, **kwargs | {"spawn": HttpPool(self.worker_connections)})
        if self._is_for_metrics(server.address):
            server.application = MetricsApplication()
        server.environ[ENVIRON_KEY] = self._slot
        server.on_request = self._count_request
        if self.handshake_timeout is not None:
            server.handshake_timeout = self.handshake_timeout
        limit = self.cfg.settings["limit_request_line"]
        if limit.get() != type(limit)().get():
            server.max_request_line = limit.get()
        self._http.append(server)
        return server

    def _is_for_metrics(self, address: Any) -> bool:
        bind = self.cfg.env.get(METRICS_BIND) or os.environ.get(METRICS_BIND)
        if not bind or not isinstance(address, tuple):
            return False
        try:
            host, port = parse_address(bind)
        except ValueError as error:
            raise ConfigError(f"{METRICS_BIND}: {error}") from None
        host = "127.0.0.1" if host == "localhost" else host or "0.0.0.0"  # noqa: S104
        return port in (0, address[1]) and host == address[0] and (port != 0 or len(self._http) > 0)

    def handle_exit(self, sig: Any, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self._start_drain()

    def notify(self) -> None:
        super().notify()
        if not self.alive:  # gunicorn's reloader
            self._start_drain()

    def _count_request(self) -> None:
        self.nr += 1
        if self.nr == self.max_requests:
            self.log.info(Line("worker: restarting after max_requests", requests=self.nr, pid=self.pid))
            self.alive = False
            self._start_drain()

    def _start_drain(self) -> None:
        if self._drainer is None:
            # Signal handlers must not block.
            self._drainer = gevent.Greenlet(self._drain)
            self._drainer.name = "juggler-drain"
            self._drainer.start()

    def _drain(self) -> None:
        timeout = self.cfg.graceful_timeout
        grace = max(timeout - MARGIN, timeout / 2)
        if self.cfg.reload:
            grace = min(grace, _RELOAD_GRACE)
        deadline = time.monotonic() + grace
        for http in self._http:
            http.close()  # at once, so that new connections go to other workers
        gevent.joinall([gevent.spawn(server.shut_down, grace) for server in live_servers()])
        while any(http.responding or http.pool.websockets for http in self._http) and time.monotonic() < deadline:
            gevent.sleep(_POLL)
        # Idle keep-alive connections are not waited for.
        sys.exit(0)

    def _is_alive(self) -> bool:
        """Return whether the worker is running or about to be forked; called in the master."""
        if not isinstance(self.pid, int):
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


def _shared_metrics(app: Any) -> SharedMetrics:
    """Return the metrics of the master's workers. They belong to gunicorn's application object, which SIGHUP keeps."""
    if not hasattr(app, "juggler_metrics"):
        app.juggler_metrics = SharedMetrics()
    shared: SharedMetrics = app.juggler_metrics
    return shared


def _snapshot() -> Snapshot:
    return merge(server.snapshot() for server in live_servers())
