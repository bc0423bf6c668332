"""Roles that use Redis alone, over bare sockets: a caller and a callee for the ladder, a caller for a worker.

Each step of the ladder adds something that RPC needs to the one before; the last one does what juggler does for a
call, except for the websocket.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

import hiredis
import msgspec

from loadtest.bench.generator.histogram import Histogram
from loadtest.bench.generator.loop import HOST, Loop, Lost

CALLS = b"bench:calls"
RESULTS = b"bench:results:"
TTL_MS = b"60000"
RECEIVE_BYTES = 1 << 14

Reply = Any


class Stored(msgspec.Struct):
    """The members of a call or result that are read."""

    conn_uuid: str
    msg_uuid: str
    args: msgspec.Raw


decode = msgspec.json.Decoder(Stored).decode


def packed(*words: bytes) -> bytes:
    """Encode a command in RESP."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class Link:
    """A connection to Redis: commands are sent together, and their replies are returned together."""

    def __init__(self, loop: Loop, port: int, on_replies: Callable[[Link, list[Reply]], None], number: int) -> None:
        self.number = number
        self.began_ns = 0
        self._on_replies = on_replies
        self._replies: list[Reply] = []
        self._expected: deque[int] = deque()
        self._reader = hiredis.Reader()
        self._sock = socket.create_connection((HOST, port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.setblocking(False)
        loop.add(self._sock.fileno(), self._on_ready)

    def send(self, *commands: bytes) -> None:
        """Send commands, which are small enough for the socket's buffer."""
        self._expected.append(len(commands))
        data = b"".join(commands)
        if self._sock.send(data) < len(data):
            raise Lost("Redis does not read")

    def _on_ready(self, events: int) -> None:
        data = self._sock.recv(RECEIVE_BYTES)
        if not data:
            raise Lost("Redis closed a connection")
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, Exception):
                raise Lost(f"Redis: {reply}")
            self._replies.append(reply)
            if len(self._replies) == self._expected[0]:
                self._expected.popleft()
                replies, self._replies = self._replies, []
                self._on_replies(self, replies)


class RedisRole:
    """Owns a link for each call in flight.

    Attributes:
        first: number of the first link.
    """

    first = 0

    def __init__(self, loop: Loop, spec: dict[str, Any], on_ready: Callable[[], None]) -> None:
        self.latency = Histogram()
        self.as_json: bool = spec["json"]
        self.with_ttl: bool = spec["ttl"]
        self._loop, self._spec, self._on_ready = loop, spec, on_ready
        self._args = msgspec.Raw(msgspec.json.encode("x" * spec["payload_bytes"]))

    def prepare(self) -> None:
        self.links = [
            Link(self._loop, self._spec["redis_port"], self.on_replies, number)
            for number in range(self.first, self.first + self._spec["connections"])
        ]
        self._on_ready()

    def go(self) -> None:
        """Start."""

    def flows(self) -> bool:
        """Return whether every link has completed a call, on average."""
        return True

    def mark(self) -> None:
        """Start to count."""
        self.latency = Histogram()

    @property
    def count(self) -> int:
        return self.latency.count

    def on_replies(self, link: Link, replies: list[Reply]) -> None:
        """Handle the replies to commands that were sent together."""
        raise NotImplementedError

    def payload(self, number: int) -> bytes:
        """Return the payload for a list: the number of the caller's link, and the arguments."""
        if not self.as_json:
            return b"%d %b" % (number, bytes(self._args))
        return msgspec.json.encode({"conn_uuid": str(number), "msg_uuid": str(number), "args": self._args})

    def number_of(self, payload: bytes) -> int:
        """Return the number of the caller's link."""
        if not self.as_json:
            return int(payload.partition(b" ")[0])
        return int(decode(payload).conn_uuid)


class RedisCaller(RedisRole):
    """Stores a call, waits for its result, and stores the next one."""

    def go(self) -> None:
        for link in self.links:
            self._call(link)

    def flows(self) -> bool:
        return self.count >= len(self.links)

    def _call(self, link: Link) -> None:
        link.began_ns = monotonic_ns()
        number = b"%d" % link.number
        ttl = [packed(b"SET", b"bench:calls:timeout:" + number, TTL_MS, b"PX", TTL_MS)] if self.with_ttl else []
        pop = packed(b"BRPOP", RESULTS + number, b"0")
        link.send(*ttl, packed(b"LPUSH", CALLS, self.payload(link.number)), pop)

    def on_replies(self, link: Link, replies: list[Reply]) -> None:
        if isinstance(replies[-1], list):
            self.number_of(replies[-1][1])
            if self.with_ttl:
                key = b"bench:results:timeout:%d" % link.number
                link.send(packed(b"PTTL", key), packed(b"DEL", key))
                return
        self.latency.record(monotonic_ns() - link.began_ns)
        self._call(link)


class RedisCallee(RedisRole):
    """Takes calls, and stores their arguments as results."""

    def prepare(self) -> None:
        super().prepare()
        self._payloads: list[bytes] = [b""] * len(self.links)

    def go(self) -> None:
        for link in self.links:
            link.send(packed(b"BRPOP", CALLS, b"0"))

    def on_replies(self, link: Link, replies: list[Reply]) -> None:
        if not isinstance(replies[-1], list):
            if replies[0] <= 0:
                raise Lost("a call of the ladder expired")
            self._answer(link)
            return
        self._payloads[link.number] = replies[-1][1]
        if self.with_ttl:
            key = b"bench:calls:timeout:%d" % self.number_of(replies[-1][1])
            link.send(packed(b"PTTL", key), packed(b"DEL", key))
        else:
            self._answer(link)

    def _answer(self, link: Link) -> None:
        to = self.number_of(self._payloads[link.number])
        number = b"%d" % to
        ttl = [packed(b"SET", b"bench:results:timeout:" + number, TTL_MS, b"PX", TTL_MS)] if self.with_ttl else []
        push = packed(b"LPUSH", RESULTS + number, self.payload(to))
        link.send(*ttl, push, packed(b"BRPOP", CALLS, b"0"))


class WorkerCaller(RedisCaller):
    """Calls a worker that is no generator, with the spec of a caller on websockets."""

    def __init__(self, loop: Loop, spec: dict[str, Any], on_ready: Callable[[], None]) -> None:
        own = {
            "connections": spec["connections"] * spec["in_flight"],
            "redis_port": spec["port"],
            "payload_bytes": len(spec["args"]),
            "json": False,
            "ttl": False,
        }
        super().__init__(loop, own, on_ready)
        # Results for other processes, and for those of an earlier measurement, are in lists of their own.
        self.first = os.getpid() << 20


REDIS_ROLES: dict[str, type[RedisRole]] = {"redis-call": RedisCaller, "redis-callee": RedisCallee}
WORKER_ROLES: dict[str, type[RedisRole]] = {"call": WorkerCaller}
