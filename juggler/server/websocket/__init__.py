"""The server side of RFC 6455 for gevent, for text messages of any kind: it knows nothing of juggler's messages.

Use it in a WSGI application served by `WebSocketHandler`::

    def application(environ, start_response):
        websocket = environ["juggler.upgrade"](options=WebSocketOptions(read_limit=65536))
        with contextlib.suppress(ConnectionClosed):
            while True:
                websocket.send(websocket.receive().encode())
        return []
"""

from juggler.server.websocket.backlog import Backlog
from juggler.server.websocket.deflate import SharedText
from juggler.server.websocket.frames import text_frame
from juggler.server.websocket.stream import WebSocket
from juggler.server.websocket.sweeper import Sweeper
from juggler.server.websocket.upgrade import LOCAL_NAME, UPGRADE, HttpPool, WebSocketHandler
from juggler.server.websocket.websocket_options import DEFAULT, DeflateOptions, WebSocketOptions

__all__ = [
    "DEFAULT",
    "LOCAL_NAME",
    "UPGRADE",
    "Backlog",
    "DeflateOptions",
    "HttpPool",
    "SharedText",
    "Sweeper",
    "WebSocket",
    "WebSocketHandler",
    "WebSocketOptions",
    "text_frame",
]
