"""The server: websockets at /ws and the web page at /."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from juggler.broker.redis import RedisBroker
from juggler.handlers import chain
from juggler.handlers.authorize import Rule, authorize
from juggler.handlers.recover import recover
from juggler.server import Server
from juggler.wsgi import Application

PAGE = (Path(__file__).parent / "index.html").read_bytes()
POLICY = "default-src 'none'; connect-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'"


def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Serve the web page."""
    if environ["PATH_INFO"] != "/":
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"not found\n"]
    headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(PAGE)))]
    start_response("200 OK", [*headers, ("Content-Security-Policy", POLICY)])
    return [PAGE]


broker = RedisBroker(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))
server = Server(
    caller_broker=broker,
    pubsub_broker=broker,
    # Only functions publish. Clients call and subscribe.
    handler=chain(recover(), authorize([Rule("call", "tokens.*"), Rule("sub", "tokens.*")])),
    unknown_uris="refuse",
)
application = Application(server, otherwise=page)
