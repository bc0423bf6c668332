"""juggler: a websocket-based, Redis-backed RPC and pub-sub server."""

__version__ = "0.1.0"
