"""Echoes and publishes with python-socketio: ``python -m loadtest.bench.peers.socketio_server PORT EVENT``."""

from __future__ import annotations

# python-socketio recommends it, and it comes before other imports.
from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

import socketio  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402
from geventwebsocket.handler import WebSocketHandler  # noqa: E402

from juggler.process.embedded import HOST  # noqa: E402

BACKLOG = 2048


def serve(port: int, echo_event: str) -> None:
    server = socketio.Server(async_mode="gevent")

    def echo(sid: str, args: object) -> object:
        return args

    def subscribe(sid: str, channels: list[str]) -> None:
        for channel in channels:
            server.enter_room(sid, channel)

    def publish(sid: str, channel: str, args: str) -> None:
        server.emit("event", args, to=channel)

    server.on(echo_event, echo)
    server.on("subscribe", subscribe)
    server.on("publish", publish)
    listening = WSGIServer(
        (HOST, port), socketio.WSGIApp(server), backlog=BACKLOG, handler_class=WebSocketHandler, log=None
    )
    listening.start()
    print("ready", flush=True)
    listening.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
