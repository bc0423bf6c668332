"""Learns from Redis which of many lists have something, without naming them all again and again.

That is Redis's client tracking in broadcasting mode: it tells one connection the names of all keys with a prefix that
other clients have changed, whoever they are. What was in the lists before is asked for once, for each new connection;
and now and then, in case that something between us and Redis does not pass on what it tells.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import hiredis
from gevent.event import Event

from juggler.broker.redis.link import BaseLink, Connector, Link, Reply
from juggler.broker.redis.resp import pack
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable

log = logging.getLogger("juggler.redis")

CHANNEL = b"__redis__:invalidate"

SURVEY_PERIOD = 10.0
"""Seconds after which all lists are asked for what is in them, whatever Redis has told."""


class Marked:
    """The lists that may have something, each once, those that were marked first come first."""

    def __init__(self, lists: Iterable[bytes]) -> None:
        self._lists = frozenset(lists)
        self._marked: set[bytes] = set()
        self._order: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def mark(self, keys: Iterable[bytes]) -> None:
        """Add those that are our lists, and are not there yet."""
        for key in keys:
            if key in self._lists and key not in self._marked:
                self._marked.add(key)
                self._order.append(key)

    def take(self, most: int) -> list[bytes]:
        """Remove the first ones, and return them."""
        keys = [self._order.popleft() for _ in range(min(most, len(self._order)))]
        self._marked.difference_update(keys)
        return keys


class ChangesLink(BaseLink):
    """Receives the names of keys that have changed, once another connection asks Redis to send them here.

    Attributes:
        client_id: what Redis calls this connection; ``None`` until it can receive names.
    """

    def __init__(
        self,
        connector: Connector,
        watchdog: Watchdog,
        on_ready: Callable[[], None],
        on_changed: Callable[[list[bytes]], None],
        on_gone: Callable[[], None],
        on_refused: Callable[[hiredis.ReplyError], None],
    ) -> None:
        """Make a link that is not connected yet.

        Args:
            connector: makes the connection.
            watchdog: looks after it.
            on_ready: called when there is a ``client_id``.
            on_changed: told the names.
            on_gone: called when names will not come any more.
            on_refused: told what Redis says that does not let us.
        """
        super().__init__("changes", connector, watchdog)
        self.client_id: int | None = None
        self._on_ready = on_ready
        self._on_changed = on_changed
        self._on_gone = on_gone
        self._on_refused = on_refused
        self._own_id: int | None = None
        self._due = False

    @property
    def reply_due(self) -> bool:
        return self._due

    def ping(self) -> None:
        self._due = True
        self.write(b"*1\r\n$4\r\nPING\r\n")

    def on_up(self) -> None:
        self._due = True
        self.write(pack(b"CLIENT", b"ID") + pack(b"SUBSCRIBE", CHANNEL))

    def on_reply(self, reply: Reply) -> None:
        if isinstance(reply, list):
            if reply[0] == b"message":
                # There are no names when all keys have gone.
                self._on_changed(reply[2] or [])
                return
            self._due = False
            if reply[0] == b"subscribe":
                self.client_id = self._own_id
                self._on_ready()
        elif isinstance(reply, int):
            self._own_id = reply
        elif isinstance(reply, hiredis.ReplyError):
            self._due = False
            self._on_refused(reply)

    def on_lost(self, error: BrokerUnavailable) -> None:
        self.client_id = self._own_id = None
        self._on_gone()


class Tracking:
    """Keeps ``marked`` in step with what is in some lists.

    Attributes:
        marked: lists that may have something. Who takes one marks it again if there may be more in it.
        on: whether ``marked`` is in step.
    """

    def __init__(self, link: Link, connector: Connector, watchdog: Watchdog, lists: Sequence[bytes]) -> None:
        """Begin when ``link`` is connected.

        Args:
            link: the one that pops; what it changes itself is not told.
            connector: makes the other connection.
            watchdog: looks after that.
            lists: names of the lists.
        """
        self.marked = Marked(lists)
        self.on = False
        self._refused = False
        self._link = link
        self._lists = lists
        self._prefix = _common_prefix(lists)
        self._some = Event()
        self._surveyed = 0.0
        self._changes = ChangesLink(connector, watchdog, self._begin, self._changed, self._end, self.refuse)
        link.up_functions.append(self._on_link_up)
        link.lost_functions.append(self._end)

    def wait(self, timeout: float) -> bool:
        """Wait until a list is marked, so long at most, and return whether there is one.

        It ends early when `on` does.
        """
        if not self.marked:
            self._some.clear()
            self._some.wait(timeout)
        return bool(self.marked)

    def refresh(self) -> None:
        """Ask again for what is in the lists, if that was long ago."""
        if time.monotonic() - self._surveyed > SURVEY_PERIOD:
            self._survey()

    def refuse(self, error: Exception) -> None:
        """Give it up: Redis does not let us."""
        self._end()
        if not self._refused:
            self._refused = True
            log.warning("many URIs are served faster with a right to more, see docs/redis.md: %s", error)

    def close(self) -> None:
        """End at once. Idempotent."""
        self._changes.close()

    def _on_link_up(self) -> None:
        self._changes.start()
        self._begin()

    def _begin(self) -> None:
        client_id = self._changes.client_id
        if client_id is None or not self._link.up:
            return
        options = (b"REDIRECT", client_id, b"BCAST", b"NOLOOP", b"PREFIX", self._prefix)
        # Off first: another prefix, or client, cannot be set while it is on.
        packed = pack(b"CLIENT", b"TRACKING", b"OFF") + pack(b"CLIENT", b"TRACKING", b"ON", *options)
        self._link.send(packed, (lambda reply: None, partial(self._on_begun, client_id)))

    def _on_begun(self, client_id: int, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self.refuse(reply)
        elif not isinstance(reply, Exception) and client_id == self._changes.client_id:
            self._survey()

    def _survey(self) -> None:
        self._surveyed = time.monotonic()
        lengths: list[Any] = []

        def on_last(length: Reply) -> None:
            lengths.append(length)
            self._on_surveyed(lengths)

        packed = b"".join(pack(b"LLEN", key) for key in self._lists)
        self._link.send(packed, (*[lengths.append] * (len(self._lists) - 1), on_last))

    def _on_surveyed(self, lengths: list[Any]) -> None:
        error = next((each for each in lengths if isinstance(each, Exception)), None)
        if isinstance(error, BrokerUnavailable) or self._changes.client_id is None:
            return
        if error is not None and str(error).startswith("NOPERM"):
            self.refuse(error)
            return
        self.on = True
        self._mark([key for key, length in zip(self._lists, lengths, strict=True) if length != 0])

    def _changed(self, keys: list[bytes]) -> None:
        self._mark(keys)

    def _mark(self, keys: list[bytes]) -> None:
        self.marked.mark(keys)
        if self.marked:
            self._some.set()

    def _end(self) -> None:
        self.on = False
        self.marked.take(len(self.marked))
        self._some.set()


def _common_prefix(names: Sequence[bytes]) -> bytes:
    first, last = min(names), max(names)
    return first[: next((place for place, byte in enumerate(first) if last[place : place + 1] != b"%c" % byte), None)]
