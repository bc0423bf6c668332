"""Static files for browsers: the client module, and the playground if enabled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

STATIC = Path(__file__).parent / "static"

CLIENT = "/juggler.js"
TYPES = "/juggler.d.ts"
SETTINGS = "/playground.json"

_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",
}
# The playground connects to any server that the user enters. Everything else comes from this one.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _File(NamedTuple):
    kind: str
    body: bytes
    etag: str


def _file(name: str, body: bytes) -> _File:
    return _File(_KINDS[Path(name).suffix], body, f'"{hashlib.sha256(body).hexdigest()[:20]}"')


class StaticFiles:
    """Files by path, read once."""

    def __init__(
        self,
        *,
        playground: bool = False,
        path: str = "/ws",
        list_uri: str | None = None,
        fleet_uri: str | None = None,
    ) -> None:
        """Read the files.

        Args:
            playground: whether to serve the playground at ``/``. Default: False.
            path: path of the websockets, for the playground.
            list_uri: URI that lists the registered functions, for the playground.
            fleet_uri: URI that returns the processes of the fleet, for the playground.
        """
        names = {CLIENT: "juggler.js", TYPES: "juggler.d.ts"}
        if playground:
            names["/"] = "playground/index.html"
            for file in sorted((STATIC / "playground").iterdir()):
                if file.suffix in _KINDS and file.suffix != ".html":
                    names[f"/{file.name}"] = f"playground/{file.name}"
        self._files = {at: _file(name, (STATIC / name).read_bytes()) for at, name in names.items()}
        if playground:
            settings = json.dumps({"path": path, "listUri": list_uri, "fleetUri": fleet_uri}).encode()
            self._files[SETTINGS] = _file("settings.json", settings)

    @property
    def paths(self) -> Iterable[str]:
        """The paths of all files."""
        return self._files.keys()

    def respond(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Respond to a request for one of `paths`: a WSGI application."""
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            body = b"method not allowed: expected GET or HEAD\n"
            headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Allow", "GET, HEAD")]
            start_response("405 Method Not Allowed", headers)
            return [body]
        file = self._files[environ["PATH_INFO"]]
        # Revalidated each time, sent only when changed: a new version is used from the next visit on.
        headers = [("ETag", file.etag), ("Cache-Control", "no-cache"), ("X-Content-Type-Options", "nosniff")]
        if environ.get("HTTP_IF_NONE_MATCH") == file.etag:
            start_response("304 Not Modified", headers)
            return []
        headers += [("Content-Type", file.kind), ("Content-Length", str(len(file.body)))]
        if file.kind.startswith("text/html"):
            headers.append(("Content-Security-Policy", _POLICY))
        start_response("200 OK", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [file.body]
