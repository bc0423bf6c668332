"""Clients that call, publish and subscribe continuously, and record every response."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.event import Event
from websockets.exceptions import ConnectionClosed

from juggler.process.uuids import new_uuid
from juggler.protocol.messages import MessageType
from tests.stack import Wire
from tests.support import eventually

CALL, PUB, SUB, NACK, ACK, RES, EVNT = (MessageType(n) for n in (1, 2, 3, 7, 8, 9, 10))

CHANNEL = "load"
PAUSE = 0.005
ANSWER_TIMEOUT = 15.0
SLACK = 1.5
"""Seconds after its timeout until which a call may still have a result."""


class Request:
    """A request, its responses and its results."""

    def __init__(self, expected: Any = None) -> None:
        self.expected = expected
        self.answers: list[int] = []
        self.results: list[Any] = []
        self.answered = Event()
        self.ended = Event()

    @property
    def acknowledged(self) -> bool:
        return self.answers == [ACK]


@dataclass
class Counts:
    """Counts of all clients."""

    calls: int
    acknowledged: int
    refused: int
    answered: int
    expired: int
    published: int
    events: int


class LoadClient:
    """A websocket with several calls in flight and a subscription."""

    def __init__(self, number: int, url: str, slots: int, timeout: float) -> None:
        self.calls: list[Request] = []
        self.publications: list[Request] = []
        self.events: list[int] = []
        self.faults: list[str] = []
        self.stopping = False
        self._number = number
        self._timeout = timeout
        self._requests: dict[str, Request] = {}
        self._wire = Wire(url)
        assert self._wire.request(SUB, channel=CHANNEL)["meta"]["type"] == ACK
        self._reader = gevent.spawn(self._read)
        self.loops = [gevent.spawn(self._call, slot) for slot in range(slots)]

    def publish(self, number: int) -> Request:
        """Publish a number, and wait for ACK or NACK."""
        request = Request()
        self.publications.append(request)
        self._send(PUB, request, channel=CHANNEL, args=number)
        return request

    def close(self) -> None:
        self._wire.websocket.close()
        self._reader.join()
        self._wire.__exit__(None, None, None)

    def _call(self, slot: int) -> None:
        for count in itertools.count():
            if self.stopping:
                return
            # Every second call takes some time, so that some are always in flight at the callee.
            echo = [self._number, slot, count]
            delay = 20 + self._number
            uri, args, expected = ("test.delay", str(delay), delay) if slot % 2 else ("test.echo", echo, echo)
            call = Request(expected)
            self.calls.append(call)
            if not self._send(CALL, call, uri=uri, args=args, timeout=int(self._timeout * 1e9)):
                return
            if call.acknowledged:
                call.ended.wait(self._timeout + SLACK)
            gevent.sleep(PAUSE)

    def _send(self, type: MessageType, request: Request, **payload: Any) -> bool:
        uuid = new_uuid()
        self._requests[uuid] = request
        try:
            self._wire.websocket.send(json.dumps({"meta": {"type": type, "uuid": uuid}, "payload": payload}))
        except ConnectionClosed as error:
            self.faults.append(f"the websocket was lost: {error}")
            return False
        return request.answered.wait(ANSWER_TIMEOUT)

    def _read(self) -> None:
        try:
            while True:
                message = json.loads(self._wire.websocket.recv())
                self._take(message["meta"]["type"], message["payload"])
        except ConnectionClosed as error:
            if not self.stopping:
                self.faults.append(f"the websocket was lost: {error}")

    def _take(self, type: int, payload: dict[str, Any]) -> None:
        if type == EVNT:
            self.events.append(payload["args"])
            return
        request = self._requests.get(payload["for"])
        if request is None:
            self.faults.append(f"a response to an unknown request: {payload}")
        elif type == RES:
            request.results.append(payload["args"])
            request.ended.set()
        else:
            request.answers.append(type)
            request.answered.set()


class Load:
    """Several clients, one of which publishes; a context manager that waits for everything in flight."""

    def __init__(self, url: str, *, clients: int = 4, slots: int = 4, timeout: float = 3.0) -> None:
        """Start the clients.

        Args:
            url: URL of the server.
            clients: number of websockets.
            slots: calls in flight on each.
            timeout: timeout of the calls in seconds.
        """
        self.most_under_way = clients * slots
        self.clients = [LoadClient(number, url, slots, timeout) for number in range(clients)]
        self._publisher = gevent.spawn(self._publish)
        self._stopped = False

    def __enter__(self):
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def flows(self, count: int = 200, timeout: float = 15.0) -> None:
        """Wait for ``count`` more results, and until every client has received an event published from now on."""
        answered = self._answered()
        started = len(self.clients[0].publications)
        eventually(lambda: self._answered() >= answered + count, timeout, f"{count} more results")
        eventually(
            lambda: all(client.events and client.events[-1] > started for client in self.clients),
            timeout,
            "events at all clients",
        )

    def stop(self) -> None:
        """Stop sending, and wait until no request is in flight. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        for client in self.clients:
            client.stopping = True
        gevent.joinall([self._publisher, *(loop for client in self.clients for loop in client.loops)])
        for client in self.clients:
            client.close()

    def counts(self) -> Counts:
        """Stop, check the invariants, and return the counts.

        No websocket was lost, and none received a response for another one. Every request has exactly one ACK or NACK.
        A call has at most one result, the right one, and none if it was refused. Events arrive once and in order.
        """
        self.stop()
        for client in self.clients:
            assert client.faults == []
            assert client.events == sorted(set(client.events))
            for request in client.calls + client.publications:
                assert request.answers in ([ACK], [NACK])
            for call in client.calls:
                assert call.results in ([], [call.expected])
                assert call.acknowledged or not call.results
        calls = [call for client in self.clients for call in client.calls]
        acknowledged = sum(call.acknowledged for call in calls)
        answered = sum(len(call.results) for call in calls)
        counts = Counts(
            calls=len(calls),
            acknowledged=acknowledged,
            refused=len(calls) - acknowledged,
            answered=answered,
            expired=acknowledged - answered,
            published=sum(publication.acknowledged for publication in self.clients[0].publications),
            events=min(len(client.events) for client in self.clients),
        )
        print(counts)
        return counts

    def _answered(self) -> int:
        return sum(len(call.results) for client in self.clients for call in client.calls)

    def _publish(self) -> None:
        publisher = self.clients[0]
        while not self._stopped:
            publisher.publish(len(publisher.publications) + 1)
            gevent.sleep(PAUSE)
