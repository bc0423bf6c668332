"""A juggler client that records and times all its messages. Independent of locust."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import gevent

from juggler.client import Client, State
from juggler.client.state import Exp
from juggler.errors import CallFailed, ConnectionClosed, Expired, JugglerError, Nacked
from juggler.locust.book import Book
from juggler.locust.request_checks import CANCELLED, NOT_IN_FLIGHT, Entry, Expect, Fate, anything
from juggler.protocol.codec import REQUESTS_1, decode_args, decode_request
from juggler.protocol.custom import registered_types
from juggler.protocol.messages import (
    ALL_REQUEST_TYPES,
    Call,
    Cncl,
    CustomType,
    Ends,
    Evnt,
    Nack,
    Part,
    Request,
    Res,
    Response,
)
from juggler.protocol.results import result_value

SENT_AT = "sent_at"
"""Member of an event's args: time of publication in seconds since 1970. The clocks of all machines have to agree."""

MAX_MESSAGE = 200
"""Characters of the message of an error in the statistics."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

ExpectedError: TypeAlias = "str | int | type[JugglerError]"
"""An error that is no failure: the type or the code of a failed call, the code of a NACK, or a class."""


class Measure(NamedTuple):
    """A timed operation.

    Attributes:
        kind: CALL (to the result), PART (to the first part), STREAM (to the result, of a call with parts), EXPIRED,
            CANCEL, PUB, SUB, UNSB, AUTH (to the ACK), EVNT (from the publication) or ENDS (the server cancelled a
            subscription).
        name: URI or channel; with the error in brackets if it is an expected one.
        seconds: duration; None if unknown.
        size: size of the message in bytes, of a STREAM that of all its parts.
        error: why it failed; None if it did not.
    """

    kind: str
    name: str
    seconds: float | None
    size: int
    error: JugglerError | None = None


class FailedCall(CallFailed):
    """A `CallFailed` whose representation, by which locust groups failures, has its type and code, and no UUID."""

    def __repr__(self) -> str:
        code = "" if self.code is None else f", code={self.code!r}"
        return f"{self.type or 'CallFailed'}({_UUID.sub('…', self.message)[:MAX_MESSAGE]!r}{code})"


class RecordingClient(Client):
    """A `juggler.client.Client` with a book. It does not reconnect, so that a lost connection is noticed.

    Attributes:
        number: number of its connection in the book.
        expected: errors of the requests from now on that are no failures. Default: none.
    """

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
        self._requests = frozenset({*ALL_REQUEST_TYPES, *(each for each in registered_types() if each.is_request)})
        self._size = 0
        self.number = 0
        self.expected: tuple[ExpectedError, ...] = ()
        hooks: dict[str, Any] = {"on_message": self._on_book, "on_state": self._note_state, "on_raw": self._note_raw}
        super().__init__(url, reconnect=False, **hooks, **options)

    def _note_raw(self, direction: Literal["in", "out"], message: str | bytes) -> None:
        if direction == "in":
            self._size = len(message)
            return
        # Before it is written: the response may arrive at once.
        if isinstance(message, str):
            request = cast("Request", decode_request(message, self._requests, REQUESTS_1))
            fate = self._expect(request) if isinstance(request, Call) else None
            if fate is Fate.ANY and any(isinstance(each, type) and issubclass(Expired, each) for each in self.expected):
                fate = Fate.EITHER
            entry = self._book.sent(self.number, request, time.monotonic(), fate)
            if entry is not None:
                entry.errors = self.expected

    def _on_book(self, message: Response | Exp) -> None:
        if isinstance(getattr(message, "type", None), CustomType):
            return
        now = time.monotonic()
        # Asked first: judging may drop the publication.
        sent_at = self._book.events.sent_at(message.for_) if isinstance(message, Evnt) else None
        entry = self._book.received(self.number, message, now)
        if isinstance(message, Evnt):
            seconds = age(message.args) if sent_at is None else now - sent_at
            self._report(Measure("EVNT", message.channel, seconds, self._size))
        elif isinstance(message, Ends):
            self._report(Measure("ENDS", message.channel, None, self._size, Nacked(message.code, message.message)))
        elif entry is not None:
            self._measure(message, entry, now)

    def _note_state(self, state: State, error: JugglerError | None) -> None:
        if state is State.CONNECTED:
            self.number = self._book.connected(time.monotonic())
        elif state is State.CLOSED and not self._closing:
            now = time.monotonic()
            for entry in self._book.lost(self.number, now, str(error)):
                self._end(entry, now, error or ConnectionClosed(1006, "lost"))

    def _measure(self, message: Response | Exp, entry: Entry, now: float) -> None:
        seconds = now - entry.sent_at
        if isinstance(message, Nack):
            is_race = isinstance(entry.message, Cncl) and message.code == NOT_IN_FLIGHT  # the call has completed
            self._end(entry, now, None if is_race else Nacked(message.code, message.message))
        elif isinstance(message, Res):
            self._end(entry, now, _failure(message))
        elif isinstance(message, Exp):
            meant = entry.expected is Fate.EXPIRES
            self._end(entry, now, None if meant else Expired("no result in time"), "EXPIRED")
        elif isinstance(message, Part):
            if message.seq == 1:
                self._report(Measure("PART", entry.name, seconds, self._size))
        elif not isinstance(entry.message, Call):  # an ACK; that of a call depends on how long its result takes
            self._report(Measure(_kind(entry), entry.name, seconds, self._size))

    def _end(self, entry: Entry, now: float, error: JugglerError | None, kind: str = "") -> None:
        """Report the end of a request, which is no failure if the error is None or expected."""
        expected = _label(error, entry)
        self._report(
            Measure(
                kind or _kind(entry),
                f"{entry.name} ({expected})" if expected else entry.name,
                now - entry.sent_at,
                0 if kind else self._size + entry.size,
                None if expected else error,
            )
        )

    def settle(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until no request is in flight, and return whether that is so."""
        deadline = time.monotonic() + timeout
        while self._book.unanswered(self.number) and self.closed is None and time.monotonic() < deadline:
            gevent.sleep(0.02)
        return not self._book.unanswered(self.number)

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Close the client, see `juggler.client.Client.close`. Calls in flight are counted as unfinished."""
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
    """Return args for an event with the current time as ``sent_at``, by which other processes know its age.

    The events of a process's own users are timed without it.
    """
    return {SENT_AT: time.time(), **members}


def check_expected(errors: tuple[Any, ...]) -> tuple[ExpectedError, ...]:
    """Return errors that are no failures, see `ExpectedError`.

    Raises:
        TypeError: one is none of these.
    """
    for each in errors:
        is_class = isinstance(each, type) and issubclass(each, JugglerError)
        if not is_class and (isinstance(each, bool) or not isinstance(each, (str, int))):
            raise TypeError(f"expected the type or the code of an error, or a class of JugglerError, got {each!r}")
    return errors


def matching(error: JugglerError, expected: tuple[ExpectedError, ...]) -> str:
    """Return how the statistics name an error that is expected; empty if it is not."""
    for each in expected:
        if isinstance(each, type):
            if isinstance(error, each):
                return each.__name__
        elif isinstance(each, str):
            if isinstance(error, CallFailed) and each in (error.type, error.code):
                return each
        elif isinstance(error, (CallFailed, Nacked)) and error.code == each:
            return str(each)
    return ""


def _label(error: JugglerError | None, entry: Entry) -> str:
    if error is None:
        return ""
    if entry.cancelled and isinstance(error, CallFailed) and error.type == CANCELLED:
        return CANCELLED
    return matching(error, entry.errors)


def _kind(entry: Entry) -> str:
    if isinstance(entry.message, Cncl):
        return "CANCEL"
    return "STREAM" if isinstance(entry.message, Call) and entry.message.parts is not None else entry.type


def _failure(res: Res) -> FailedCall | None:
    if not res.failed and (res.failed is False or not res.args.startswith(b'{"error"')):
        return None
    try:
        result_value(res)
    except CallFailed as error:
        return FailedCall(error.message, error.type, error.code, error.data)
    return None
