"""The chat with juggler: what was a handler of an event is a function, in a process of its own."""

from __future__ import annotations

from collections import deque

from callee import Callee, Caller, ConnectionEvent, publish

rpc = Callee()
history = {room: deque(maxlen=50) for room in ("tea", "coffee")}


@rpc.on_connect
def connected(event: ConnectionEvent) -> None:
    publish("chat.online", event.identity)


@rpc.on_disconnect
def disconnected(event: ConnectionEvent) -> None:
    publish("chat.offline", event.identity)


@rpc.register("chat.history")
def recent(room: str) -> list[dict]:
    return list(history[room])


@rpc.register("chat.say")
def say(room: str, text: str, who: Caller) -> None:
    history[room].append({"user": who.identity, "text": text})
    publish(f"chat.room.{room}", history[room][-1])
