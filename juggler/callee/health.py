"""How others learn whether a callee consumes, and what it has counted: an HTTP port, and a file."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from juggler.callee.metric_names import CALLEE, counts_by_uri
from juggler.errors import ConfigError
from juggler.process.metrics import Snapshot
from juggler.process.metrics.exposition import CONTENT_TYPE, go_variables, prometheus

log = logging.getLogger("juggler.callee")

HEALTH, METRICS, VARIABLES = "/healthz", "/metrics", "/debug/vars"
REQUEST_TIMEOUT = 5.0


class Status(NamedTuple):
    """How a callee is.

    Attributes:
        unwell: why it takes no calls although it should; empty when all is well.
        snapshot: what it has counted.
    """

    unwell: str
    snapshot: Snapshot


class HealthServer:
    """Answers at `HEALTH` (503 and the reason when it is not well), `METRICS` and `VARIABLES`, in a thread of its own.

    Attributes:
        address: where it listens.
    """

    def __init__(self, address: tuple[str, int], ask: Callable[[], Status]) -> None:
        """Begin to answer.

        Args:
            address: where to listen; port 0 takes a free one.
            ask: returns the status; it must be quick.

        Raises:
            ConfigError: nothing can listen there.
        """

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_TIMEOUT

            def do_GET(self) -> None:
                code, content_type, body = _page(self.path, ask())
                self.send_response(code)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: probes come every few seconds."""

        try:
            self._server = ThreadingHTTPServer(address, Handler)
        except OSError as error:
            host, port = address
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        self._server.daemon_threads = True
        self.address: tuple[str, int] = self._server.server_address[:2]  # type: ignore[assignment]
        self._thread = threading.Thread(target=self._server.serve_forever, name="callee-status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _page(path: str, status: Status) -> tuple[int, str, bytes]:
    text = "text/plain; charset=utf-8"
    if path == HEALTH:
        return (503 if status.unwell else 200), text, f"{status.unwell or 'consuming'}\n".encode()
    if path == METRICS:
        return 200, CONTENT_TYPE, prometheus(status.snapshot, CALLEE)
    if path == VARIABLES:
        variables = go_variables(status.snapshot, CALLEE) | {"URIs": counts_by_uri(status.snapshot)}
        return 200, "application/json", json.dumps({"juggler": variables}).encode()
    return 404, text, f"nothing is here; there are {HEALTH}, {METRICS} and {VARIABLES}\n".encode()


def touch(path: str | None, status: Status) -> None:
    """Give the health file, if there is one, the time of now, unless the callee is not well."""
    if path is not None and not status.unwell:
        try:
            Path(path).touch()
        except OSError as error:
            log.warning("the health file cannot be written: %s", error)


def check_file(path: str | None) -> None:
    """See that the health file can be written.

    Raises:
        ConfigError: it cannot.
    """
    if path is not None:
        try:
            Path(path).touch()
        except OSError as error:
            raise ConfigError(f"the health file {path!r} cannot be written: {error.strerror}") from error
