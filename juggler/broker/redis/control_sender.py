"""The server's side of control: cancel calls that callees run, and grant them credit for parts.

Control travels through lists, never through pub-sub: channels belong to clients, who could forge it. What is due in one
turn of the event loop is sent together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import gevent

from juggler.broker import PendingCall
from juggler.broker.redis.commands import pack, push_control
from juggler.broker.redis.keys import Names
from juggler.broker.redis.replies import Reply, ignore_all
from juggler.broker.redis.topology import Topology
from juggler.errors import BrokerUnavailable
from juggler.protocol.control import Control, encode_control

BATCH = 1_000
"""Maximum number of calls in a control message."""


class _Cancel(NamedTuple):
    """A call to cancel.

    Attributes:
        call_id: identifier of the call.
        deadline: its deadline.
        callee_id: its callee; empty if it is unknown.
        on_unqueued: called if no callee has taken the call. One that is about to take it is notified.
    """

    call_id: str
    deadline: float
    callee_id: str
    on_unqueued: Callable[[], None]


class ControlSender:
    """Sends control messages. Never blocks. What cannot be sent is sent when the connection is up again."""

    def __init__(self, names: Names, topology: Topology) -> None:
        self._names = names
        self._topology = topology
        self._cancels: dict[str, list[_Cancel]] = {}  # by URI
        self._credits: dict[str, dict[str, int]] = {}  # by callee
        self._due = False
        topology.on_up(self._flush_soon)

    def cancel(self, pending: PendingCall, callee_id: str, on_unqueued: Callable[[], None]) -> None:
        """Cancel a call.

        Args:
            pending: the call.
            callee_id: callee that has taken it; empty if that is unknown: all callees of the URI are notified.
            on_unqueued: called if no callee had taken the call.
        """
        cancel = _Cancel(pending.call_id, pending.deadline, callee_id, on_unqueued)
        self._cancels.setdefault(pending.uri, []).append(cancel)
        self._flush_soon()

    def credit(self, call_id: str, callee_id: str, until: int) -> None:
        """Allow a callee to send the parts of a call up to a number, which is never lower than the one before."""
        self._credits.setdefault(callee_id, {})[call_id] = until
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._due and (self._cancels or self._credits):
            self._due = True
            gevent.get_hub().loop.run_callback(self._flush)

    def _flush(self) -> None:
        self._due = False
        credits, self._credits = self._credits, {}
        for callee_id, credit in credits.items():
            self._push(callee_id, Control(credit=credit))
        cancels, self._cancels = self._cancels, {}
        now = time.monotonic()
        for uri, calls in cancels.items():
            wanted = [call for call in calls if call.deadline > now]
            if wanted:
                self._cancel(uri, wanted)

    def _cancel(self, uri: str, calls: list[_Cancel]) -> None:
        """Take calls from their queue: a callee drops those without a timeout key. Notify callees of the others."""
        commands = [pack(b"DEL", self._names.call_timeout(uri, call.call_id)) for call in calls]
        callees = self._names.callees(uri)
        commands.append(pack(b"SMEMBERS", callees))
        try:
            self._topology.link_for(callees).gather(commands, partial(self._on_taken, uri, calls))
        except BrokerUnavailable:
            self._retry(uri, calls)

    def _on_taken(self, uri: str, calls: list[_Cancel], replies: list[Reply]) -> None:
        *deleted, callees = replies
        if isinstance(callees, BrokerUnavailable):
            self._retry(uri, calls)
            return
        ignore_all(replies)
        for call, reply in zip(calls, deleted, strict=True):
            if reply == 1:
                call.on_unqueued()
        # All are notified: a callee may have looked at the key just before it was deleted.
        self._notify(uri, calls, [] if isinstance(callees, Exception) else callees)

    def _notify(self, uri: str, calls: list[_Cancel], callees: list[bytes]) -> None:
        self._mark(uri, calls)
        due: dict[str, list[str]] = {}
        for call in calls:
            to = [call.callee_id] if call.callee_id else [callee.decode(errors="replace") for callee in callees]
            for callee_id in to:
                due.setdefault(callee_id, []).append(call.call_id)
        for callee_id, call_ids in due.items():
            for start in range(0, len(call_ids), BATCH):
                self._push(callee_id, Control(cancel=call_ids[start : start + BATCH]))

    def _mark(self, uri: str, calls: list[_Cancel]) -> None:
        """Set the keys that callees look up when they have lost their connection, and maybe control messages."""
        now = time.monotonic()
        commands = [
            pack(
                b"SET", self._names.cancelled(uri, call.call_id), b"", b"PX", max(1, int((call.deadline - now) * 1000))
            )
            for call in calls
        ]
        with suppress(BrokerUnavailable):
            self._topology.link_for(self._names.callees(uri)).gather(commands, ignore_all)

    def _retry(self, uri: str, calls: Iterable[_Cancel]) -> None:
        """Keep calls for the next flush: when a connection is up."""
        self._cancels.setdefault(uri, []).extend(calls)

    def _push(self, callee_id: str, control: Control) -> None:
        key = self._names.control(callee_id)
        try:
            self._topology.link_for(key).gather(
                push_control(key, encode_control(control)), partial(self._on_pushed, callee_id, control)
            )
        except BrokerUnavailable:
            self._keep_credit(callee_id, control)

    def _on_pushed(self, callee_id: str, control: Control, replies: list[Reply]) -> None:
        if isinstance(replies[0], BrokerUnavailable):
            self._keep_credit(callee_id, control)
        ignore_all(replies)

    def _keep_credit(self, callee_id: str, control: Control) -> None:
        """Keep credit that may not have arrived. Callees find cancelled calls by their keys when they reconnect."""
        for call_id, until in control.credit.items():
            self._credits.setdefault(callee_id, {}).setdefault(call_id, until)  # unless there is newer credit
