"""The two ledgers of a process: calls that await their results, and subscriptions. Each broker owns one of each.

PURE: time is an argument. Nothing here knows how calls and events travel.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

from juggler.broker import MARK, Done, PendingCall, Subscriber
from juggler.errors import BrokerError, BrokerUnavailable, CapacityExceeded, NackCode

Key = TypeVar("Key", bound=Hashable)


class _Owned:
    """Pending calls of an owner, the bytes of their arguments, and what their identifiers have in common."""

    __slots__ = ("calls", "size", "suffix")

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix
        self.calls: set[PendingCall] = set()
        self.size = 0


class CallLedger:
    """Pending calls by identifier and by owner; `get` returns the one with an identifier.

    Identifiers are UUIDs of version 8: a number that counts up, so that they are in the order of the calls, a mark, and
    what `juggler.broker.client_of` finds, the number of the owner and the name of the ledger.

    Attributes:
        name: distinguishes this ledger from others; 9 hexadecimal digits.
        latest: identifier of the call that was entered last; empty before.
    """

    __slots__ = ("_by_id", "_count", "_of", "_owners", "_size_of", "_uri_bytes", "get", "latest", "name")

    def __init__(self, uri_bytes: int = 0) -> None:
        """Create an empty ledger for ``uri_bytes`` bytes of arguments per URI; 0 means unlimited."""
        self._by_id: dict[str, PendingCall] = {}
        self._of: dict[object, _Owned] = {}
        self._size_of: dict[str, int] = {}  # of the pending calls of each URI
        self._uri_bytes = uri_bytes
        self._owners = 0
        self._count = 0
        self.name = "0" * 9
        self.latest = ""
        self.get = self._by_id.get  # used for each call: no Python function in between

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, call: PendingCall) -> bool:
        return call.call_id in self._by_id

    def add(
        self,
        call: PendingCall,
        uri: str,
        deadline: float,
        size: int = 0,
        limit: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """Enter a call before it is stored. A call that is larger than a limit is entered if it is the only one.

        Args:
            call: the call.
            uri: URI of the function.
            deadline: when the call expires, in seconds on the broker's clock.
            size: bytes of its arguments.
            limit: maximum calls in flight of its owner. ``None`` = unlimited.
            max_bytes: maximum bytes of arguments of its owner's calls in flight. ``None`` = unlimited.

        Raises:
            CapacityExceeded: the calls in flight to the URI have too many bytes of arguments.
            BrokerError: the owner has reached a limit; code 429.
        """
        owned = self._of.get(call.owner)
        if owned is None:
            self._owners += 1
            high, low = self._owners >> 12 & 0xFFF, self._owners & 0xFFF
            owned = self._of[call.owner] = _Owned(f"{MARK}8{low:03x}-{high:03x}{self.name}")
        elif limit is not None and len(owned.calls) >= limit:
            raise BrokerError(f"{len(owned.calls)} calls are in flight already", NackCode.TOO_MANY_REQUESTS)
        elif max_bytes is not None and owned.size and owned.size + size > max_bytes:
            reason = f"calls with {owned.size} bytes of args are in flight already, expected at most {max_bytes}"
            raise BrokerError(reason, NackCode.TOO_MANY_REQUESTS)
        uri_size = self._size_of.get(uri, 0)
        if uri_size and 0 < self._uri_bytes < uri_size + size:
            raise CapacityExceeded
        self._size_of[uri] = uri_size + size
        owned.calls.add(call)
        owned.size += size
        count = self._count = self._count + 1
        digits = count.to_bytes(6, "big").hex()
        call_id = call.call_id = self.latest = f"{digits[:8]}-{digits[8:]}{owned.suffix}"
        call.uri = uri
        call.deadline = deadline
        call.size = size
        call.stored = False
        call.early_result = None
        self._by_id[call_id] = call

    def remove(self, call: PendingCall) -> bool:
        """Remove a call that completed, failed, expired or was abandoned. Return whether it was pending."""
        if self._by_id.pop(call.call_id, None) is None:
            return False
        owned = self._of[call.owner]
        owned.calls.discard(call)
        owned.size -= call.size
        size = self._size_of.get(call.uri, 0) - call.size
        if size > 0:
            self._size_of[call.uri] = size
        else:
            self._size_of.pop(call.uri, None)
        return True

    def in_flight(self, owner: object) -> int:
        """Return how many calls of an owner are pending."""
        owned = self._of.get(owner)
        return 0 if owned is None else len(owned.calls)

    def calls_of(self, owner: object) -> list[PendingCall]:
        """Return the pending calls of an owner."""
        owned = self._of.get(owner)
        return [] if owned is None else list(owned.calls)

    def abandon(self, owner: object) -> list[PendingCall]:
        """Remove and return all calls of an owner that has gone. Idempotent."""
        owned = self._of.get(owner)
        if owned is None:
            return []
        calls = list(owned.calls)
        for call in calls:
            self.remove(call)
        del self._of[owner]
        return calls

    def oldest(self) -> PendingCall | None:
        """Return the call that was entered first, or ``None``."""
        return next(iter(self._by_id.values()), None)

    def overdue(self, now: float) -> list[PendingCall]:
        """Return the stored calls whose deadline has passed, oldest first."""
        return [call for call in self._by_id.values() if call.stored and call.deadline <= now]

    def clear(self) -> None:
        """Remove all calls."""
        self._by_id.clear()
        self._of.clear()
        self._size_of.clear()


class Waiting(NamedTuple):
    """A subscriber that waits for the broker's confirmation of a topic; ``is_new`` unless it was subscribed before."""

    subscriber: Subscriber
    on_done: Done
    is_new: bool


class Topic:
    """A channel or pattern with subscribers in this process.

    Attributes:
        confirmed: whether the broker delivers its events.
        refused: whether the broker has refused it since it was confirmed: its subscribers do not have the permission.
        subscribers: in the order of their subscriptions.
        waiting: those to notify when it is confirmed or fails.
    """

    __slots__ = ("confirmed", "refused", "subscribers", "waiting")

    def __init__(self, confirmed: bool) -> None:
        self.confirmed = confirmed
        self.refused = False
        self.subscribers: dict[Subscriber, None] = {}
        self.waiting: list[Waiting] = []


class SubscriptionLedger(Generic[Key]):
    """Subscriptions by topic and by subscriber. Topics have the broker's own keys; `get` returns the one with a key.

    Attributes:
        patterns: topics that are patterns.
    """

    __slots__ = ("_is_pattern", "_of", "_topics", "get", "patterns")

    def __init__(self, is_pattern: Callable[[Key], bool] = lambda _: False) -> None:
        """Create an empty ledger; ``is_pattern`` returns whether the topic with a key is a pattern."""
        self.patterns = 0
        self._is_pattern = is_pattern
        self._topics: dict[Key, Topic] = {}
        self._of: dict[Subscriber, set[Key]] = {}
        self.get = self._topics.get  # used for each event

    def __len__(self) -> int:
        return len(self._topics)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._topics)

    def __contains__(self, key: Key) -> bool:
        return key in self._topics

    def subscribers(self, key: Key) -> list[Subscriber]:
        """Return the subscribers of a topic."""
        return list(self._topics[key].subscribers)

    def unconfirmed(self) -> list[Key]:
        """Return the topics that are not confirmed."""
        return [key for key, topic in self._topics.items() if not topic.confirmed]

    def pending(self) -> int:
        """Return how many of them are not refused either."""
        return sum(not topic.confirmed and not topic.refused for topic in self._topics.values())

    def unconfirm(self, keys: Iterable[Key]) -> bool:
        """Mark topics as not confirmed. Return whether any of them was."""
        topics = [self._topics[key] for key in keys]
        was_confirmed = any(topic.confirmed for topic in topics)
        for topic in topics:
            topic.confirmed = False
        return was_confirmed

    def has(self, key: Key, subscriber: Subscriber) -> bool:
        """Return whether a subscriber is subscribed to a topic, confirmed or not."""
        return key in self._of.get(subscriber, ())

    def of(self, subscriber: Subscriber) -> list[Key]:
        """Return the topics that a subscriber is subscribed to, confirmed or not."""
        return list(self._of.get(subscriber, ()))

    def count(self, subscriber: Subscriber) -> int:
        """Return the number of subscriptions of a subscriber."""
        return len(self._of.get(subscriber, ()))

    def pattern_count(self, subscriber: Subscriber) -> int:
        """Return how many of them are patterns."""
        return sum(map(self._is_pattern, self._of.get(subscriber, ())))

    def check_patterns(self, capacity: int) -> None:
        """Check that there is room for another pattern; a capacity of 0 means unlimited.

        Raises:
            BrokerError: there is none; code 429.
        """
        if 0 < capacity <= self.patterns:
            reason = f"{self.patterns} patterns of all connections exist already"
            raise BrokerError(reason, NackCode.TOO_MANY_REQUESTS)

    def add(self, key: Key, subscriber: Subscriber, on_done: Done, *, confirmed: bool = False) -> None:
        """Add a subscription, and call ``on_done`` once its topic is confirmed or has failed.

        Args:
            key: key of the topic.
            subscriber: the subscriber; adding it twice is no error.
            on_done: called at once if the topic is confirmed.
            confirmed: whether a new topic needs no confirmation.
        """
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic(confirmed)
            self.patterns += self._is_pattern(key)
        is_new = subscriber not in topic.subscribers
        topic.subscribers[subscriber] = None
        self._of.setdefault(subscriber, set()).add(key)
        if topic.confirmed:
            on_done(None)
        else:
            topic.waiting.append(Waiting(subscriber, on_done, is_new))

    def remove(self, key: Key, subscriber: Subscriber) -> bool:
        """Remove a subscription. Return whether its topic has gone with it.

        A subscriber that waits for the confirmation of this topic is notified of success.
        """
        topic = self._topics.get(key)
        if topic is None or subscriber not in topic.subscribers:
            return False
        is_last = self._discard(key, topic, subscriber)
        own = [entry for entry in topic.waiting if entry.subscriber is subscriber]
        topic.waiting = [entry for entry in topic.waiting if entry.subscriber is not subscriber]
        for entry in own:
            entry.on_done(None)
        return is_last

    def remove_all(self, subscriber: Subscriber) -> list[Key]:
        """Remove all subscriptions of a subscriber. Return the topics that have gone with them."""
        return [key for key in tuple(self._of.get(subscriber, ())) if self.remove(key, subscriber)]

    def confirm(self, key: Key) -> bool:
        """Mark a topic as confirmed and notify those who wait. Return whether it was refused before."""
        topic = self._topics.get(key)
        if topic is None:
            return False
        was_refused = topic.refused
        topic.confirmed, topic.refused = True, False
        waiting, topic.waiting = topic.waiting, []
        for entry in waiting:
            entry.on_done(None)
        return was_refused

    def fail(self, key: Key, error: BrokerError) -> None:
        """Notify those who wait for a topic of an error. New subscriptions are removed, earlier ones stay."""
        topic = self._topics.get(key)
        if topic is None:
            return
        topic.refused = topic.refused or not isinstance(error, BrokerUnavailable)
        waiting, topic.waiting = topic.waiting, []
        for entry in waiting:
            if entry.is_new and entry.subscriber in topic.subscribers:
                self._discard(key, topic, entry.subscriber)
        for entry in waiting:
            entry.on_done(error)

    def _discard(self, key: Key, topic: Topic, subscriber: Subscriber) -> bool:
        del topic.subscribers[subscriber]
        keys = self._of[subscriber]
        keys.discard(key)
        if not keys:
            del self._of[subscriber]
        if not topic.subscribers:
            del self._topics[key]
            self.patterns -= self._is_pattern(key)
        return not topic.subscribers

    def clear(self) -> None:
        """Remove all subscriptions, without notifying."""
        self._topics.clear()
        self._of.clear()
        self.patterns = 0
