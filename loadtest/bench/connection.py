"""Memory of an idle connection in a server without Redis: ``python -m loadtest.bench.connection [CONNECTIONS]``.

Three states: without requests, with a subscription, and with the two greenlets for results and events that a handler of
your own needs. The server is in a process of its own.
"""

from __future__ import annotations

from juggler.process.patching import patch_all

patch_all()

import sys  # noqa: E402

from gevent.pywsgi import WSGIServer  # noqa: E402

from juggler.broker.memory import MemoryBroker  # noqa: E402
from juggler.protocol.messages import MessageType  # noqa: E402
from juggler.server import Server  # noqa: E402
from juggler.server.processing import chain, process_message  # noqa: E402
from juggler.server.websocket import WebSocketHandler  # noqa: E402
from juggler.wsgi import Application  # noqa: E402
from loadtest.bench.harness.idle_memory import added_kilobytes  # noqa: E402
from loadtest.bench.harness.programs import emit  # noqa: E402
from loadtest.raw_connection import request  # noqa: E402

CONNECTIONS = 2000
REQUESTS = {
    "idle": (),
    "subscribed": (request(MessageType.SUB, channel="c"),),
    "with both greenlets": (
        request(MessageType.SUB, channel="c"),
        request(MessageType.CALL, uri="nobody", timeout=1),
    ),
}


def serve(state: str) -> None:
    """Run a server until SIGTERM."""
    broker = MemoryBroker()
    # Any handler but the standard one starts the greenlets.
    handler = chain(lambda last: lambda *message: last(*message)) if "greenlets" in state else process_message
    server = Server(caller_broker=broker, pubsub_broker=broker, handler=handler, max_connections=None, max_calls=1000)
    http = WSGIServer(("127.0.0.1", 0), Application(server), handler_class=WebSocketHandler, log=None)
    http.start()
    print(http.server_port, flush=True)
    http.serve_forever()


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
        return
    count = int(sys.argv[1]) if sys.argv[1:] else CONNECTIONS
    for state in REQUESTS:
        command = ["-m", "loadtest.bench.connection", "--serve", state]
        cost = added_kilobytes(command, count, REQUESTS[state], response=b'"type":8')
        emit(f"connection, {state}", {"server KB": cost})


if __name__ == "__main__":
    main()
