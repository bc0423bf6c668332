"""A server for ``juggler server``, which uses OpenTelemetry if ``TRACES`` is set."""

from __future__ import annotations

import logging
import os

from juggler.broker.redis import RedisBroker
from juggler.errors import Refused
from juggler.handlers import chain
from juggler.handlers.log import log_messages
from juggler.handlers.recover import recover
from juggler.protocol.messages import Call
from juggler.server import Server

if "TRACES" in os.environ:
    from tests.integration.spans import note_spans

    note_spans()

log = logging.getLogger("application")


def application(next_handler):
    def handler(ctx, connection, message):
        if isinstance(message, Call):
            log.warning("in the handler")
            if message.uri == "forbidden":
                raise Refused(403, "not for you")
            if message.uri == "broken":
                raise ValueError("on purpose")
        next_handler(ctx, connection, message)

    return handler


broker = RedisBroker(os.environ["REDIS_URL"])
server = Server(caller_broker=broker, pubsub_broker=broker, handler=chain(log_messages(), recover(), application))
