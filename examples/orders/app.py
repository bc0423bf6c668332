"""The server of the orders: a token identifies the customer, whose name accompanies the calls."""

from __future__ import annotations

import os

from juggler.auth import bearer
from juggler.broker.redis import RedisBroker
from juggler.server import Server
from juggler.wsgi import Application

USERS = {"0f3a9c": "ann", "77b0e1": "bob"}

broker = RedisBroker(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))
server = Server(
    caller_broker=broker,
    pubsub_broker=broker,
    connect=bearer(USERS.get, optional=True),
    unknown_uris="refuse",
)
application = Application(server, playground=True)
