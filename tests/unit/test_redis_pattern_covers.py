"""Patterns are matched in the process: which patterns Redis has, and that each event is delivered once."""

from __future__ import annotations

import random
from collections import Counter, deque
from operator import itemgetter

import pytest

from juggler.broker import Subscriber
from juggler.broker.ledgers import SubscriptionLedger
from juggler.broker.redis.pattern_covers import PatternCovers
from juggler.errors import BrokerError, BrokerUnavailable
from juggler.protocol.glob import matches

LOST = BrokerUnavailable("lost")


class Redis:
    """What a receiver, its connection and Redis do together, step by step. It replies in order, at any time later.

    Attributes:
        topics: what it notifies of confirmations and failures.
        subscribed: patterns of the connection in Redis.
        refuses: patterns that it refuses.
    """

    topics: PatternCovers

    def __init__(self) -> None:
        self.up = True
        self.gaps = 0
        self.subscribed: dict[bytes, None] = {}
        self.refuses: set[bytes] = set()
        self._commands: deque[tuple[str, bytes]] = deque()
        self._replies: deque[tuple] = deque()
        self._unconfirmed: Counter[bytes] = Counter()

    # As a receiver

    def subscribe(self, key):
        if not self.up:
            raise LOST
        self._commands.append(("subscribe", key[1]))
        self._unconfirmed[key[1]] += 1

    def expect(self, key):
        if not self._unconfirmed[key[1]]:
            self.subscribe(key)

    def unsubscribe(self, key):
        if self.up:
            self._commands.append(("unsubscribe", key[1]))

    def connections(self):
        return []

    def close(self):
        """Nothing to close."""

    # As Redis and its connection

    def execute(self) -> bool:
        if not self._commands:
            return False
        command, name = self._commands.popleft()
        if command == "unsubscribe":
            self.subscribed.pop(name, None)
        elif name in self.refuses:
            self._replies.append(("refused", name))
        else:
            self.subscribed[name] = None
            self._replies.append(("confirmed", name))
        return True

    def publish(self, channel: bytes, payload: bytes) -> int:
        """Return the number of copies that are sent."""
        copies = [name for name in self.subscribed if matches(name.decode(), channel.decode())]
        self._replies.extend(("event", name, channel, payload) for name in copies)
        return len(copies)

    def read(self) -> bool:
        if not self._replies:
            return False
        kind, name, *event = self._replies.popleft()
        if kind == "event":
            self.topics.on_event(name, *event)
            return True
        self._unconfirmed[name] -= 1
        if not self._unconfirmed[name]:
            if kind == "confirmed":
                self.topics.confirm((True, name))
            else:
                self.topics.fail((True, name), BrokerError("refused"))
        return True

    def settle(self) -> None:
        while self.execute() or self.read():
            pass

    def lose(self) -> None:
        self.up = False
        self.subscribed.clear()
        self._commands.clear()
        self._replies.clear()
        self._unconfirmed.clear()
        keys = list(self.topics)
        self.topics.unconfirm(keys)
        for key in keys:
            self.topics.fail(key, LOST)

    def reconnect(self) -> None:
        self.up = True
        for key in list(self.topics):
            self.subscribe(key)


class Process:
    """A process with patterns; ``events`` has what each pattern has received."""

    def __init__(self) -> None:
        self.redis = Redis()
        self.ledger = SubscriptionLedger(itemgetter(0))
        self.covers = PatternCovers(self.ledger, self.on_matches)
        self.covers.receiver = self.redis.topics = self.redis
        self.redis.topics = self.covers
        self.subscribers: dict[bytes, Subscriber] = {}
        self.told: dict[bytes, list] = {}
        self.events: dict[bytes, list[bytes]] = {}

    def on_matches(self, patterns, channel, payload):
        for name in patterns:
            topic = self.ledger.get((True, name))
            if topic is not None and topic.confirmed:
                self.events.setdefault(name, []).append(payload)

    def subscribe(self, pattern: bytes) -> None:
        key, subscriber = (True, pattern), object()
        self.told[pattern] = told = []
        try:
            confirmed = self.covers.subscribe(key)
        except BrokerError as error:
            told.append(error)
            return
        self.subscribers[pattern] = subscriber
        if self.ledger.add(key, subscriber, told.append, confirmed=confirmed):
            told.append(None)

    def unsubscribe(self, pattern: bytes) -> None:
        if self.ledger.remove((True, pattern), self.subscribers.pop(pattern)):
            self.covers.unsubscribe((True, pattern))

    def is_confirmed(self, pattern: bytes) -> bool:
        topic = self.ledger.get((True, pattern))
        return topic is not None and topic.confirmed

    def covers_are(self, *names: bytes) -> bool:
        return set(self.redis.subscribed) == set(names) and {key[1] for key in self.covers} == set(names)


@pytest.fixture
def process() -> Process:
    return Process()


def test_patterns_with_the_same_beginning_share_a_subscription(process):
    for pattern in (b"room.*", b"room.?", b"room.[ab]*", b"room.*.chat"):
        process.subscribe(pattern)
    process.redis.settle()
    assert process.covers_are(b"room.*")
    assert process.redis.publish(b"room.a", b"1") == 1
    process.redis.settle()
    assert process.events == {b"room.*": [b"1"], b"room.?": [b"1"], b"room.[ab]*": [b"1"]}
    assert [process.told[pattern] for pattern in process.told] == [[None]] * 4


def test_a_shorter_beginning_takes_over_at_once_and_leaves_later(process):
    for pattern in (b"a.b.*", b"a.c.*", b"x*", b"a.b.d?"):
        process.subscribe(pattern)
    process.redis.settle()
    assert process.covers_are(b"a.b.*", b"a.c.*", b"x*")
    process.subscribe(b"a*z")
    process.redis.settle()
    assert process.covers_are(b"a*", b"x*")
    process.unsubscribe(b"a*z")
    process.redis.settle()
    assert process.covers_are(b"a*", b"x*")
    process.covers.tidy()
    process.redis.settle()
    assert process.covers_are(b"a.b.*", b"a.c.*", b"x*")
    for pattern in (b"a.b.*", b"a.c.*", b"x*", b"a.b.d?"):
        process.unsubscribe(pattern)
    process.redis.settle()
    assert process.covers_are()


def test_special_characters_in_the_beginning_are_escaped(process):
    process.subscribe(rb"a\*b[[]c*")
    process.redis.settle()
    assert process.covers_are(rb"a\*b\[c*")
    assert process.redis.publish(b"a*b[cd", b"1") == 1
    assert process.redis.publish(b"axb[cd", b"2") == 0
    process.redis.settle()
    assert process.events == {rb"a\*b[[]c*": [b"1"]}


def test_a_refused_pattern_fails_and_others_stay(process):
    process.redis.refuses = {b"*"}
    process.subscribe(b"ok*")
    process.subscribe(b"*bad")
    process.redis.settle()
    assert process.told[b"ok*"] == [None]
    assert [str(error) for error in process.told[b"*bad"]] == ["refused"]
    assert process.covers_are(b"ok*")
    process.subscribe(b"ok.a*")
    assert process.told[b"ok.a*"] == [None]


def test_a_cover_that_is_refused_later_leaves_the_others_to_theirs(process):
    for pattern in (b"*", b"a*", b"b*"):
        process.subscribe(pattern)
    process.redis.settle()
    assert process.covers_are(b"*")
    process.redis.lose()
    process.redis.refuses = {b"*"}
    process.redis.reconnect()
    process.redis.settle()
    assert not process.is_confirmed(b"a*")
    process.covers.tidy()
    process.redis.settle()
    assert [process.is_confirmed(pattern) for pattern in (b"*", b"a*", b"b*")] == [False, True, True]
    process.redis.refuses.clear()
    process.covers.expect((True, b"*"))
    process.redis.settle()
    assert process.covers_are(b"*")
    assert process.is_confirmed(b"*")


def test_without_a_connection_nothing_is_subscribed(process):
    process.redis.lose()
    process.subscribe(b"a*")
    assert process.told[b"a*"] == [LOST]
    assert process.covers_are()
    process.covers.tidy()


def test_changes_during_a_search_are_not_remembered(process, monkeypatch):
    for number in range(100):
        process.subscribe(b"*%d" % number)
    process.redis.settle()
    monkeypatch.setattr("gevent.sleep", lambda _: process.unsubscribe(b"*7") if b"*7" in process.subscribers else None)
    for payload in (b"1", b"2"):
        process.redis.publish(b"7", payload)
    process.redis.settle()
    assert process.events == {}
    monkeypatch.undo()
    process.subscribe(b"*7")
    process.redis.publish(b"7", b"3")
    process.redis.settle()
    assert process.events == {b"*7": [b"3"]}


PATTERNS = [b"*", b"a*", b"ab*", b"abc*", b"abd?", b"a*c", b"*c", b"x", b"x*", b"ab[cd]*", b"a?c"]
CHANNELS = [b"abc", b"abd", b"abde", b"ac", b"x", b"xc", b"q"]


@pytest.mark.parametrize("seed", range(60))
def test_each_event_is_delivered_once_whatever_happens(process, seed):
    rng = random.Random(seed)
    redis = process.redis
    wanted: dict[bytes, list[bytes]] = {pattern: [] for pattern in PATTERNS}
    maybe: dict[bytes, set[bytes]] = {pattern: set() for pattern in PATTERNS}
    in_flight: list[tuple[bytes, bytes]] = []
    number = 0
    for _ in range(600):
        action = rng.choices(["toggle", "publish", "execute", "read", "tidy", "lose"], [2, 4, 4, 6, 0.5, 0.1])[0]
        if action == "toggle":
            pattern = rng.choice(PATTERNS)
            if pattern in process.subscribers and (True, pattern) in process.ledger:
                process.unsubscribe(pattern)
                # What is on its way may no longer be delivered.
                for name, payload in in_flight:
                    if name == pattern and payload in wanted[name]:
                        wanted[name].remove(payload)
            elif redis.up:
                process.subscribe(pattern)
        elif action == "publish":
            number += 1
            channel, payload = rng.choice(CHANNELS), b"%d" % number
            redis.publish(channel, payload)
            for pattern in PATTERNS:
                if matches(pattern.decode(), channel.decode()):
                    maybe[pattern].add(payload)
                    if process.is_confirmed(pattern):
                        wanted[pattern].append(payload)
                        in_flight.append((pattern, payload))
        elif action == "execute":
            redis.execute()
        elif action == "read":
            redis.read()
            in_flight = [each for each in in_flight if each[1] not in process.events.get(each[0], ())]
        elif action == "tidy":
            process.covers.tidy()
        else:
            redis.lose()
            for name, payload in in_flight:
                if payload in wanted[name]:
                    wanted[name].remove(payload)
            in_flight.clear()
            for pattern in list(process.subscribers):
                if (True, pattern) not in process.ledger:
                    del process.subscribers[pattern]
            redis.reconnect()
    for _ in range(3):
        redis.settle()
        process.covers.tidy()
    redis.settle()
    for pattern in PATTERNS:
        got = process.events.get(pattern, [])
        assert [int(payload) for payload in got] == sorted({int(payload) for payload in got}), pattern
        assert set(got) <= maybe[pattern], pattern
        assert set(wanted[pattern]) <= set(got), pattern
    left = [pattern for pattern in process.subscribers if (True, pattern) in process.ledger]
    assert all(process.is_confirmed(pattern) for pattern in left)
    prefixes = sorted(name[:-1] for name in redis.subscribed)
    assert not any(b != a and b.startswith(a) for a in prefixes for b in prefixes)
    assert set(redis.subscribed) == {key[1] for key in process.covers}
    for pattern in left:
        process.unsubscribe(pattern)
    redis.settle()
    assert process.covers_are()
