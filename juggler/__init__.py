"""juggler: a websocket-based, Redis-backed RPC and pub-sub server.

The names below are what the first page of a program needs; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # importing typing takes longer than all that commands need before they handle Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from juggler.broker.memory import MemoryBroker
    from juggler.broker.redis import RedisBroker
    from juggler.callee import Callee, CallError
    from juggler.client import AsyncClient, Client
    from juggler.server import DeflateOptions, Server, WebSocketOptions
    from juggler.wsgi import Application

__version__ = "0.2.0"

__all__ = [
    "Application",
    "AsyncClient",
    "CallError",
    "Callee",
    "Client",
    "DeflateOptions",
    "MemoryBroker",
    "RedisBroker",
    "Server",
    "WebSocketOptions",
    "__version__",
]

_HOMES = {
    "Application": "juggler.wsgi",
    "AsyncClient": "juggler.client",
    "CallError": "juggler.callee",
    "Callee": "juggler.callee",
    "Client": "juggler.client",
    "DeflateOptions": "juggler.server",
    "MemoryBroker": "juggler.broker.memory",
    "RedisBroker": "juggler.broker.redis",
    "Server": "juggler.server",
    "WebSocketOptions": "juggler.server",
}


def __getattr__(name: str) -> Any:
    # Importing a client must not load the server, nor the other way round.
    if name in _HOMES:
        try:
            return getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            from juggler.process.extras import advice

            if (text := advice(error, "server")) is None:
                raise
            raise ImportError(f"juggler.{name}: {text}", name=error.name) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
