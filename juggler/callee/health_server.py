"""Health checks and metrics of a callee over HTTP."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from juggler.callee.health import Status
from juggler.callee.metric_names import CALLEE, callee_variables
from juggler.errors import ConfigError
from juggler.process.address import format_address
from juggler.process.forked import close_in_children
from juggler.process.logline import Line
from juggler.process.metrics.exposition import CONTENT_TYPE, go_variables, prometheus

log = logging.getLogger("juggler.callee")

HEALTH, METRICS, VARIABLES = "/healthz", "/metrics", "/debug/vars"
REQUEST_TIMEOUT = 5.0


class HealthServer:
    """Serves `HEALTH` (503 with the reason if unhealthy), `METRICS` and `VARIABLES`, in a thread of its own.

    Attributes:
        address: host and port it listens on.
    """

    def __init__(self, address: tuple[str, int], get_status: Callable[[], Status]) -> None:
        """Start to serve.

        Args:
            address: host and port to listen on; port 0 chooses a free one.
            get_status: returns the current status; must not block.

        Raises:
            ConfigError: the address is not available.
        """

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_TIMEOUT

            def do_GET(self) -> None:
                code, content_type, body = _page(self.path, get_status())
                self.send_response(code)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def send_response(self, code: int, message: str | None = None) -> None:
                """Send the status without the header Server, which names versions."""
                self.send_response_only(code, message)
                self.send_header("Date", self.date_time_string())

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing: probes come every few seconds."""

        try:
            self._server = _server_class(address[0])(address, Handler)
        except OSError as error:
            host, port = address
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        self._server.daemon_threads = True
        close_in_children(self._server.socket)
        self.address: tuple[str, int] = self._server.server_address[:2]  # type: ignore[assignment]
        self._thread = threading.Thread(target=self._server.serve_forever, name="callee-status", daemon=True)
        self._thread.start()
        log.info(Line("health: listening", url=f"http://{format_address(self.address)}"))

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _server_class(host: str) -> type[ThreadingHTTPServer]:
    class IPv6Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6

    return IPv6Server if ":" in host else ThreadingHTTPServer


def _page(path: str, status: Status) -> tuple[int, str, bytes]:
    text = "text/plain; charset=utf-8"
    if path == HEALTH:
        code = 503 if status.unhealthy_reason else 200
        return code, text, f"{status.unhealthy_reason or 'consuming'}\n".encode()
    if path == METRICS:
        return 200, CONTENT_TYPE, prometheus(status.snapshot, CALLEE)
    if path == VARIABLES:
        variables = {"juggler": go_variables(status.snapshot, CALLEE), "callee": callee_variables(status.snapshot)}
        return 200, "application/json", json.dumps(variables).encode()
    return 404, text, f"not found; expected {HEALTH}, {METRICS} or {VARIABLES}\n".encode()
