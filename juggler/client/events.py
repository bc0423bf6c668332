"""Events on their way to whoever reads a subscription: a bounded queue, and what happens when it is full. PURE."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

from juggler.errors import CloseCode, ConnectionClosed, JugglerError
from juggler.protocol.codec import decode_args
from juggler.protocol.messages import Evnt

WhenFull: TypeAlias = Literal["drop_oldest", "drop_newest", "end"]
"""What happens to a subscription whose queue is full when an event comes."""


@dataclass(frozen=True)
class Event:
    """A publication that a subscription received.

    Attributes:
        channel: the channel on which it was published.
        pattern: the pattern that matched, empty for a subscription to the channel itself.
        uuid: UUID of the PUB that caused it.
        json: what was published, as JSON text.
    """

    channel: str
    pattern: str
    uuid: str
    json: bytes

    @cached_property
    def args(self) -> Any:
        """What was published, decoded when first asked for. Raises `InvalidValue` when it has no Python value."""
        return decode_args(self.json)


class EventQueue:
    """The events that wait for their reader.

    Attributes:
        dropped: number of events dropped so far.
        gaps: how often events may have been missed, as the connection was lost.
        ended: why no more events come; ``None`` while they may.
    """

    def __init__(self, max_events: int, when_full: WhenFull) -> None:
        """Make an empty queue for at most ``max_events``.

        Raises:
            ValueError: an argument is out of its range.
        """
        if max_events < 1:
            raise ValueError(f"max_events: expected at least 1, got {max_events}")
        if when_full not in get_args(WhenFull):
            raise ValueError(f"when_full: expected one of {', '.join(get_args(WhenFull))}, got {when_full!r}")
        self.dropped = 0
        self.gaps = 0
        self.ended: JugglerError | None = None
        self._events: deque[Event] = deque()
        self._max_events = max_events
        self._when_full: WhenFull = when_full

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: Evnt) -> bool:
        """Take an event. Return False when that was too much: the subscription is to end."""
        if self.ended is not None:
            return True
        if len(self._events) >= self._max_events:
            self.dropped += 1
            if self._when_full == "drop_newest":
                return True
            if self._when_full == "end":
                self.end(ConnectionClosed(CloseCode.PEER_TOO_SLOW, f"{self._max_events} events wait to be read"))
                return False
            self._events.popleft()
        self._events.append(Event(event.channel, event.pattern, event.for_, event.args))
        return True

    def end(self, error: JugglerError) -> None:
        """No more events come. The first reason counts."""
        self.ended = self.ended or error

    def get(self) -> Event | None:
        """Return the oldest event, ``None`` when there is none yet.

        Raises:
            JugglerError: there will be none any more; that of `end`.
        """
        if self._events:
            return self._events.popleft()
        if isinstance(self.ended, ConnectionClosed):
            raise ConnectionClosed(self.ended.code, self.ended.reason)
        if self.ended is not None:
            raise self.ended
        return None
