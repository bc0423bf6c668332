"""A juggler client that records and times all its messages. Independent of locust."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gevent

from juggler.client import Client, State
from juggler.client.state import Exp
from juggler.errors import CallFailed, Expired, JugglerError, Nacked
from juggler.protocol.codec import decode_args, decode_request, encode
from juggler.protocol.messages import Ack, Call, Evnt, Nack, Res, Response, Wlcm
from juggler.protocol.results import result_value
from loadtest.locust.book import Book
from loadtest.locust.request_checks import Entry, Expect, Fate, anything

SENT_AT = "sent_at"
"""Member of an event's args: time of publication in seconds since 1970. The clocks of all machines have to agree."""


class Measure(NamedTuple):
    """A timed operation.

    Attributes:
        kind: CALL (to its result), ACK (of a call), EXPIRED, PUB, SUB, UNSB (to their ACK) or EVNT (from its
            publication).
        name: URI or channel.
        seconds: duration; None if unknown.
        size: size of the message in bytes.
        error: why it failed; None if it did not.
    """

    kind: str
    name: str
    seconds: float | None
    size: int
    error: JugglerError | None = None


class RecordingClient(Client):
    """A client with a book. It does not reconnect, so that a lost connection is noticed."""

    def __init__(
        self,
        url: str,
        book: Book,
        report: Callable[[Measure], None] = lambda measure: None,
        expect: Expect = anything,
        **options: Any,
    ) -> None:
        """Connect.

        Args:
            url: URL of the server.
            book: book of the process.
            report: called with each timed operation; must not block.
            expect: returns the result that a call must have, or its fate.
            options: options of `juggler.client.Client`.

        Raises:
            JugglerError: see `juggler.client.Client`.
        """
        self._book = book
        self._report = report
        self._expect = expect
        self._closing = False
        self.number = 0
        hooks = {"on_message": self._on_book, "on_state": self._note_state, "on_raw": self._note_raw}
        super().__init__(url, reconnect=False, **hooks, **options)

    def _note_raw(self, direction: str, message: str | bytes) -> None:
        # Before it is written: the response may arrive at once.
        if direction == "out" and isinstance(message, str):
            request = decode_request(message)
            expected = self._expect(request) if isinstance(request, Call) else None
            self._book.sent(self.number, request, time.monotonic(), expected)

    def _on_book(self, message: Response | Exp) -> None:
        now = time.monotonic()
        entry = self._book.received(self.number, message, now)
        measure = self._measured(message, entry, now)
        if measure is not None:
            self._report(measure)

    def _note_state(self, state: State, error: JugglerError | None) -> None:
        if state is State.CONNECTED:
            self.number = self._book.connected(time.monotonic())
        elif state is State.CLOSED and not self._closing:
            self._book.lost(self.number, time.monotonic(), str(error))

    def _measured(self, message: Response | Exp, entry: Entry | None, now: float) -> Measure | None:
        size = 0 if isinstance(message, Exp) else len(encode(message))
        if isinstance(message, Wlcm):
            return None
        if isinstance(message, Evnt):
            return Measure("EVNT", message.channel, age(message.args), size)
        seconds = now - entry.sent_at if entry else None
        kind = entry.type if entry else "?"
        name = entry.name if entry else ""
        if isinstance(message, Nack):
            return Measure(kind, name, seconds, size, Nacked(message.code, message.message))
        if isinstance(message, Res):
            return Measure("CALL", message.uri, seconds, size, _failure(message))
        if isinstance(message, Exp):
            meant = entry is not None and entry.expected is Fate.EXPIRES
            return Measure("EXPIRED", message.uri, seconds, 0, None if meant else Expired("no result in time"))
        return Measure("ACK" if isinstance(message, Ack) and kind == "CALL" else kind, name, seconds, size)

    def settle(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until no request is in flight, and return whether that is so."""
        deadline = time.monotonic() + timeout
        while self._book.unanswered(self.number) and self.closed is None and time.monotonic() < deadline:
            gevent.sleep(0.02)
        return not self._book.unanswered(self.number)

    def close(self, *args: Any, **kwargs: Any) -> None:
        began, first = time.monotonic(), not self._closing
        self._closing = True
        super().close(*args, **kwargs)
        if first:
            # Events may arrive until the server has noticed it.
            self._book.closed(self.number, began, time.monotonic())


def age(args: bytes) -> float | None:
    """Return the seconds since an event was published; None if its args have no time."""
    if b"sent_at" not in args:
        return None
    value = decode_args(args)
    sent_at = value.get(SENT_AT) if isinstance(value, dict) else None
    return max(0.0, time.time() - sent_at) if isinstance(sent_at, (int, float)) else None


def stamped(**members: Any) -> dict[str, Any]:
    """Return args for an event with the current time."""
    return {SENT_AT: time.time(), **members}


def _failure(res: Res) -> JugglerError | None:
    if res.failed is None and not res.args.startswith(b'{"error"'):
        return None
    try:
        result_value(res)
    except CallFailed as error:
        return error
    return None
