"""The WSGI application: everything about HTTP. It upgrades requests to websockets and gives them to the server."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from juggler.errors import CloseCode, ConfigError, HandshakeRefused
from juggler.process.metrics import OTHER
from juggler.process.metrics.exposition import CONTENT_TYPE, go_variables, prometheus
from juggler.process.metrics.shared import with_others
from juggler.protocol.subprotocols import allowed_messages, choose_subprotocol
from juggler.server import Server
from juggler.server.connect_hook import ConnectRequest, parse_query
from juggler.server.static_files import Pages
from juggler.server.websocket import UPGRADE, WebSocket, handshake

log = logging.getLogger("juggler.wsgi")

StartResponse: TypeAlias = Callable[..., Any]
WsgiApplication: TypeAlias = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

_CANNOT_UPGRADE = "this HTTP server cannot upgrade: run juggler server, or gunicorn -k juggler.worker.GeventWorker"


HEALTH, READINESS = "/healthz", "/readyz"
"""Probes: whether the process answers at all, and whether clients should be sent to it (503 and the reason if not)."""

METRICS, VARIABLES = "/metrics", "/debug/vars"
"""Figures: for Prometheus, and as the Go package tells them."""


class Application:
    """A WSGI application that serves websockets of a `Server`, alone or mounted beside another application.

    It also answers at `HEALTH` and `READINESS`, and serves `juggler.js`, see `juggler.server.static_files`.
    """

    def __init__(
        self,
        server: Server,
        *,
        path: str | Sequence[str] = "/ws",
        allowed_origins: Sequence[str] = (),
        allow_empty_subprotocol: bool = False,
        trusted_proxies: int = 0,
        otherwise: WsgiApplication | None = None,
        metrics: bool = True,
        playground: bool = False,
    ) -> None:
        """Make the application.

        Args:
            server: serves the connections.
            path: where websockets are served: a path, or several.
            allowed_origins: origins of web pages that may connect, besides the server's own: ``https://example.com``,
                ``https://*.example.com``, or ``*`` for all.
            allow_empty_subprotocol: whether clients may come without offering a subprotocol.
            trusted_proxies: number of proxies of our own that each request passes, whose ``X-Forwarded-For`` tells
                the client's address; 0 where clients connect directly.
            otherwise: another WSGI application, Flask's for example, that gets all requests to other paths. None: they
                are 404.
            metrics: whether to answer at `METRICS` and `VARIABLES`. Do not route these to the public.
            playground: whether ``/`` is a page to try everything with. It can do what any client can, and no more; the
                server's ``list_uri`` lets it list what is served.

        Raises:
            ConfigError: a path or an origin cannot be understood, or the number of proxies is negative.
        """
        paths = (path,) if isinstance(path, str) else tuple(path)
        if not paths or not all(isinstance(each, str) and each.startswith("/") for each in paths):
            raise ConfigError(f"path: expected one or more that begin with /, got {path!r}")
        if trusted_proxies < 0:
            raise ConfigError(f"trusted_proxies: expected a number of at least 0, got {trusted_proxies!r}")
        handshake.check_allowed_origins(allowed_origins)
        self.server = server
        self.paths = paths
        self.otherwise = otherwise
        self.trusted_proxies = trusted_proxies
        self.allowed_origins = tuple(allowed_origins)
        self.allow_empty_subprotocol = allow_empty_subprotocol
        self.metrics = metrics
        self.pages = Pages(playground=playground, path=paths[0], list_uri=server.options.list_uri)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == HEALTH:
            return _answer(start_response, "200 OK", "alive")
        if path == READINESS:
            reason = self.server.unready_reason()
            return _answer(start_response, "503 Service Unavailable" if reason else "200 OK", reason or "ready")
        if self.metrics and path == METRICS:
            snapshot = with_others(self.server.snapshot())
            lengths = self.server.caller_broker.queue_lengths([uri for uri in snapshot.calls if uri != OTHER])
            snapshot.highest["juggler_queue_length"] = {uri: float(length) for uri, length in lengths.items()}
            return _send(start_response, "200 OK", CONTENT_TYPE, prometheus(snapshot))
        if self.metrics and path == VARIABLES:
            body = json.dumps({"juggler": go_variables(with_others(self.server.snapshot()))}).encode()
            return _send(start_response, "200 OK", "application/json", body)
        if path in self.pages and path not in self.paths:
            return self.pages.answer(environ, start_response)
        if self.otherwise is not None and path not in self.paths:
            return self.otherwise(environ, start_response)
        try:
            if path not in self.paths:
                where = " and ".join(self.paths)
                raise HandshakeRefused("404 Not Found", f"nothing is here; websockets are served at {where}")
            self._serve(environ)
        except HandshakeRefused as refusal:
            self.server.metrics.refused[int(refusal.status[:3])] += 1
            log.info("refused %s: %s", environ.get("REMOTE_ADDR", "-"), refusal)
            return _answer(start_response, refusal.status, refusal.reason, refusal.headers)
        return []

    def _serve(self, environ: dict[str, Any]) -> None:
        handshake.websocket_key(environ)
        handshake.check_origin(environ.get("HTTP_ORIGIN"), environ.get("HTTP_HOST", ""), self.allowed_origins)
        subprotocol = choose_subprotocol(
            environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL"), allow_empty=self.allow_empty_subprotocol
        )
        request = ConnectRequest(
            environ,
            subprotocol=subprotocol,
            allowed=allowed_messages(_asked_to_allow(environ)),
            trusted_proxies=self.trusted_proxies,
        )
        # The environ is emptied by the upgrade: whatever is needed of it is taken before.
        connection = self.server.admit(request)
        self.server.serve(connection, self._upgrade(environ, subprotocol))

    def _upgrade(self, environ: dict[str, Any], subprotocol: str | None) -> WebSocket:
        upgrade = environ.get(UPGRADE)
        if upgrade is None:
            _close_foreign(environ)
            raise HandshakeRefused("501 Not Implemented", _CANNOT_UPGRADE)
        headers = [("Sec-WebSocket-Protocol", subprotocol)] if subprotocol else []
        websocket: WebSocket = upgrade(headers, self.server.options.websocket)
        return websocket


def _asked_to_allow(environ: dict[str, Any]) -> str | None:
    """Return ``Juggler-Allowed-Messages``, or the query's ``allowed_messages``: browsers cannot set headers."""
    header: str | None = environ.get("HTTP_JUGGLER_ALLOWED_MESSAGES")
    query = environ.get("QUERY_STRING")
    return header if header or not query else parse_query(query).get("allowed_messages")


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
    return _send(start_response, status, "text/plain; charset=utf-8", f"{text}\n".encode(), headers)


def _send(
    start_response: StartResponse,
    status: str,
    content_type: str,
    body: bytes,
    headers: Sequence[tuple[str, str]] = (),
) -> list[bytes]:
    start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body))), *headers])
    return [body]
