"""A server that drops some events, sends others twice, and acknowledges some calls twice: for load tests."""

from __future__ import annotations

import itertools
import os

from juggler.broker.redis import RedisBroker
from juggler.handlers import chain
from juggler.protocol.messages import Ack, Evnt
from juggler.server import Server

_numbers = {Evnt: itertools.count(1), Ack: itertools.count(1)}


def forget(next_handler):
    """Drop or duplicate every tenth message."""

    def handler(ctx, connection, message):
        number = next(_numbers.get(type(message), iter([1])))
        if isinstance(message, Evnt) and number % 10 == 0:
            return
        if (isinstance(message, Evnt) and number % 10 == 5) or (isinstance(message, Ack) and number % 10 == 0):
            next_handler(ctx, connection, message)
        next_handler(ctx, connection, message)

    return handler


broker = RedisBroker(os.environ["REDIS_URL"])
server = Server(caller_broker=broker, pubsub_broker=broker, handler=chain(forget))
