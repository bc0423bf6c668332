"""Callbacks of a broker that record their calls, for tests to check."""

from __future__ import annotations

from typing import Any

import gevent

from juggler.broker import CallConsumer, Event, IncomingCall, PendingCall, Subscriber
from juggler.errors import BrokerError
from tests.support import eventually


class RecordedCall(PendingCall):
    """A pending call that records ``("stored", error)``, ``("result", args)`` and so on, in order."""

    def __init__(self) -> None:
        self.owner = None
        self.told: list[tuple[Any, ...]] = []
        self.failed: bool | None = None

    def on_stored(self, error: BrokerError | None) -> None:
        self.told.append(("stored", error))

    def on_result(self, args: bytes, failed: bool | None) -> None:
        self.failed = failed
        self.told.append(("result", args))

    def on_expired(self) -> None:
        self.told.append(("expired",))

    def on_part(self, seq: int, args: bytes, joined: bool) -> None:
        self.told.append(("part", seq, args, joined))

    def on_unqueued(self) -> None:
        self.told.append(("unqueued",))

    def wait(self, count: int) -> list[tuple[Any, ...]]:
        """Return the records, once there are ``count`` or more."""
        eventually(lambda: len(self.told) >= count, message=f"{count} of {self.told}")
        return self.told


class Outcome:
    """An ``on_done`` callback that records its calls."""

    def __init__(self) -> None:
        self.told: list[BrokerError | None] = []

    def __call__(self, error: BrokerError | None) -> None:
        self.told.append(error)

    def wait(self) -> BrokerError | None:
        """Return the recorded error or None, once called; more than one call fails."""
        eventually(lambda: self.told, message="on_done")
        (error,) = self.told
        return error


class RecordedSubscriber(Subscriber):
    """A subscriber that records its events, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    @property
    def seen(self) -> list[tuple[str, str, bytes]]:
        return [(event.channel, event.pattern, event.args) for event in self.events]

    def wait(self, count: int) -> list[tuple[str, str, bytes]]:
        """Return ``(channel, pattern, args)`` of each event, once there are ``count`` or more."""
        eventually(lambda: len(self.events) >= count, message=f"{count} of {self.events}")
        return self.seen


def pop_all(consumer: CallConsumer, count: int, limit: int = 100) -> list[IncomingCall]:
    """Pop until there are ``count`` calls."""
    popped: list[IncomingCall] = []
    with gevent.Timeout(30):
        while len(popped) < count:
            popped += consumer.pop(limit)
    return popped
