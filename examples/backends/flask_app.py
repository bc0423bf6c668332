"""A Flask application whose views call functions, and publish to the browsers that are connected to juggler servers.

Run it with ``gunicorn --preload -w 4 examples.backends.flask_app:app``: the workers share the backend safely.
"""

from __future__ import annotations

import os

from flask import Flask, jsonify, request

from examples.backends.worker import pack
from juggler.backend import Backend
from juggler.errors import BrokerUnavailable, CallFailed, Expired

app = Flask(__name__)
backend = Backend(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"), call_timeout=5)


@app.get("/price/<name>")
def price(name: str):
    return jsonify(price=backend.call("shop.price", name))


@app.post("/orders/<name>")
def order(name: str):
    # In a real application, from its session. Functions receive it as their caller.
    user = request.headers.get("X-User")
    placed = backend.call("shop.order", name, by=user)
    pack.delay(placed)
    return jsonify(order=placed, watching=backend.publish("orders", {"order": placed, "state": "placed"})), 201


@app.errorhandler(CallFailed)
def failed(error: CallFailed):
    return jsonify(error=error.message), 502


@app.errorhandler(Expired)
def expired(error: Expired):
    return jsonify(error="no answer in time"), 504


@app.errorhandler(BrokerUnavailable)
def unavailable(error: BrokerUnavailable):
    return jsonify(error=error.reason), 503
