"""The files that a server gives to browsers: the client module always, the playground where it is wanted."""

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
# The page connects to whatever server one types; nothing else comes from anywhere else.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self'; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Page(NamedTuple):
    """What is answered for a path."""

    kind: str
    body: bytes
    etag: str


def _page(name: str, body: bytes) -> Page:
    return Page(_KINDS[Path(name).suffix], body, f'"{hashlib.sha256(body).hexdigest()[:20]}"')


class Pages:
    """Pages by path, read once."""

    def __init__(self, *, playground: bool = False, path: str = "/ws", list_uri: str | None = None) -> None:
        """Read them.

        Args:
            playground: whether ``/`` is the playground.
            path: where websockets are served, for the playground.
            list_uri: the URI that lists what is served, for the playground.
        """
        names = {CLIENT: "juggler.js", TYPES: "juggler.d.ts"}
        if playground:
            names["/"] = "playground/index.html"
            for file in sorted((STATIC / "playground").iterdir()):
                if file.suffix in _KINDS and file.suffix != ".html":
                    names[f"/{file.name}"] = f"playground/{file.name}"
        self._pages = {at: _page(name, (STATIC / name).read_bytes()) for at, name in names.items()}
        if playground:
            settings = json.dumps({"path": path, "listUri": list_uri}).encode()
            self._pages[SETTINGS] = _page("settings.json", settings)

    def __contains__(self, path: object) -> bool:
        return path in self._pages

    def answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request for one of them."""
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            body = b"only GET and HEAD are answered here\n"
            headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Allow", "GET, HEAD")]
            start_response("405 Method Not Allowed", headers)
            return [body]
        page = self._pages[environ["PATH_INFO"]]
        # Asked for each time, sent when it is another one: a new version comes with the next visit.
        headers = [("ETag", page.etag), ("Cache-Control", "no-cache"), ("X-Content-Type-Options", "nosniff")]
        if environ.get("HTTP_IF_NONE_MATCH") == page.etag:
            start_response("304 Not Modified", headers)
            return []
        headers += [("Content-Type", page.kind), ("Content-Length", str(len(page.body)))]
        if page.kind.startswith("text/html"):
            headers.append(("Content-Security-Policy", _POLICY))
        start_response("200 OK", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [page.body]
