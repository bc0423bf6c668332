"""The chat with juggler: the Flask application and the server, in one process.

Run it, with callees.py and a Redis, with
``juggler demo examples.from_flask_socketio.callees:rpc --app examples.from_flask_socketio.app:application``.
"""

from __future__ import annotations

import os

from flask import Flask, session

from juggler.backend import Backend
from juggler.broker.redis import RedisBroker
from juggler.handlers import chain
from juggler.handlers.authorize import Rule, authorize
from juggler.server import Server
from juggler.wsgi import Application

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")

app = Flask(__name__)
app.secret_key = "choose another"  # noqa: S105
backend = Backend(REDIS_URL)


@app.post("/login/<user>")
def login(user: str):
    session["user"] = user
    return "", 204


@app.post("/announce/<room>/<text>")
def announce(room: str, text: str):
    backend.publish(f"chat.room.{room}", {"user": None, "text": text})
    return "", 204


@app.post("/kick/<user>")
def kick(user: str):
    backend.disconnect(identity=user)
    return "", 204


def user_of(request):
    """Return the user of Flask's session; None refuses the client."""
    return app.session_interface.open_session(app, request).get("user")


broker = RedisBroker(REDIS_URL)
server = Server(
    caller_broker=broker,
    pubsub_broker=broker,
    connect=user_of,
    connection_events=True,
    handler=chain(authorize([Rule("call", "chat.*"), Rule("sub", "chat.*")])),  # only functions and views publish
)
application = Application(server, otherwise=app)
