"""The WSGI application: everything about HTTP. It upgrades requests to websockets and gives them to the server."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from juggler import handshake
from juggler.board import with_others
from juggler.errors import CloseCode, HandshakeRefused
from juggler.metrics import OTHER
from juggler.metrics.exposition import CONTENT_TYPE, go_variables, prometheus
from juggler.server import Server
from juggler.websocket import UPGRADE, WebSocket

log = logging.getLogger("juggler.wsgi")

StartResponse: TypeAlias = Callable[..., Any]

_CANNOT_UPGRADE = "this HTTP server cannot upgrade: run juggler server, or gunicorn -k juggler.worker.GeventWorker"


HEALTH, READINESS = "/healthz", "/readyz"
"""Probes: whether the process answers at all, and whether clients should be sent to it (503 and the reason if not)."""

METRICS, VARIABLES = "/metrics", "/debug/vars"
"""Figures: for Prometheus, and as the Go package tells them."""


class Application:
    """A WSGI application that serves websockets of a `Server`, alone or mounted beside another application.

    It answers at `HEALTH` and `READINESS`, too.
    """

    def __init__(
        self,
        server: Server,
        *,
        path: str = "/ws",
        allowed_origins: Sequence[str] = (),
        allow_empty_subprotocol: bool = False,
        metrics: bool = True,
    ) -> None:
        """Make the application.

        Args:
            server: serves the connections.
            path: where websockets are served.
            allowed_origins: origins of web pages that may connect, besides the server's own: ``https://example.com``,
                ``https://*.example.com``, or ``*`` for all.
            allow_empty_subprotocol: whether clients may come without offering a subprotocol.
            metrics: whether to answer at `METRICS` and `VARIABLES`. Do not route these to the public.

        Raises:
            ConfigError: an origin cannot be understood.
        """
        handshake.check_allowed_origins(allowed_origins)
        self.server = server
        self.path = path
        self.allowed_origins = tuple(allowed_origins)
        self.allow_empty_subprotocol = allow_empty_subprotocol
        self.metrics = metrics

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == HEALTH:
            return _answer(start_response, "200 OK", "alive")
        if path == READINESS:
            reason = self.server.unready()
            return _answer(start_response, "503 Service Unavailable" if reason else "200 OK", reason or "ready")
        if self.metrics and path == METRICS:
            snapshot = with_others(self.server.snapshot())
            lengths = self.server.caller_broker.queue_lengths([uri for uri in snapshot.calls if uri != OTHER])
            snapshot.highest["juggler_queue_length"] = {uri: float(length) for uri, length in lengths.items()}
            return _answer_bytes(start_response, CONTENT_TYPE, prometheus(snapshot))
        if self.metrics and path == VARIABLES:
            body = json.dumps({"juggler": go_variables(with_others(self.server.snapshot()))}).encode()
            return _answer_bytes(start_response, "application/json", body)
        try:
            if path != self.path:
                raise HandshakeRefused("404 Not Found", f"nothing is here; websockets are served at {self.path}")
            self._serve(environ)
        except HandshakeRefused as refusal:
            self.server.metrics.refused[int(refusal.status[:3])] += 1
            log.info("refused %s: %s", environ.get("REMOTE_ADDR", "-"), refusal)
            return _answer(start_response, refusal.status, refusal.reason, refusal.headers)
        return []

    def _serve(self, environ: dict[str, Any]) -> None:
        handshake.websocket_key(environ)
        handshake.check_origin(environ.get("HTTP_ORIGIN"), environ.get("HTTP_HOST", ""), self.allowed_origins)
        subprotocol = handshake.choose_subprotocol(
            environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL"), allow_empty=self.allow_empty_subprotocol
        )
        allowed = handshake.allowed_messages(environ.get("HTTP_JUGGLER_ALLOWED_MESSAGES"))
        self.server.check_admission()
        # The environ is emptied by the upgrade: whatever is needed of it has to be taken before.
        address = environ.get("REMOTE_ADDR", "")
        websocket = self._upgrade(environ, subprotocol)
        self.server.serve(websocket, subprotocol=subprotocol, allowed=allowed, address=address)

    def _upgrade(self, environ: dict[str, Any], subprotocol: str | None) -> WebSocket:
        upgrade = environ.get(UPGRADE)
        if upgrade is None:
            _close_foreign(environ)
            raise HandshakeRefused("501 Not Implemented", _CANNOT_UPGRADE)
        headers = [("Sec-WebSocket-Protocol", subprotocol)] if subprotocol else []
        websocket: WebSocket = upgrade(headers, self.server.websocket_options)
        return websocket


def _close_foreign(environ: dict[str, Any]) -> None:
    """Say goodbye on a websocket that gevent-websocket's own handler has made, before it asked the application."""
    foreign = environ.get("wsgi.websocket")
    if foreign is not None:
        # Its `close` does not send the code.
        payload = CloseCode.INTERNAL_ERROR.to_bytes(2, "big") + _CANNOT_UPGRADE.encode()
        foreign.send_frame(payload, foreign.OPCODE_CLOSE)


def _answer(
    start_response: StartResponse, status: str, text: str, headers: Sequence[tuple[str, str]] = ()
) -> list[bytes]:
    body = f"{text}\n".encode()
    own = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response(status, [*own, *headers])
    return [body]


def _answer_bytes(start_response: StartResponse, content_type: str, body: bytes) -> list[bytes]:
    start_response("200 OK", [("Content-Type", content_type), ("Content-Length", str(len(body)))])
    return [body]
