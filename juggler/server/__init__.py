"""The server: options, connections, processing of messages, connect hook, catalogue, static files.

Each name is imported when it is first used, so that a part of this package loads without the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from juggler.server.connect_hook import ANONYMOUS, Connect, ConnectRequest
    from juggler.server.connection import Connection, State
    from juggler.server.identities import Identity
    from juggler.server.server import Server, live_servers
    from juggler.server.websocket import DeflateOptions, HttpPool, WebSocketHandler, WebSocketOptions

__all__ = [
    "ANONYMOUS",
    "Connect",
    "ConnectRequest",
    "Connection",
    "DeflateOptions",
    "HttpPool",
    "Identity",
    "Server",
    "State",
    "WebSocketHandler",
    "WebSocketOptions",
    "live_servers",
]

_HOMES = {
    "ANONYMOUS": "juggler.server.connect_hook",
    "Connect": "juggler.server.connect_hook",
    "ConnectRequest": "juggler.server.connect_hook",
    "Connection": "juggler.server.connection",
    "DeflateOptions": "juggler.server.websocket",
    "HttpPool": "juggler.server.websocket",
    "Identity": "juggler.server.identities",
    "Server": "juggler.server.server",
    "State": "juggler.server.connection",
    "WebSocketHandler": "juggler.server.websocket",
    "WebSocketOptions": "juggler.server.websocket",
    "live_servers": "juggler.server.server",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
