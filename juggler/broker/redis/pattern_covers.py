"""Match events against patterns in this process instead of in Redis.

Redis matches each publication against every pattern, however costly, and sends an event once for each that matches.
So this process subscribes to patterns of its own, its *covers*: each is the literal beginning of patterns, and ``*``.
No cover begins with another one, so that an event matches at most one.

Covers change with the patterns: ``a*`` takes over the patterns of ``ab*``, and leaves them when it is no longer needed.
Meanwhile both receive the events, and each pattern gets those of one cover. Redis confirms a subscription in the order
of the events, so that none is lost or delivered twice.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import gevent

from juggler.broker.redis.event_receiver import EventReceiver, Ledger, TopicKey, TopicState
from juggler.errors import BrokerError, BrokerUnavailable
from juggler.protocol.glob import Glob, compiled, escape

MOST_CHANNELS = 256
"""Channels of a cover for which the matching patterns are remembered."""

STEP = 64
"""Patterns that are matched before other greenlets run."""

OnMatches: TypeAlias = Callable[[Sequence[bytes], bytes, bytes], None]
"""Called with the patterns that match, the channel and the payload of an event."""


class Cover:
    """A pattern in Redis, and the patterns whose events it receives.

    Attributes:
        prefix: beginning of the channels.
        confirmed: whether Redis delivers its events.
        refused: whether Redis has refused it.
        patterns: patterns that get its events.
        joining: patterns of another cover that this one takes over once it is confirmed.
        matching: patterns that match a channel, for recent ones; replaced when the patterns change.
    """

    __slots__ = ("confirmed", "joining", "matching", "patterns", "prefix", "refused")

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.confirmed = False
        self.refused = False
        self.patterns: dict[bytes, Glob] = {}
        self.joining: set[bytes] = set()
        self.matching: dict[bytes, tuple[bytes, ...]] = {}

    @property
    def key(self) -> TopicKey:
        """Its topic in Redis."""
        return True, escape(self.prefix) + b"*"

    @property
    def is_needed(self) -> bool:
        """Whether one of its patterns has no longer beginning."""
        return any(glob.prefix == self.prefix for glob in self.patterns.values())


class PatternCovers:
    """Translates the topics of a process, its channels and patterns, to those in Redis: its channels and covers.

    For the receiver, it is the ledger of topics in Redis. Channels pass through.

    Attributes:
        receiver: subscribes in Redis; to be set before anything else.
    """

    receiver: EventReceiver

    def __init__(self, topics: Ledger, on_matches: OnMatches) -> None:
        """Create it without patterns; ``topics`` are those of the process."""
        self._topics = topics
        self._on_matches = on_matches
        self._covers: dict[bytes, Cover] = {}  # by prefix
        self._prefixes: list[bytes] = []  # sorted
        self._by_key: dict[TopicKey, Cover] = {}
        self._of: dict[bytes, Cover] = {}  # by pattern
        self._joins: dict[bytes, Cover] = {}  # by pattern: which one will take it over
        self._is_tidy = True

    # Topics of the process

    def subscribe(self, key: TopicKey) -> bool:
        """Subscribe to a new topic, and return whether it is confirmed already. Otherwise the ledger will know.

        Raises:
            BrokerUnavailable: there is no connection.
            BrokerError: the topic is not supported.
        """
        is_pattern, name = key
        if not is_pattern:
            self.receiver.subscribe(key)
            return False
        glob = compiled(name)
        cover = self._cover_of(glob.prefix)
        if cover is None:
            cover = self._add(glob.prefix)
        elif not cover.confirmed:
            self.receiver.expect(cover.key)
        self._assign(name, glob, cover)
        return cover.confirmed

    def unsubscribe(self, key: TopicKey) -> None:
        """Unsubscribe from a topic, if there is a connection."""
        is_pattern, name = key
        if not is_pattern:
            self.receiver.unsubscribe(key)
        elif name in self._of:
            self._leave(name, self._of.pop(name))
            self._unjoin(name)

    def expect(self, key: TopicKey) -> None:
        """Ensure that an unconfirmed topic will be confirmed or fail.

        Raises:
            BrokerUnavailable: there is no connection.
        """
        cover = self._of.get(key[1]) if key[0] else None
        self.receiver.expect(key if cover is None else cover.key)

    def tidy(self) -> None:
        """Replace covers that are refused, broader than their patterns need, or longer than others.

        To be called from time to time.

        Raises:
            BrokerUnavailable: there is no connection.
        """
        if self._is_tidy:
            return
        self._is_tidy = True
        for cover in list(self._covers.values()):
            if cover.refused or (cover.confirmed and not cover.is_needed):
                self._narrow(cover)
            elif cover.confirmed and self._longer(cover):
                # Patterns change covers only at a confirmation: otherwise, one copy of an event may have arrived.
                self.receiver.subscribe(cover.key)

    def _cover_of(self, prefix: bytes) -> Cover | None:
        """Return the cover for a prefix, if there is one."""
        for length in range(len(prefix)):
            cover = self._covers.get(prefix[:length])
            if cover is not None and not cover.refused:
                return cover
        return self._covers.get(prefix)

    def _add(self, prefix: bytes) -> Cover:
        cover = Cover(prefix)
        self.receiver.subscribe(cover.key)
        self._covers[prefix] = self._by_key[cover.key] = cover
        insort(self._prefixes, prefix)
        return cover

    def _assign(self, name: bytes, glob: Glob, cover: Cover) -> None:
        former = self._of.get(name)
        self._is_tidy = False
        self._of[name] = cover
        cover.patterns[name] = glob
        cover.matching = {}
        self._unjoin(name)
        if former is not None and former is not cover:
            self._leave(name, former)

    def _unjoin(self, name: bytes) -> None:
        cover = self._joins.pop(name, None)
        if cover is not None:
            cover.joining.discard(name)
            if self._drop_if_empty(cover):
                self.receiver.unsubscribe(cover.key)

    def _leave(self, name: bytes, cover: Cover) -> None:
        del cover.patterns[name]
        cover.matching = {}
        self._is_tidy = False
        if self._drop_if_empty(cover):
            self.receiver.unsubscribe(cover.key)

    def _drop_if_empty(self, cover: Cover) -> bool:
        """Remove a cover without patterns. Return whether it was removed."""
        if cover.patterns or cover.joining or self._by_key.pop(cover.key, None) is None:
            return False
        del self._covers[cover.prefix]
        del self._prefixes[bisect_left(self._prefixes, cover.prefix)]
        return True

    def _longer(self, cover: Cover) -> list[Cover]:
        """Return the other covers that begin with one."""
        found = []
        for index in range(bisect_right(self._prefixes, cover.prefix), len(self._prefixes)):
            prefix = self._prefixes[index]
            if not prefix.startswith(cover.prefix):
                break
            found.append(self._covers[prefix])
        return found

    def _narrow(self, cover: Cover) -> None:
        longer = {name: glob for name, glob in cover.patterns.items() if glob.prefix != cover.prefix}
        prefixes = {glob.prefix for glob in longer.values()}
        for name, glob in longer.items():
            starts = (glob.prefix[:length] for length in range(len(glob.prefix) + 1))
            prefix = next(start for start in starts if start in prefixes)
            narrow = self._covers.get(prefix)
            if narrow is None:
                narrow = self._add(prefix)
                narrow.refused = cover.refused  # so that it is not logged once more
            elif not narrow.joining:
                self.receiver.subscribe(narrow.key)
            if self._joins.get(name) is not narrow:
                self._unjoin(name)
                narrow.joining.add(name)
                self._joins[name] = narrow

    # The ledger of the receiver

    def __iter__(self) -> Iterator[TopicKey]:
        yield from [key for key in self._topics if not key[0]]
        yield from list(self._by_key)

    def __contains__(self, key: TopicKey) -> bool:
        return key in (self._by_key if key[0] else self._topics)

    def get(self, key: TopicKey) -> TopicState | None:
        """Return the state of a topic in Redis."""
        return self._by_key.get(key) if key[0] else self._topics.get(key)

    def unconfirm(self, keys: Iterable[TopicKey]) -> bool:
        """Mark topics as not confirmed. Return whether any of them was."""
        affected = []
        for key in keys:
            if key[0]:
                self._by_key[key].confirmed = False
                affected += [(True, name) for name in self._by_key[key].patterns]
            else:
                affected.append(key)
        return self._topics.unconfirm(affected)

    def confirm(self, key: TopicKey) -> bool:
        """Mark a topic as confirmed. Return whether it was refused before."""
        if not key[0]:
            return self._topics.confirm(key)
        cover = self._by_key.get(key)
        if cover is None:
            return False
        cover.confirmed, cover.refused = True, False
        for name in list(cover.joining):
            self._assign(name, compiled(name), cover)
        if cover.is_needed:
            for longer in self._longer(cover):
                for name, glob in list(longer.patterns.items()):
                    self._assign(name, glob, cover)
        return sum(self._topics.confirm((True, name)) for name in list(cover.patterns)) > 0

    def fail(self, key: TopicKey, error: BrokerError) -> None:
        """Notify those who wait for a topic of an error. New subscriptions are removed, earlier ones stay."""
        if not key[0]:
            self._topics.fail(key, error)
            return
        cover = self._by_key.get(key)
        if cover is None:
            return
        if not isinstance(error, BrokerUnavailable):
            cover.refused = True
            self._is_tidy = False
            for name in cover.joining:
                del self._joins[name]
            cover.joining.clear()
        for name in list(cover.patterns):
            self._topics.fail((True, name), error)
            if (True, name) not in self._topics and name in cover.patterns:
                del self._of[name], cover.patterns[name]
                self._unjoin(name)
        self._drop_if_empty(cover)  # Redis has no subscription

    # Events

    def on_event(self, name: bytes, channel: bytes, payload: bytes) -> None:
        """Pass on an event that Redis has delivered for a pattern, to the patterns of the process that match."""
        cover = self._by_key.get((True, name))
        if cover is None or not cover.confirmed:
            return
        matching = cover.matching.get(channel)
        if matching is None:
            matching = self._matching(cover, channel)
        if matching:
            self._on_matches(matching, channel, payload)

    def _matching(self, cover: Cover, channel: bytes) -> tuple[bytes, ...]:
        remembered = cover.matching
        found = []
        for number, (name, glob) in enumerate(list(cover.patterns.items()), 1):
            if glob.matches(channel):
                found.append(name)
            if number % STEP == 0:
                gevent.sleep(0)  # patterns may change meanwhile
        matching = tuple(found)
        if len(remembered) >= MOST_CHANNELS:
            remembered.clear()
        remembered[channel] = matching
        return matching
