"""Events that wait to be read: the bounded queue of a subscription, and its policy when it is full. PURE."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

from juggler.errors import CloseCode, ConnectionClosed, JugglerError
from juggler.protocol.codec import decode_args
from juggler.protocol.messages import Evnt

WhenFull: TypeAlias = Literal["drop_oldest", "drop_newest", "end"]
"""Policy of a subscription for an event that arrives while its queue is full."""


@dataclass(frozen=True)
class Event:
    """A publication that a subscription received.

    Attributes:
        channel: channel on which it was published.
        pattern: pattern that matched, empty for a subscription to the channel itself.
        uuid: UUID of the PUB.
        json: published value as JSON text.
        trace: W3C traceparent of the publication; empty without one.
    """

    channel: str
    pattern: str
    uuid: str
    json: bytes
    trace: str = ""

    @cached_property
    def args(self) -> Any:
        """Published value, decoded on first access. Raises `InvalidValue` if it has no Python value."""
        return decode_args(self.json)


class EventQueue:
    """The events of a subscription. Clients add the waiting.

    Attributes:
        channel: channel or pattern of the subscription.
        pattern: whether it is a pattern.
        dropped: number of events dropped because the queue was full.
        gaps: number of times that events may be missing, after a reconnect or a report of the server.
        gap_callback: function to be called at each gap.
    """

    def __init__(
        self,
        channel: str,
        pattern: bool,
        max_events: int,
        when_full: WhenFull,
        gap_callback: Callable[[], None] | None = None,
    ) -> None:
        """Create an empty queue for at most ``max_events``.

        Raises:
            ValueError: an argument is out of range.
        """
        if max_events < 1:
            raise ValueError(f"max_events: expected at least 1, got {max_events}")
        if when_full not in get_args(WhenFull):
            raise ValueError(f"when_full: expected one of {', '.join(get_args(WhenFull))}, got {when_full!r}")
        self.channel = channel
        self.pattern = pattern
        self.dropped = 0
        self.gaps = 0
        self.gap_callback = gap_callback
        self._events: deque[Event] = deque()
        self._ended: JugglerError | None = None
        self._max_events = max_events
        self._when_full: WhenFull = when_full

    @property
    def is_readable(self) -> bool:
        """Whether `take` returns or raises at once."""
        return bool(self._events) or self._ended is not None

    def on_event(self, event: Evnt) -> bool:
        """Add an event. Return False if the queue was full and has ended: the subscription must end too."""
        if self._ended is not None:
            return True
        if len(self._events) >= self._max_events:
            self.dropped += 1
            if self._when_full == "drop_newest":
                return True
            if self._when_full == "end":
                self._ended = ConnectionClosed(CloseCode.PEER_TOO_SLOW, f"{self._max_events} events wait to be read")
                return False
            self._events.popleft()
        self._events.append(Event(event.channel, event.pattern, event.for_, event.args, event.trace))
        return True

    def on_end(self, error: JugglerError) -> None:
        """End the queue: no more events follow. The first reason counts."""
        self._ended = self._ended or error

    def take(self) -> Event:
        """Remove and return the oldest event of a queue that `is_readable`. After the last one, raise why it closed."""
        if self._events:
            return self._events.popleft()
        assert self._ended is not None
        if isinstance(self._ended, ConnectionClosed):  # each reader raises an exception of its own
            raise ConnectionClosed(self._ended.code, self._ended.reason)
        raise self._ended
