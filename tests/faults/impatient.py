"""A server on which a message that has begun must arrive within two seconds."""

from __future__ import annotations

import os

from juggler import RedisBroker, Server, WebSocketOptions

broker = RedisBroker(os.environ["REDIS_URL"])
server = Server(
    caller_broker=broker, pubsub_broker=broker, websocket=WebSocketOptions(message_timeout=2.0, ping_interval=0.5)
)
