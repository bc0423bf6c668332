"""The calls that a worker runs, and what control messages do to them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from time import monotonic

from juggler.broker import ControlListener, IncomingCall
from juggler.callee.part_sender import PartSender
from juggler.callee.pool_consumer import PoolConsumer
from juggler.callee.pools import Runner
from juggler.callee.thunk import Thunk

EARLY_LIFETIME = 10.0
"""Seconds for which a cancel is remembered whose call has not been taken yet."""

MAX_EARLY = 10_000
"""Maximum number of remembered cancels; the oldest are dropped."""


class RunningCalls(ControlListener):
    """Passes control messages to the runners of calls.

    Attributes:
        senders: senders of the calls that have asked for parts, by the identifiers of the calls.
        listed: see `ControlListener`.
        early: cancels of calls that were not found, with the times at which they are dropped, oldest first.
    """

    def __init__(self, thunks: Mapping[str, Thunk]) -> None:
        self.senders: dict[str, PartSender] = {}
        self.early: dict[str, float] = {}
        self._thunks = thunks
        self._pools: list[tuple[PoolConsumer, Runner]] = []

    def add(self, consumer: PoolConsumer, runner: Runner) -> None:
        """Add a pool."""
        self._pools.append((consumer, runner))

    def running(self) -> list[IncomingCall]:
        return [call for consumer, _ in self._pools for call in consumer.running.values()]

    def on_cancel(self, call_id: str) -> None:
        for consumer, runner in self._pools:
            for call in consumer.running.values():
                if call.msg_uuid == call_id:
                    self._cancel(runner, call)
                    return
        self._remember(call_id)

    def _cancel(self, runner: Runner, call: IncomingCall) -> None:
        thunk = self._thunks[call.uri]
        if thunk.cancel != "ignore" and not call.cancelled:
            call.cancelled = True
            runner.cancel(thunk, call)
            if sender := self.senders.get(call.msg_uuid):
                sender.wake()

    def _remember(self, call_id: str) -> None:
        now = monotonic()
        self.early[call_id] = now + EARLY_LIFETIME
        over = [each for each, until in islice(self.early.items(), 2) if until <= now]
        if len(self.early) > MAX_EARLY:
            over = over or [next(iter(self.early))]
        for each in over:
            del self.early[each]

    def is_cancelled(self, thunk: Thunk, call: IncomingCall) -> bool:
        """Return whether a call that is about to run was cancelled before."""
        until = self.early.pop(call.msg_uuid, 0.0)
        if until > monotonic() and thunk.cancel != "ignore":
            call.cancelled = True
        return call.cancelled

    def on_credit(self, call_id: str, until: int) -> None:
        if sender := self.senders.get(call_id):
            sender.credit(until)
