"""Learns from Redis which of many lists have something, without naming them all again and again.

That is Redis's client tracking in broadcasting mode: it tells one connection the names of all keys with a prefix that
other clients have changed, whoever they are. What was in the lists before is asked for once, for each new connection;
and now and then, in case that something between us and Redis does not pass on what it tells.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile
from typing import Any, TypeGuard

import hiredis
from gevent.event import Event

from juggler.broker.redis.commands import pack
from juggler.broker.redis.link import Connector, Link, OnReply, Reply, ignore
from juggler.broker.redis.many_uris.key_changes import KeyChanges
from juggler.broker.redis.many_uris.pending_queues import PendingQueues
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable

log = logging.getLogger("juggler.redis")

PERIOD = 10.0
"""Seconds after which all lists are asked for what is in them, whatever Redis has told, or tracking is tried again."""

MOST_DOUBLINGS = 5
"""How often that time doubles while one attempt after the other fails."""

MOST_DECEPTIONS = 2
"""How often names may have failed to come before it is given up."""


class Tracking:
    """Keeps ``pending`` in step with what is in some lists.

    Attributes:
        pending: lists that may have something. Who takes one marks it again if there may be more in it.
        on: whether ``pending`` is in step.
    """

    def __init__(
        self,
        link: Link,
        connector: Connector,
        watchdog: Watchdog,
        lists: Sequence[bytes],
        pending: PendingQueues,
        proof_prefix: bytes,
    ) -> None:
        """Begin when ``link`` is connected.

        Args:
            link: the one that pops; what it changes itself is not told.
            connector: makes the other connection.
            watchdog: looks after that.
            lists: names of the lists.
            pending: kept up to date.
            proof_prefix: of a key that proves that both connections lead to one server.
        """
        self.pending = pending
        self.on = False
        self._refused = False
        self._link = link
        self._lists = lists
        self._prefix = _common_prefix(lists)
        self._turn = Event()
        self._due = 0.0
        self._untold: set[bytes] = set()
        self._accounted: set[bytes] | None = None
        self._deceptions = 0
        self._failures = 0
        self._asked = False
        self._epoch = 0
        self._no_lists: set[bytes] = set()
        self._changes = KeyChanges(
            connector, watchdog, proof_prefix, on_turn=self._on_changes_turn, on_changed=self._on_changed
        )
        link.up_functions.append(self._on_link_up)
        link.lost_functions.append(self._on_link_lost)

    # For who pops

    def wait(self, timeout: float) -> bool:
        """Wait until a list is pending, so long at most, and return whether there is one.

        It ends early when `on` does, and when it is time to `refresh`.
        """
        if not self.pending:
            self._turn.clear()
            self._turn.wait(max(0.0, min(timeout, self._due - time.monotonic())))
        return bool(self.pending)

    def refresh(self) -> None:
        """Do what is to be done every `PERIOD`."""
        if self._refused or not self._due or time.monotonic() < self._due:
            return
        if not self.on:
            self._begin_anew()
        elif self._untold:
            self._deceptions += 1
            error = ConnectionError("calls came, and Redis did not tell")
            if self._deceptions < MOST_DECEPTIONS:
                self._fail(error)
            else:
                self.refuse(error)
        else:
            self._accounted = self.pending.keys()
            self.survey()

    def survey(self) -> None:
        """Ask for what is in the lists."""
        self._due = time.monotonic() + PERIOD
        lengths: list[Any] = []

        def on_last(length: Reply) -> None:
            lengths.append(length)
            if epoch == self._epoch:
                self._on_surveyed(lengths)

        epoch = self._epoch
        packed = b"".join(pack(b"LLEN", key) for key in self._lists)
        self._send(packed, *[lengths.append] * (len(self._lists) - 1), on_last)

    def refuse(self, error: Exception) -> None:
        """Give it up: Redis does not let us."""
        if self._refused:
            return
        self._refused = True
        self._end()
        self._changes.close()
        if self._asked:
            self._send(pack(b"CLIENT", b"TRACKING", b"OFF"), ignore)
        advice = "faster with a right to more, see docs/redis.md" if is_forbidden(error) else "slower from now on"
        log.warning("many URIs are served %s: %s", advice, error)

    def set_aside(self, key: bytes, error: Exception) -> None:
        """A key that is no list: say so, once. Who pops leaves it alone until it changes."""
        if key not in self._no_lists:
            self._no_lists.add(key)
            log.warning("nobody can call what has its calls at %s: %s", key.decode(errors="replace"), error)

    def close(self) -> None:
        """End at once. Idempotent."""
        self._changes.close()

    # What happens to the connections

    def _on_link_up(self) -> None:
        if not self._refused:
            self._changes.start()
            self._begin()

    def _on_link_lost(self) -> None:
        self._asked = False
        self._end()
        # The other one may lead to where the master was.
        self._changes.drop("the connection that pops was lost")

    def _on_changes_turn(self) -> None:
        if self._changes.refusal is not None:
            self.refuse(self._changes.refusal)
        elif self._changes.client_id is None:
            self._end()
        else:
            self._begin()

    def _begin(self) -> None:
        client_id = self._changes.client_id
        if client_id is not None and self._link.up:
            self._due = 0.0
            # A write, so that no replica answers it.
            self._send(pack(b"PEXPIRE", self._changes.proof, 1), partial(self._on_proved, self._epoch, client_id))

    def _on_proved(self, epoch: int, client_id: int, proved: Reply) -> None:
        if isinstance(proved, BrokerUnavailable) or epoch != self._epoch:
            return
        if proved == 1:
            if self._asked:
                # Another client cannot be set while it is on.
                self._send(pack(b"CLIENT", b"TRACKING", b"OFF"), ignore)
            self._asked = True
            options = (b"REDIRECT", client_id, b"BCAST", b"NOLOOP", b"PREFIX", self._prefix)
            self._send(pack(b"CLIENT", b"TRACKING", b"ON", *options), partial(self._on_begun, epoch))
        else:
            self._fail(ConnectionError("two connections lead to different servers"))

    def _on_begun(self, epoch: int, begun: Reply) -> None:
        if isinstance(begun, BrokerUnavailable) or epoch != self._epoch:
            return
        if is_forbidden(begun):
            self.refuse(begun)
        elif isinstance(begun, hiredis.ReplyError):
            self._fail(begun)
        else:
            self.survey()

    def _on_surveyed(self, lengths: list[Any]) -> None:
        error = next((each for each in lengths if isinstance(each, Exception) and not is_no_list(each)), None)
        if isinstance(error, BrokerUnavailable):
            return
        if is_forbidden(error):
            self.refuse(error)
            return
        found = []
        for key, length in zip(self._lists, lengths, strict=True):
            if is_no_list(length):
                self.set_aside(key, length)
            elif length != 0:
                found.append(key)
        # If nobody has told of a list that has something, its name is on its way, or never comes.
        self._untold = set() if self._accounted is None else set(found) - self._accounted
        self._accounted = None
        self._failures = 0
        self.on = True
        self._add(found)

    def _on_changed(self, keys: list[bytes]) -> None:
        if self._accounted is not None:
            self._accounted.update(keys)
        elif self._untold:
            self._untold.difference_update(keys)
        self._add(keys)

    def _add(self, keys: Sequence[bytes]) -> None:
        self.pending.add(keys)
        if self.pending:
            self._turn.set()

    def _fail(self, error: Exception) -> None:
        """Do without it until the next `refresh` that is due."""
        self._end()
        self._due = time.monotonic() + PERIOD * 2 ** min(self._failures, MOST_DOUBLINGS)
        self._failures += 1
        log.warning("many URIs are served slower for now: %s", error)

    def _begin_anew(self) -> None:
        self._due = 0.0
        self._changes.drop("for another attempt")

    def _send(self, packed: bytes, *on_replies: OnReply) -> None:
        # Without a connection there is nothing to be done: all begins anew with the next.
        with suppress(BrokerUnavailable):
            self._link.send(packed, on_replies)

    def _end(self) -> None:
        # Replies that are still to come are to nobody any more.
        self._epoch += 1
        self.on = False
        self._untold.clear()
        self._accounted = None
        self.pending.clear()
        self._turn.set()


def is_forbidden(reply: Reply) -> TypeGuard[hiredis.ReplyError]:
    """Whether Redis answers that a user may not do this."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOPERM")


def is_no_list(reply: Reply) -> TypeGuard[hiredis.ReplyError]:
    """Whether Redis answers that a key is no list."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("WRONGTYPE")


def _common_prefix(names: Sequence[bytes]) -> bytes:
    first, last = min(names), max(names)
    return first[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))]
