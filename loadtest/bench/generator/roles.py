"""Roles of a generator process: call, subscribe, publish, connect. Each counts and times its operations."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from time import monotonic_ns
from typing import Any

from loadtest.bench.generator.histogram import Histogram
from loadtest.bench.generator.loop import Connection, Loop, Lost
from loadtest.bench.generator.wire import (
    ACK,
    CALL,
    CLOSE_FRAME,
    EVNT,
    NACK,
    PUB,
    RES,
    SUB,
    SUBPROTOCOLS,
    args_of,
    kind,
    number_of,
    request,
    stamp_of,
    stamped,
)

OPENING = 32
"""Connections that a process opens concurrently."""
SUBSCRIBING = 100
"""Subscriptions of a connection without ACK."""
CALL_TIMEOUT_NS = 60_000_000_000
FAILED = b'"failed":true'


class Role:
    """Owns connections, and reports when all of them are ready."""

    def __init__(self, loop: Loop, spec: dict[str, Any], on_ready: Callable[[], None]) -> None:
        self.spec = spec
        self.latency = Histogram()
        self.connections: list[Connection] = []
        self._loop, self._on_ready = loop, on_ready
        self._wanted: int = spec["connections"]
        self._ready = 0

    def prepare(self) -> None:
        """Open the connections."""
        for _ in range(min(OPENING, self._wanted)):
            self.connect()

    def go(self) -> None:
        """Start."""

    def flows(self) -> bool:
        """Return whether every connection has completed an operation, on average."""
        return self.count >= self._wanted

    def mark(self) -> None:
        """Start to count."""
        self.latency = Histogram()

    @property
    def count(self) -> int:
        return self.latency.count

    def connect(self) -> Connection:
        """Open a connection."""
        began_ns = monotonic_ns()
        port, path, subprotocol = self.spec["port"], self.spec["path"], self.spec.get("subprotocol", SUBPROTOCOLS[0])
        made = Connection(self._loop, self, port, path, subprotocol, len(self.connections))
        made.began_ns = began_ns
        self.connections.append(made)
        return made

    def is_ready(self) -> None:
        """Note that a connection is ready, and open another one or report."""
        self._ready += 1
        if self._ready == self._wanted:
            self._on_ready()
        elif len(self.connections) < self._wanted:
            self.connect()

    def on_open(self, connection: Connection) -> None:
        self.is_ready()

    def on_texts(self, connection: Connection, texts: list[bytes]) -> None:
        for text in texts:
            refuse_nack(text)

    def on_closed(self, connection: Connection, reason: str) -> None:
        raise Lost(f"the server closed a connection: {reason or 'without a reason'}")


class Caller(Role):
    """Calls again on each result. Each slot, a call in flight, has a UUID and frames of its own."""

    def prepare(self) -> None:
        spec = self.spec
        slots = self._wanted * spec["in_flight"]
        self._started = [0] * slots
        self._frames = [itertools.cycle(list(self._frames_of(slot, slots))) for slot in range(slots)]
        super().prepare()

    def _frames_of(self, slot: int, slots: int) -> Iterator[bytes]:
        # All slots together call each URI equally often.
        uris = self.spec["uris"]
        for number in range(slot, max(len(uris), slots), slots):
            yield self.frame(slot, uris[number % len(uris)])

    def frame(self, slot: int, uri: str) -> bytes:
        """Return the call of a slot."""
        return request(CALL, slot, uri=uri, timeout=CALL_TIMEOUT_NS, args=self.spec["args"])

    def go(self) -> None:
        in_flight = self.spec["in_flight"]
        for connection in self.connections:
            slots = range(connection.number * in_flight, (connection.number + 1) * in_flight)
            now_ns = monotonic_ns()
            for slot in slots:
                self._started[slot] = now_ns
            connection.send(b"".join(next(self._frames[slot]) for slot in slots))

    def flows(self) -> bool:
        return self.count >= len(self._started)

    def on_texts(self, connection: Connection, texts: list[bytes]) -> None:
        now_ns = monotonic_ns()
        calls = []
        for slot in self.completed(connection, texts):
            self.latency.record(now_ns - self._started[slot])
            self._started[slot] = now_ns
            calls.append(next(self._frames[slot]))
        if calls:
            connection.send(b"".join(calls))

    def completed(self, connection: Connection, texts: list[bytes]) -> list[int]:
        """Return the slots whose results are among the messages."""
        slots = []
        for text in texts:
            what = kind(text)
            if what == RES:
                if FAILED in text:
                    raise Lost(f"a call failed: {shown(text)}")
                slots.append(number_of(text))
            elif what == NACK:
                refuse_nack(text)
        return slots


class Subscriber(Role):
    """Subscribes connections to their channels, and reports received events to the publishers."""

    def prepare(self) -> None:
        self._waiting: dict[int, Iterator[int]] = {}
        self._unconfirmed = [len(channels) for channels in self.spec["channels"]]
        self._report_fds: list[int] = self.spec["report_fds"]
        self._missing = [self.spec["report_after"]] * len(self._report_fds)
        super().prepare()

    def on_open(self, connection: Connection) -> None:
        channels: list[int] = self.spec["channels"][connection.number]
        if not channels:
            self.is_ready()
            return
        waiting = self._waiting[connection.number] = iter(channels)
        self._subscribe(connection, itertools.islice(waiting, SUBSCRIBING))

    def _subscribe(self, connection: Connection, channels: Iterator[int]) -> None:
        frames = [request(SUB, number, channel=str(number)) for number in channels]
        if frames:
            connection.send(b"".join(frames))

    def on_texts(self, connection: Connection, texts: list[bytes]) -> None:
        now_ns = monotonic_ns()
        for text in texts:
            what = kind(text)
            if what == EVNT:
                self.received(args_of(text), now_ns)
            elif what == ACK:
                self._confirmed(connection)
            elif what == NACK:
                refuse_nack(text)

    def _confirmed(self, connection: Connection) -> None:
        number = connection.number
        self._unconfirmed[number] -= 1
        if self._unconfirmed[number]:
            self._subscribe(connection, itertools.islice(self._waiting[number], 1))
        else:
            del self._waiting[number]
            self.is_ready()

    def received(self, args: bytes, now_ns: int) -> None:
        """Time the delivery of an event, and report it if it is the last one."""
        publisher, sent_ns = stamp_of(args)
        self.latency.record(now_ns - sent_ns)
        self._missing[publisher] -= 1
        if not self._missing[publisher]:
            self._missing[publisher] = self.spec["report_after"]
            os.write(self._report_fds[publisher], b"x")


class Publisher(Role):
    """Publishes the next event when all subscriber processes have reported the last one."""

    def prepare(self) -> None:
        spec = self.spec
        self._count = self._reports = 0
        self._channels = itertools.cycle(range(spec["channels"]))
        self._padding = "x" * spec["payload_bytes"]
        self._report_fd: int = spec["report_fd"]
        os.set_blocking(self._report_fd, False)
        self._loop.add(self._report_fd, self._on_report)
        super().prepare()

    def go(self) -> None:
        for _ in range(self.spec["in_flight"]):
            self._publish()

    def mark(self) -> None:
        self._count = 0

    @property
    def count(self) -> int:
        return self._count

    def _on_report(self, events: int) -> None:
        self._reports += len(os.read(self._report_fd, 1 << 16))
        delivered, self._reports = divmod(self._reports, self.spec["processes"])
        for _ in range(delivered):
            self._count += 1
            self._publish()

    def _publish(self) -> None:
        args = stamped(self.spec["publisher"], monotonic_ns()) + self._padding
        self.connections[0].send(self.frame(str(next(self._channels)), args))

    def frame(self, channel: str, args: str) -> bytes:
        """Return the publication of an event."""
        return request(PUB, 0, channel=channel, args=args)


class Connector(Role):
    """Connects, subscribes if there is a channel, closes and connects again, on several connections."""

    def prepare(self) -> None:
        self._going = False
        self._on_ready()

    def go(self) -> None:
        self._subscribe = [request(SUB, 0, channel=channel) for channel in self.spec["channels"]]
        for _ in range(self._wanted):
            self._again()

    def on_open(self, connection: Connection) -> None:
        if self._subscribe:
            connection.send(self._subscribe[0])
        else:
            self._done(connection)

    def on_texts(self, connection: Connection, texts: list[bytes]) -> None:
        super().on_texts(connection, texts)
        self._done(connection)

    def on_closed(self, connection: Connection, reason: str) -> None:
        if reason != "1000":
            super().on_closed(connection, reason)
        self._again()

    def _again(self) -> None:
        self.connect()
        # Only the event loop refers to them.
        self.connections.clear()

    def _done(self, connection: Connection) -> None:
        self.latency.record(monotonic_ns() - connection.began_ns)
        # The server then closes the TCP connection first, so that this side does not run out of ports.
        connection.send(CLOSE_FRAME)


def refuse_nack(text: bytes) -> None:
    """Raise `Lost` for a NACK."""
    if kind(text) == NACK:
        raise Lost(f"the server refused a request: {shown(text)}")


def shown(text: bytes) -> str:
    """Return the beginning of a message, for an error."""
    return text[:300].decode(errors="replace")


ROLES: dict[str, type[Role]] = {
    "call": Caller,
    "subscribe": Subscriber,
    "publish": Publisher,
    "connect": Connector,
}
