"""A server whose handler computes for a while: ``juggler server loadtest.bench.busy_server:server``."""

from __future__ import annotations

import os
import time

from juggler.broker.redis import RedisBroker
from juggler.protocol.messages import Message
from juggler.server import Server
from juggler.server.connection import Connection
from juggler.server.processing import Context, process_message

WORK = 300e-6
"""CPU seconds for each request."""


def handler(ctx: Context, connection: Connection, message: Message) -> None:
    """Compute, as an application's checks may, then process the message."""
    if message.type.is_request:
        end = time.thread_time() + WORK
        while time.thread_time() < end:
            pass
    process_message(ctx, connection, message)


broker = RedisBroker(os.environ["REDIS_URL"])
server = Server(caller_broker=broker, pubsub_broker=broker, handler=handler, max_calls=1000)
