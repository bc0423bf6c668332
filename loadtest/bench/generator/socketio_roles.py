"""Roles that speak Socket.IO: the loop, the measurements and the order of operations are those of `roles`.

Packets are those of Engine.IO 4 and Socket.IO 5, one in a websocket message:
https://socket.io/docs/v4/socket-io-protocol/
"""

from __future__ import annotations

import json
from time import monotonic_ns

from loadtest.bench.generator.loop import Connection, Lost
from loadtest.bench.generator.roles import Caller, Publisher, Role, Subscriber, shown
from loadtest.bench.generator.wire import client_frame

OPEN, PING, PONG = b"0{", b"2", b"3"
CONNECT, EVENT, ACK = b"40", b"42", b"43"


class SocketIoRole(Role):
    """Connects with Socket.IO's handshake, and answers its pings."""

    def on_open(self, connection: Connection) -> None:
        """Wait for the packet with which the server opens the session."""

    def on_connected(self, connection: Connection) -> None:
        """The session has begun."""
        self.is_ready()

    def on_texts(self, connection: Connection, texts: list[bytes]) -> None:
        self.packets(connection, texts)

    def packets(self, connection: Connection, texts: list[bytes]) -> list[bytes]:
        """Return the events and acks, and handle what else has arrived."""
        found = []
        for text in texts:
            if text.startswith((ACK, EVENT)):
                found.append(text)
            elif text == PING:
                connection.send(client_frame(PONG))
            elif text.startswith(OPEN):
                connection.send(client_frame(CONNECT))
            elif text.startswith(CONNECT):
                self.on_connected(connection)
            else:
                raise Lost(f"Socket.IO: {shown(text)}")
        return found


class SocketIoCaller(SocketIoRole, Caller):
    """Calls again on each ack, whose id is the slot."""

    on_texts = Caller.on_texts

    def frame(self, slot: int, uri: str) -> bytes:
        return emit(uri, self.spec["args"], ack=slot)

    def completed(self, connection: Connection, texts: list[bytes]) -> list[int]:
        return [int(text[2 : text.index(b"[")]) for text in self.packets(connection, texts)]


class SocketIoSubscriber(SocketIoRole, Subscriber):
    """Subscribes connections to their channels, and reports received events to the publishers."""

    def on_connected(self, connection: Connection) -> None:
        channels = [str(channel) for channel in self.spec["channels"][connection.number]]
        connection.send(emit("subscribe", channels, ack=0))

    def on_texts(self, connection: Connection, texts: list[bytes]) -> None:
        now_ns = monotonic_ns()
        for text in self.packets(connection, texts):
            if text.startswith(ACK):
                self.is_ready()
            else:
                # 42["event","args"]
                self.received(text[text.index(b',"') + 2 :], now_ns)


class SocketIoPublisher(SocketIoRole, Publisher):
    """Publishes the next event when all subscriber processes have reported the last one."""

    def frame(self, channel: str, args: str) -> bytes:
        return emit("publish", channel, args)


def emit(event: str, *args: object, ack: int | None = None) -> bytes:
    """Return an event as a frame; the server acknowledges it with the number ``ack``."""
    data = json.dumps([event, *args], separators=(",", ":")).encode()
    return client_frame(EVENT + (b"" if ack is None else b"%d" % ack) + data)


SOCKETIO_ROLES: dict[str, type[SocketIoRole]] = {
    "call": SocketIoCaller,
    "subscribe": SocketIoSubscriber,
    "publish": SocketIoPublisher,
}
