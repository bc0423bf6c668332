"""The chat with Flask-SocketIO. Run it with ``gunicorn --threads 100 examples.from_flask_socketio.before:app``."""

from __future__ import annotations

from collections import deque

from flask import Flask, request, session
from flask_socketio import SocketIO, disconnect, emit, join_room

app = Flask(__name__)
app.secret_key = "choose another"  # noqa: S105
socketio = SocketIO(app, async_mode="threading")
history = {room: deque(maxlen=50) for room in ("tea", "coffee")}
sids: dict[str, str] = {}


@app.post("/login/<user>")
def login(user: str):
    session["user"] = user
    return "", 204


@app.post("/announce/<room>/<text>")
def announce(room: str, text: str):
    socketio.emit("message", {"user": None, "text": text}, to=room)
    return "", 204


@app.post("/kick/<user>")
def kick(user: str):
    disconnect(sids[user], namespace="/")
    return "", 204


@socketio.on("connect")
def connected(auth):
    if "user" not in session:
        return False
    sids[session["user"]] = request.sid
    emit("online", session["user"], broadcast=True)
    return True


@socketio.on("disconnect")
def disconnected(reason):
    emit("offline", session["user"], broadcast=True)


@socketio.on("join")
def join(room):
    join_room(room)
    return list(history[room])


@socketio.on("say")
def say(room, text):
    history[room].append({"user": session["user"], "text": text})
    emit("message", history[room][-1], to=room)
