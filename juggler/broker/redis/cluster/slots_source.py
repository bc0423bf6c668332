"""The source of calls in several slots: one link blocks on each slot, and together they pop no more than the limit.

Redis pops from several lists in one command only within a slot, and what it has popped must be run. So the limit is
divided: each slot may pop its share. As soon as the first slot has calls, the others are unblocked with
``CLIENT UNBLOCK``, and `SlotsSource.pop` returns once they have replied: then no call is in flight to this process.

A limit smaller than the number of slots cannot be divided. Then the lengths of the lists decide which slots pop; while
all are empty, as many slots as the limit allows block for a short turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from gevent.event import Event

from juggler.broker.redis.call_source import CallSource
from juggler.broker.redis.cluster.nodes import ClusterNodes
from juggler.broker.redis.cluster.slot_follower import SlotFollower, SlotLink
from juggler.broker.redis.cluster.slot_map import key_slot
from juggler.broker.redis.commands import pack
from juggler.broker.redis.link import execute_each
from juggler.broker.redis.popper import Popper
from juggler.broker.redis.replies import Reply, as_error
from juggler.errors import BrokerUnavailable

TURN = 0.02
"""Seconds for which some slots block when not all can."""

CANCEL_TIMEOUT = 0.25
"""Seconds to wait for a node that does not reply when it is unblocked. After that it keeps its share of the limit."""


class _SlotPopper:
    """Pops from one slot on one link, identified by its client ID for ``CLIENT UNBLOCK``.

    Attributes:
        link: the link.
        client_id: Redis's identifier of the connection, an error if it is not permitted, or ``None`` while unknown.
    """

    def __init__(self, link: SlotLink, on_ready: Callable[[], None]) -> None:
        self.link = link
        self.client_id: Reply = None
        self.pop = Popper(link).pop
        self._on_ready = on_ready
        link.up_listeners.append(self._on_up)

    @property
    def is_ready(self) -> bool:
        """Whether it can pop now."""
        return self.link.connection.up and self.client_id is not None

    def _on_up(self) -> None:
        self.client_id = None
        self.link.send(pack(b"CLIENT", b"ID"), (self._on_client_id,))

    def _on_client_id(self, reply: Reply) -> None:
        self.client_id = reply
        if self.link.connection.up:
            self._on_ready()


_Outcome: TypeAlias = list[bytes] | Exception


class _Slot(SlotFollower):
    """The lists of one slot. At most one pop is in flight, and it completes exactly once whatever its node does.

    Attributes:
        lists: keys of the lists.
        share: maximum number of calls of the pop in flight; 0 if there is none.
        had_calls: whether the last pop returned any.
    """

    def __init__(
        self, nodes: ClusterNodes, slot: int, lists: Sequence[bytes], on_end: Callable[[_Slot, _Outcome], None]
    ) -> None:
        self.lists = deque(lists)
        self.share = 0
        self.had_calls = False
        self._on_end = on_end
        self._popper: _SlotPopper
        self._asked: _SlotPopper | None = None
        self._cancelled = False
        self._unblocking = False
        self._outcome: _Outcome | None = None
        super().__init__("calls", nodes, slot)

    def on_link(self, link: SlotLink) -> None:
        self._popper = _SlotPopper(link, self._ask)

    def pop(self, share: int) -> None:
        """Pop up to ``share`` calls, as soon as there are any and the link is up."""
        self.share = share
        self._cancelled = False
        self._outcome = None
        self.lists.rotate(-1)
        if self._popper.is_ready:
            self._ask()
        else:
            self.link.start()

    def cancel(self) -> None:
        """Make the pop complete soon."""
        if self._cancelled:
            return
        self._cancelled = True
        if self._asked is None:
            self._end([])
        else:
            self._unblock(self._asked)

    def on_lost(self, link: SlotLink, error: BrokerUnavailable) -> None:
        super().on_lost(link, error)
        if link is self.link and self.share and self._asked is None and not self._unblocking:
            self._end(error)

    def _ask(self) -> None:
        if self.share and self._asked is None:
            popper = self._asked = self._popper
            try:
                popper.pop(self.lists, self.share, partial(self._on_batch, popper))
            except BrokerUnavailable as error:
                self._on_batch(popper, error)

    def _on_batch(self, popper: _SlotPopper, batch: list[bytes] | Exception) -> None:
        self._asked = None
        if isinstance(batch, BrokerUnavailable) and popper is not self._popper and not self._cancelled:
            # The slot has moved: the new link asks again once it is up.
            return
        self._outcome = batch
        if not self._unblocking:
            self._end(batch)

    def _unblock(self, popper: _SlotPopper) -> None:
        def on_unblocked(reply: Reply) -> None:
            self._unblocking = False
            if self._asked is None:
                self._end([] if self._outcome is None else self._outcome)
            elif reply == 0:
                # It has overtaken the pop, which was sent on another connection.
                self._unblock(popper)

        if type(popper.client_id) is not int:
            return
        try:
            command = pack(b"CLIENT", b"UNBLOCK", popper.client_id)
            self._nodes.link_to(popper.link.address).send_here(command, (on_unblocked,))
            self._unblocking = True
        except BrokerUnavailable:
            # The pop completes after the blocking timeout, or when its own connection is lost.
            return

    def _end(self, outcome: _Outcome) -> None:
        self.share = 0
        self.had_calls = isinstance(outcome, list) and bool(outcome)
        self._on_end(self, outcome)


class SlotsSource(CallSource):
    """See the module."""

    def __init__(self, nodes: ClusterNodes, lists: Sequence[bytes]) -> None:
        by_slot: dict[int, list[bytes]] = {}
        for key in lists:
            by_slot.setdefault(key_slot(key), []).append(key)
        self._nodes = nodes
        self._slots = deque(_Slot(nodes, slot, keys, self._on_end) for slot, keys in by_slot.items())
        self._in_flight = 0
        self._batches: list[list[bytes]] = []
        self._errors: list[Exception] = []
        self._changed = Event()
        self._closed = False

    def pop(self, limit: int) -> list[list[bytes]]:
        # A node that was too slow the last time may have popped calls since then: they are within its share.
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
        until = deadline + CANCEL_TIMEOUT
        if free < len(idle):
            idle = self._fullest(idle)[:free]
            until = min(deadline, time.monotonic() + TURN)
        for slot, share in zip(idle, _shares(idle, free), strict=True):
            self._in_flight += 1
            slot.pop(share)
        errors_before = len(self._errors)
        self._wait(lambda: bool(self._batches) or not self._in_flight, until)
        self._cancel()
        if len(self._errors) - errors_before < len(idle):
            # Some nodes are reachable: the others do not matter now.
            del self._errors[errors_before:]

    def _cancel(self) -> None:
        for slot in self._slots:
            if slot.share:
                slot.cancel()
        self._wait(lambda: not self._in_flight, time.monotonic() + CANCEL_TIMEOUT)

    def _on_end(self, slot: _Slot, outcome: _Outcome) -> None:
        self._in_flight -= 1
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
        """Return the slots with those that have calls first."""
        keys = [key for slot in slots for key in slot.lists]
        replies = execute_each(self._nodes.link_for, [(key, pack(b"LLEN", key)) for key in keys])
        lengths = dict(zip(keys, replies, strict=True))
        has_calls = {id(slot): any(_is_positive(lengths[key]) for key in slot.lists) for slot in slots}
        return sorted(slots, key=lambda slot: not has_calls[id(slot)])


def _is_positive(reply: Reply) -> bool:
    return type(reply) is int and reply > 0


def _shares(slots: list[_Slot], limit: int) -> list[int]:
    """Divide ``limit``: one for each slot, and the rest for those that had calls the last time, or for all."""
    eager = [slot for slot in slots if slot.had_calls] or slots
    each, odd = divmod(limit - len(slots), len(eager)) if slots else (0, 0)
    extra = {id(slot): each + (number < odd) for number, slot in enumerate(eager)}
    return [1 + extra.get(id(slot), 0) for slot in slots]
