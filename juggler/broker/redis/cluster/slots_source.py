"""Pops from lists in several slots: one link waits for each slot, and together they take no more than was asked for.

Redis pops from several lists at once only within a slot, and what it has popped for us is ours to run. So the limit is
divided: each slot may take its share of it. When the first has calls, the others are told to wait no longer, with
``CLIENT UNBLOCK``, and `SlotsSource.pop` returns when they have answered: nothing is on its way to us then.

When the limit is less than the number of slots, it cannot be divided. Then the lengths of the lists tell which slots to
ask, and while all are empty, as many as may be asked wait for a short turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from gevent.event import AsyncResult, Event

from juggler.broker.redis.call_source import CallSource, PopLink
from juggler.broker.redis.cluster.nodes import ClusterNodes
from juggler.broker.redis.cluster.slot_follower import Follower, Following
from juggler.broker.redis.cluster.slot_map import key_slot
from juggler.broker.redis.commands import pack
from juggler.broker.redis.link import Connector, Reply, as_error
from juggler.errors import BrokerError, BrokerUnavailable

TURN = 0.02
"""Seconds for which some slots are waited for when not all can be."""

CANCEL_PATIENCE = 0.25
"""Seconds after which a node that does not answer keeps its share of the limit, and is waited for no longer."""


class _SlotPopLink(Following, PopLink):
    """Pops from the lists of one slot. It is used only while it is ready.

    Attributes:
        ready: whether it is up, and knows its client_id.
        client_id: what Redis calls this connection, or why it does not tell.
        on_ready: told when it is.
    """

    ready = False
    client_id: Reply = None
    on_ready: Callable[[], None]

    def on_up(self) -> None:
        self.ready = False
        self.send(pack(b"CLIENT", b"ID"), (self._on_client_id,))

    def _on_client_id(self, reply: Reply) -> None:
        self.client_id = reply
        if self.up:
            self.ready = True
            self.on_ready()

    def on_lost(self, error: BrokerUnavailable) -> None:
        self.ready = False
        super().on_lost(error)


_Outcome: TypeAlias = list[bytes] | Exception


class _Slot(Follower):
    """The lists of one slot. At most one pop is under way, and it ends exactly once, whatever becomes of its node.

    Attributes:
        lists: the keys of the lists.
        share: how many calls the pop that is under way may take; 0 when none is.
        had_calls: whether the last pop found any.
    """

    link: _SlotPopLink

    def __init__(
        self,
        nodes: ClusterNodes,
        slot: int,
        lists: Sequence[bytes],
        on_end: Callable[[_Slot, _Outcome], None],
    ) -> None:
        self.lists = deque(lists)
        self.share = 0
        self.had_calls = False
        self._on_end = on_end
        self._asked: _SlotPopLink | None = None
        self._cancelled = False
        self._unblocking = False
        self._outcome: _Outcome | None = None
        super().__init__(nodes, slot)

    def make_link(self, connector: Connector) -> Following:
        link = _SlotPopLink("calls", connector, self._nodes.watchdog, self._nodes.blocking_timeout)
        link.on_ready = self._ask
        return link

    def pop(self, share: int) -> None:
        """Take up to ``share`` calls, as soon as there are any, and there is a connection."""
        self.share = share
        self._cancelled = False
        self._outcome = None
        self.lists.rotate(-1)
        if self.link.ready:
            self._ask()
        else:
            self.link.start()

    def cancel(self) -> None:
        """Make the pop end soon."""
        if self._cancelled:
            return
        self._cancelled = True
        if self._asked is None:
            self._end([])
        else:
            self._unblock(self._asked)

    def on_lost(self, link: Following, error: BrokerUnavailable) -> None:
        super().on_lost(link, error)
        if link is self.link and self.share and self._asked is None and not self._unblocking:
            self._end(error)

    def _ask(self) -> None:
        if self.share and self._asked is None:
            self._asked = self.link
            try:
                self.link.pop(self.lists, self.share, partial(self._on_batch, self.link))
            except BrokerUnavailable as error:
                self._on_batch(self.link, error)

    def _on_batch(self, link: _SlotPopLink, batch: list[bytes] | Exception) -> None:
        self._asked = None
        if isinstance(batch, BrokerUnavailable) and link is not self.link and not self._cancelled:
            # It was redirected: the new link asks again when it is up.
            return
        self._outcome = batch
        if not self._unblocking:
            self._end(batch)

    def _unblock(self, link: _SlotPopLink) -> None:
        def on_unblocked(reply: Reply) -> None:
            self._unblocking = False
            if self._asked is None:
                self._end([] if self._outcome is None else self._outcome)
            elif reply == 0:
                # It came before the pop, on another connection.
                self._unblock(link)

        if type(link.client_id) is not int:
            return
        try:
            command = pack(b"CLIENT", b"UNBLOCK", link.client_id)
            self._nodes.link_to(link.address).send_finally(command, (on_unblocked,))
            self._unblocking = True
        except BrokerUnavailable:
            # Then it ends after the blocking timeout, or with its own connection.
            return

    def _end(self, outcome: _Outcome) -> None:
        self.share = 0
        self.had_calls = isinstance(outcome, list) and bool(outcome)
        self._on_end(self, outcome)


class SlotsSource(CallSource):
    """See above."""

    def __init__(self, nodes: ClusterNodes, lists: Sequence[bytes]) -> None:
        by_slot: dict[int, list[bytes]] = {}
        for key in lists:
            by_slot.setdefault(key_slot(key), []).append(key)
        self._nodes = nodes
        self._slots = deque(_Slot(nodes, slot, keys, self._on_end) for slot, keys in by_slot.items())
        self._under_way = 0
        self._batches: list[list[bytes]] = []
        self._errors: list[Exception] = []
        self._changed = Event()
        self._closed = False

    def pop(self, limit: int) -> list[list[bytes]]:
        # A node that was too slow the last time may have sent some since: they are within its share.
        self._errors.clear()
        deadline = time.monotonic() + self._nodes.blocking_timeout
        while not self._batches and not self._errors and not self._closed and time.monotonic() < deadline:
            self._slots.rotate(-1)
            self._pop(limit, deadline)
        batches, self._batches = self._batches, []
        if self._errors and not batches:
            raise as_error(self._errors[0])
        return batches

    def close(self) -> None:
        self._closed = True
        for slot in self._slots:
            slot.close()

    def _pop(self, limit: int, deadline: float) -> None:
        free = max(0, limit - sum(slot.share for slot in self._slots))
        idle = [slot for slot in self._slots if not slot.share]
        until = deadline + CANCEL_PATIENCE
        if free < len(idle):
            idle = self._fullest(idle)[:free]
            until = min(deadline, time.monotonic() + TURN)
        for slot, share in zip(idle, _shares(idle, free), strict=True):
            self._under_way += 1
            slot.pop(share)
        errors_before = len(self._errors)
        self._wait(lambda: bool(self._batches) or not self._under_way, until)
        self._cancel()
        if len(self._errors) - errors_before < len(idle):
            # Some nodes are there: the others do not keep us from them.
            del self._errors[errors_before:]

    def _cancel(self) -> None:
        for slot in self._slots:
            if slot.share:
                slot.cancel()
        self._wait(lambda: not self._under_way, time.monotonic() + CANCEL_PATIENCE)

    def _on_end(self, slot: _Slot, outcome: _Outcome) -> None:
        self._under_way -= 1
        if isinstance(outcome, Exception):
            self._errors.append(outcome)
        elif outcome:
            self._batches.append(outcome)
        self._changed.set()

    def _wait(self, condition: Callable[[], bool], deadline: float) -> None:
        while not condition() and (remaining := deadline - time.monotonic()) > 0:
            self._changed.clear()
            self._changed.wait(remaining)

    def _fullest(self, slots: list[_Slot]) -> list[_Slot]:
        """Return the slots in the order in which they are to be asked: those that have calls first."""
        lengths = [(slot, [self._length(key) for key in slot.lists]) for slot in slots]
        empty = {id(slot): not any(_is_some(length.get()) for length in each) for slot, each in lengths}
        return sorted(slots, key=lambda slot: empty[id(slot)])

    def _length(self, key: bytes) -> AsyncResult:
        length: AsyncResult = AsyncResult()
        try:
            self._nodes.link_for(key).send(pack(b"LLEN", key), (length.set,))
        except BrokerError as error:
            length.set(error)
        return length


def _is_some(reply: Reply) -> bool:
    return type(reply) is int and reply > 0


def _shares(slots: list[_Slot], limit: int) -> list[int]:
    """Divide ``limit`` among slots: one for each, and the rest for those that had calls the last time, or for all."""
    eager = [slot for slot in slots if slot.had_calls] or slots
    each, odd = divmod(limit - len(slots), len(eager)) if slots else (0, 0)
    extra = {id(slot): each + (number < odd) for number, slot in enumerate(eager)}
    return [1 + extra.get(id(slot), 0) for slot in slots]
