"""The WSGI application: everything about HTTP. It upgrades requests to websockets and hands them to the server."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from juggler.errors import CloseCode, ConfigError, HandshakeRefused
from juggler.process.address import is_loopback
from juggler.process.logline import Line
from juggler.process.metrics import OTHER, Snapshot, merge
from juggler.process.metrics.exposition import CONTENT_TYPE, go_variables, prometheus
from juggler.process.metrics.shared import ENVIRON_KEY, Slot
from juggler.protocol.subprotocols import SUBPROTOCOLS, allowed_messages, choose_subprotocol
from juggler.server import Server, live_servers
from juggler.server.connect_hook import ConnectRequest, parse_query
from juggler.server.static_files import StaticFiles
from juggler.server.websocket import LOCAL_NAME, UPGRADE, WebSocket, handshake
from juggler.server.websocket.requests import BIND

log = logging.getLogger("juggler.wsgi")

StartResponse: TypeAlias = Callable[..., Any]
WsgiApplication: TypeAlias = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

_CANNOT_UPGRADE = "this HTTP server cannot upgrade: run juggler server, or gunicorn -k juggler.worker.GeventWorker"

HEALTH, READINESS = "/healthz", "/readyz"
"""Paths of the health check, which always succeeds, and of the readiness probe, which responds 503 and the reason while
clients should not be sent here."""

# Load balancers send any host here.
_FOR_ANY_HOST = (HEALTH, READINESS)
_ANY = ("*",)

METRICS, VARIABLES = "/metrics", "/debug/vars"
"""Paths of the metrics, for Prometheus and as the Go package's variables."""


class Application:
    """A WSGI application that serves the websockets of a `Server`, alone or beside another application.

    It also serves `HEALTH`, `READINESS` and ``juggler.js``, and optionally `METRICS` and `VARIABLES`.

    Attributes:
        server: server of the connections.
        paths: paths of the websockets.
    """

    def __init__(
        self,
        server: Server,
        *,
        path: str | Sequence[str] = "/ws",
        allowed_origins: Sequence[str] = (),
        allowed_hosts: Sequence[str] | None = None,
        subprotocols: Sequence[str] = SUBPROTOCOLS,
        allow_empty_subprotocol: bool = False,
        trusted_proxies: int = 0,
        otherwise: WsgiApplication | None = None,
        metrics: bool = False,
        playground: bool = False,
    ) -> None:
        """Create the application.

        Args:
            server: server of the connections.
            path: path or paths of the websockets. Default: ``/ws``.
            allowed_origins: origins of web pages that may connect, beside the server's own: ``https://example.com``,
                ``https://*.example.com``, or ``*`` for all. Default: none.
            allowed_hosts: values of the header ``Host`` that requests may have, without port: ``example.com``,
                ``*.example.com``, or ``*`` for all; others are refused with 403, except at `HEALTH` and `READINESS`.
                None: if the server listens on loopback only and there are no trusted proxies, ``localhost``,
                ``127.0.0.1`` and ``[::1]``, so that web pages cannot reach it by DNS rebinding; otherwise all.
                Default: None.
            subprotocols: subprotocols that clients may use, of ``juggler.1`` and ``juggler.0``, in order of preference.
                Default: both.
            allow_empty_subprotocol: whether clients may connect without a subprotocol. Default: False.
            trusted_proxies: number of your own proxies that each request passes. The client's address is taken from
                their ``X-Forwarded-For``. 0 means that clients connect directly. Default: 0.
            otherwise: WSGI application for all other paths, for example Flask's. None: they are 404. Default: None.
            metrics: whether to serve `METRICS` and `VARIABLES`. Do not expose these to the public; to serve them at an
                address of their own, see `MetricsApplication`. Default: False.
            playground: whether to serve the playground, a page to try everything with, at ``/``. It can do what any
                client can do. With the server's ``list_uri``, it lists the registered functions; with ``fleet_uri``, it
                shows the fleet. Default: False.

        Raises:
            ConfigError: a path, a host or an origin is malformed, a subprotocol is unknown, or the number of proxies is
                negative.
        """
        paths = (path,) if isinstance(path, str) else tuple(path)
        if not paths or not all(isinstance(each, str) and each.startswith("/") for each in paths):
            raise ConfigError(f"path: expected one or more that begin with /, got {path!r}")
        if isinstance(subprotocols, str) or not subprotocols or not set(subprotocols) <= set(SUBPROTOCOLS):
            raise ConfigError(f"subprotocols: expected some of {', '.join(SUBPROTOCOLS)}, got {subprotocols!r}")
        if trusted_proxies < 0:
            raise ConfigError(f"trusted_proxies: expected a number of at least 0, got {trusted_proxies!r}")
        handshake.check_allowed_origins(allowed_origins)
        handshake.check_allowed_hosts(allowed_hosts or ())
        self.server = server
        self.paths = paths
        self._trusted_proxies = trusted_proxies
        self._allowed_origins = tuple(allowed_origins)
        self._allowed_hosts = allowed_hosts
        self._subprotocols = tuple(subprotocols)
        self._allow_empty_subprotocol = allow_empty_subprotocol
        self._otherwise = otherwise or self._not_found
        lists = {"list_uri": server.options.list_uri, "fleet_uri": server.options.fleet_uri}
        files = StaticFiles(playground=playground, path=paths[0], **lists)
        # Where a path occurs twice, the later entry applies.
        self._routes: dict[str, WsgiApplication] = {
            **dict.fromkeys(files.paths, files.respond),
            **dict.fromkeys(paths, self._websocket),
            **(MetricsApplication(server).routes if metrics else {}),
            HEALTH: self._health,
            READINESS: self._readiness,
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Respond to a request."""
        path = environ.get("PATH_INFO", "")
        if path not in _FOR_ANY_HOST:
            try:
                handshake.check_host(environ.get("HTTP_HOST", ""), self._hosts(environ))
            except HandshakeRefused as refusal:
                return self._refuse(environ, start_response, refusal)
        return self._routes.get(path, self._otherwise)(environ, start_response)

    def _hosts(self, environ: dict[str, Any]) -> Sequence[str]:
        if self._allowed_hosts is not None:
            return self._allowed_hosts
        return _ANY if self._trusted_proxies else _default_hosts(environ)

    def _health(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        return _respond_text(start_response, "200 OK", "alive")

    def _readiness(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        reason = self.server.unready_reason()
        if reason is None:
            return _respond_text(start_response, "200 OK", "ready")
        return _respond_text(start_response, "503 Service Unavailable", reason)

    def _not_found(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        where = " and ".join(self.paths)
        refusal = HandshakeRefused("404 Not Found", f"not found; websockets are served at {where}")
        return self._refuse(environ, start_response, refusal)

    def _websocket(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        try:
            self._serve(environ)
        except HandshakeRefused as refusal:
            return self._refuse(environ, start_response, refusal)
        return []

    def _refuse(self, environ: dict[str, Any], start_response: StartResponse, refusal: HandshakeRefused) -> list[bytes]:
        self.server.metrics.refused[int(refusal.status[:3])] += 1
        client = environ.get("REMOTE_ADDR", "-")
        log.info(Line("http: request refused", client=client, status=refusal.status[:3], reason=refusal.reason))
        return _respond_text(start_response, refusal.status, refusal.reason, refusal.headers)

    def _serve(self, environ: dict[str, Any]) -> None:
        """Admit a client, upgrade its request, and serve its websocket from now on."""
        handshake.websocket_key(environ)
        handshake.check_origin(environ.get("HTTP_ORIGIN"), environ.get("HTTP_HOST", ""), self._allowed_origins)
        subprotocol = choose_subprotocol(
            environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL"),
            allow_empty=self._allow_empty_subprotocol,
            supported=self._subprotocols,
        )
        request = ConnectRequest(
            environ,
            subprotocol=subprotocol,
            allowed=allowed_messages(_requested_messages(environ), subprotocol),
            trusted_proxies=self._trusted_proxies,
            local_name=environ.get(LOCAL_NAME),
        )
        # The upgrade empties the environ, so the request is read before.
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


class MetricsApplication:
    """A WSGI application that serves `METRICS` and `VARIABLES` of this process, and of other gunicorn workers.

    Serve it at a private address. It takes about 16 ms for each request, and shows the names of functions.

    Args:
        servers: servers to show. Default: all of the process.

    Attributes:
        routes: applications by path.
    """

    def __init__(self, *servers: Server) -> None:
        self._servers = servers
        self.routes: dict[str, WsgiApplication] = {METRICS: self._metrics, VARIABLES: self._variables}

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Respond to a request."""
        try:
            handshake.check_host(environ.get("HTTP_HOST", ""), _default_hosts(environ))
        except HandshakeRefused as refusal:
            return _respond_text(start_response, refusal.status, refusal.reason)
        return self.routes.get(environ.get("PATH_INFO", ""), self._not_found)(environ, start_response)

    def _metrics(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        snapshot = self._snapshot(environ)
        uris = [uri for uri in snapshot.calls if uri != OTHER]
        lengths: dict[str, float] = {}
        for broker in {server.caller_broker for server in self._shown()}:
            lengths.update((uri, float(length)) for uri, length in broker.queue_lengths(uris).items())
        snapshot.highest["juggler_queue_length"] = lengths
        return _respond(start_response, "200 OK", CONTENT_TYPE, prometheus(snapshot))

    def _variables(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        body = json.dumps({"juggler": go_variables(self._snapshot(environ))}).encode()
        return _respond(start_response, "200 OK", "application/json", body)

    def _shown(self) -> Sequence[Server]:
        return self._servers or live_servers()

    def _snapshot(self, environ: dict[str, Any]) -> Snapshot:
        """Return the metrics of this process, with those of the other workers under `juggler.worker.GeventWorker`."""
        slot: Slot | None = environ.get(ENVIRON_KEY)
        snapshot = merge(server.snapshot() for server in self._shown())
        return snapshot if slot is None else slot.with_others(snapshot)

    def _not_found(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        return _respond_text(start_response, "404 Not Found", f"not found; metrics are at {METRICS} and {VARIABLES}")


def _default_hosts(environ: dict[str, Any]) -> Sequence[str]:
    bind = environ.get(BIND)
    return handshake.LOOPBACK_HOSTS if isinstance(bind, tuple) and is_loopback(bind[0]) else _ANY


def _requested_messages(environ: dict[str, Any]) -> str | None:
    """Return ``Juggler-Allowed-Messages``, or the query's ``allowed_messages``: browsers cannot set headers."""
    header: str | None = environ.get("HTTP_JUGGLER_ALLOWED_MESSAGES")
    query = environ.get("QUERY_STRING")
    return header if header or not query else parse_query(query).get("allowed_messages")


def _close_foreign(environ: dict[str, Any]) -> None:
    """Close a websocket that gevent-websocket's own handler has created before it called the application."""
    foreign = environ.get("wsgi.websocket")
    if foreign is not None:
        # Its `close` does not send the code.
        payload = CloseCode.INTERNAL_ERROR.to_bytes(2, "big") + _CANNOT_UPGRADE.encode()
        foreign.send_frame(payload, foreign.OPCODE_CLOSE)


def _respond_text(
    start_response: StartResponse, status: str, text: str, headers: Sequence[tuple[str, str]] = ()
) -> list[bytes]:
    return _respond(start_response, status, "text/plain; charset=utf-8", f"{text}\n".encode(), headers)


def _respond(
    start_response: StartResponse,
    status: str,
    content_type: str,
    body: bytes,
    headers: Sequence[tuple[str, str]] = (),
) -> list[bytes]:
    start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body))), *headers])
    return [body]
