"""The gunicorn worker: ``gunicorn -k juggler.worker.GeventWorker myapp:application``.

At SIGTERM it drains: no new connections, calls in flight get their results, then websockets are closed with 1001, and
requests end, all within gunicorn's graceful timeout. SIGQUIT and SIGINT end it at once.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from typing import Any

import gevent
from gevent import monkey
from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler, PyWSGIServer

from juggler.process.garbage import look_less_often
from juggler.process.metrics import Snapshot, merge
from juggler.process.metrics.shared import Place, board_of_master, set_place
from juggler.server import live_servers
from juggler.server.websocket import WebSocketHandler

MARGIN = 1.0
"""Seconds of gunicorn's graceful timeout, at most half of it, that are left for the worker's own end."""

_POLL = 0.05

# With --preload the application, and redis with it, is imported before the worker patches. This part of redis is not
# used here; gevent's warning is for applications that have more of the kind.
_UNUSED = r"Monkey-patching ssl .*\(NOT patched\): \['redis\.asyncio\.connection [^,]*'\]\. $"

_NO_REQUEST = {"REQUEST_METHOD": "-", "RAW_URI": "-", "SERVER_PROTOCOL": "-"}


class Handler(WebSocketHandler, PyWSGIHandler):  # type: ignore[misc]
    """pywsgi's handler with gunicorn's logs, for applications that upgrade."""

    environ: dict[str, Any] | None

    def handle_one_request(self) -> Any:
        # Should no request come now, the log must not tell of the connection's previous one.
        self.environ = None
        self.response_headers: list[tuple[bytes, bytes]] = []
        self.__dict__.pop("headers", None)
        return super().handle_one_request()

    def handle_one_response(self) -> None:
        self.server.responding.add(self)
        try:
            super().handle_one_response()
        finally:
            self.server.responding.discard(self)

    def log_request(self) -> None:
        if self.environ is None:  # what came was no request
            self.environ = _NO_REQUEST | {"REMOTE_ADDR": self._peer()}
        PyWSGIHandler.log_request(self)

    def log_error(self, msg: str, *args: object) -> None:
        # pywsgi tells of invalid requests here: the client's fault, and nothing to wake anybody for.
        self.server.log.info(msg, *args)

    def _peer(self) -> str:
        # A UNIX socket's clients have no address.
        return str(self.client_address[0]) if isinstance(self.client_address, tuple) else ""


class HttpServer(PyWSGIServer):  # type: ignore[misc]
    """pywsgi's server.

    Attributes:
        responding: the handlers that have read a request and not ended their response; open websockets among them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.responding: set[Handler] = set()

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> None:
        try:
            tls = self.wrap_socket(client_socket, **self.ssl_args)
        except OSError as error:  # what anybody may cause is not worth gevent's traceback
            self.log.info("no TLS handshake with %s: %s", address, error)
            return
        with tls:
            self.handle(tls, address)


class GeventWorker(GeventPyWSGIWorker):  # type: ignore[misc]
    """gunicorn's gevent worker, monkey-patched as that is, with websockets."""

    wsgi_handler = Handler

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http: list[HttpServer] = []
        self._drainer: gevent.Greenlet | None = None
        self._place = _find_place(self)

    def run(self) -> None:
        look_less_often()
        set_place(self._place)
        if self._place is not None:
            self._place.start(_figures)
        try:
            super().run()
        finally:
            if self._place is not None:
                self._place.publish()
                self._place.close()

    def patch(self) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _UNUSED, monkey.MonkeyPatchWarning)
            super().patch()

    def server_class(self, *args: Any, **kwargs: Any) -> HttpServer:
        """Make the server of one listening socket. gunicorn calls it like a class."""
        server = HttpServer(*args, **kwargs)
        self._http.append(server)
        return server

    def handle_exit(self, sig: Any, frame: Any) -> None:
        super().handle_exit(sig, frame)
        if self._drainer is None:
            # A signal's handler must not block.
            self._drainer = gevent.Greenlet(self._drain)
            self._drainer.name = "juggler-drain"
            self._drainer.start()

    def _drain(self) -> None:
        timeout = self.cfg.graceful_timeout
        grace = max(timeout - MARGIN, timeout / 2)
        deadline = time.monotonic() + grace
        for http in self._http:
            http.close()  # at once: those who connect are another worker's from now on
        gevent.joinall([gevent.spawn(server.shut_down, grace) for server in live_servers()])
        while any(http.responding for http in self._http) and time.monotonic() < deadline:
            gevent.sleep(_POLL)
        if self._place is not None:
            self._place.publish()
        # Whoever merely keeps a connection for a next request is not waited for.
        sys.exit(0)


_spawned: list[GeventWorker] = []  # in the master: those that have places


def _find_place(worker: GeventWorker) -> Place | None:
    """Give a worker that is about to be forked a slot of the board; runs in the master."""
    board = board_of_master()
    for other in list(_spawned):
        if other._place is not None and not _lives(other.pid):
            board.retire(other._place.slot)
            _spawned.remove(other)
    slot = board.take()
    if slot is None:
        return None
    _spawned.append(worker)
    return Place(board, slot)


def _lives(pid: Any) -> bool:
    # Before it is forked a worker has no process, and the master's number stands in for it.
    if not isinstance(pid, int):
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _figures() -> Snapshot:
    return merge(server.snapshot() for server in live_servers())
