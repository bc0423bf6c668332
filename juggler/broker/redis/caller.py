"""The caller's role: push calls and deliver their results."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from uuid import uuid4

from juggler.broker import CallerBroker, PendingCall
from juggler.broker.ledgers import CallLedger
from juggler.broker.names import check_uri
from juggler.broker.redis.callee_watch import CalleeWatch
from juggler.broker.redis.commands import CALLS_TTL, OVER_CAPACITY, pack
from juggler.broker.redis.control_sender import ControlSender
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import execute_each
from juggler.broker.redis.persistent_connection import PersistentConnection
from juggler.broker.redis.replies import Reply
from juggler.broker.redis.results_reader import ResultsReader
from juggler.broker.redis.store import Store, push_error
from juggler.broker.redis.sweep import Sweep
from juggler.broker.redis.topology import Topology
from juggler.broker.redis.watchdog import Watchdog
from juggler.broker.streams import GONE, LOST, TOO_LONG, Streams
from juggler.errors import BrokerError, BrokerUnavailable, InvalidMessage
from juggler.process.logline import Line
from juggler.protocol import codec
from juggler.protocol.codec import StoredParts, StoredResult

log = logging.getLogger("juggler.redis")

RESULTS_GRACE = 2.0
"""Seconds without a connection for results after which new calls are refused: nothing would answer them."""


class RedisCaller(CallerBroker):
    """See `juggler.broker.CallerBroker`.

    Results of all calls of this process arrive in lists of its own, under identifiers that are made here, so that
    clients can neither collide with nor receive each other's.

    Attributes:
        calls: calls stored.
        invalid: malformed results; counted as dropped, too.
        dropped: results of calls that had expired or were abandoned.
    """

    def __init__(self, names: Names, watchdog: Watchdog, topology: Topology, capacity: int, uri_bytes: int) -> None:
        """Create a caller with the ``call_capacity`` and ``call_bytes`` of `juggler.broker.redis.RedisBroker`."""
        self.calls = 0
        self.invalid = 0
        self.dropped = 0
        self._names = names
        self._store = Store(topology, capacity, CALLS_TTL, self._on_pushed)
        self._watchdog = watchdog
        self._topology = topology
        self._ledger = CallLedger(uri_bytes)
        self._results: ResultsReader | None = None
        self._sweep = Sweep(names, topology)
        self._control = ControlSender(names, topology)
        self._streams = Streams()
        self._callees = CalleeWatch(names, topology)
        self._down = 0.0  # seconds for which no result could be read
        self._closed = False

    def connections(self) -> list[PersistentConnection]:
        """Return the connections that read results."""
        return [] if self._results is None else self._results.connections()

    def check_ready(self) -> None:
        """Check that results can be read, if there have been calls.

        Raises:
            BrokerUnavailable: a connection is down.
        """
        for connection in self.connections():
            if not connection.usable:
                raise BrokerUnavailable(f"the connection to Redis ({connection.name}) is down")

    def _start(self) -> ResultsReader:
        """Begin to wait for results.

        This is not in the constructor because forked processes must not share a list of results.
        """
        self._ledger.name = uuid4().hex[-9:]
        self._watchdog.add(self._expire)
        self._results = self._topology.make_results_reader(self._on_results)
        return self._results

    def call(
        self,
        uri: str,
        args: bytes,
        timeout: float,
        pending: PendingCall,
        limit: int | None = None,
        max_bytes: int | None = None,
        by: bytes = b"",
        parts: StoredParts | None = None,
        trace: str = "",
    ) -> None:
        if self._closed:
            pending.on_stored(BrokerUnavailable("the broker is closed"))
            return
        results = self._results or self._start()
        if self._down >= RESULTS_GRACE:
            pending.on_stored(BrokerUnavailable("results cannot be read: no connection to Redis"))
            return
        try:
            check_uri(uri)
            self._ledger.add(pending, uri, time.monotonic() + timeout, len(args), limit, max_bytes)
        except BrokerError as error:
            pending.on_stored(error)
            return
        if parts is not None:
            self._streams.add(pending, timeout, parts, time.monotonic() + pending.max_time)
        try:
            self._store.push(
                *self._names.call_keys(uri, pending.call_id),
                codec.encode_call(next(results.conn_uuids), pending.call_id, uri, args, by, parts, trace),
                timeout,
                pending,
            )
        except BrokerError as error:
            self._on_pushed(pending, error)

    def forget(self, pending: PendingCall) -> None:
        if self._remove(pending) and pending.stored:
            self._unqueue(pending.uri, [pending])

    def abandon(self, owner: object, cancel: bool = False) -> None:
        stored: dict[str, list[PendingCall]] = {}
        for pending in self._ledger.abandon(owner):
            if cancel:
                sweep = partial(self._sweep.add, pending.uri)
                self._control.cancel(pending, self._streams.callee_of(pending), sweep)
            elif pending.stored:
                stored.setdefault(pending.uri, []).append(pending)
            self._streams.remove(pending)
        for uri, calls in stored.items():
            self._unqueue(uri, calls)

    def _unqueue(self, uri: str, calls: Sequence[PendingCall]) -> None:
        """Delete the timeout keys of abandoned calls. Those that no callee has taken are then removed from the list."""

        def on_deleted(deleted: Reply) -> None:
            if deleted != 0:
                self._sweep.add(uri)

        self._store.delete([self._names.call_timeout(uri, pending.call_id) for pending in calls], on_deleted)

    def cancel(self, pending: PendingCall) -> None:
        if pending in self._ledger:
            self._control.cancel(pending, self._streams.callee_of(pending), partial(self._on_unqueued, pending))

    def _on_unqueued(self, pending: PendingCall) -> None:
        self._sweep.add(pending.uri)
        if self._remove(pending):
            pending.on_unqueued()

    def credit(self, pending: PendingCall, until: int) -> None:
        stream = self._streams.stream_of(pending)
        if stream is not None and stream.callee_id:
            self._control.credit(pending.call_id, stream.callee_id, stream.grant(until))

    def _remove(self, pending: PendingCall) -> bool:
        """Remove a call that has completed. Return whether it was in flight."""
        if self._streams.by_id:
            self._streams.remove(pending)
        return self._ledger.remove(pending)

    def in_flight(self, owner: object) -> int:
        return self._ledger.in_flight(owner)

    def calls_of(self, owner: object) -> Sequence[PendingCall]:
        return self._ledger.calls_of(owner)

    @property
    def pending(self) -> int:
        """Calls in flight."""
        return len(self._ledger)

    def queue_lengths(self, uris: Sequence[str]) -> dict[str, int]:
        """See `juggler.broker.Broker.queue_lengths`."""
        keys = [self._names.calls(uri) for uri in uris]
        lengths = execute_each(self._topology.link_for, [(key, pack(b"LLEN", key)) for key in keys], timeout=1.0)
        return {uri: length for uri, length in zip(uris, lengths, strict=True) if isinstance(length, int)}

    def close(self) -> None:
        self._closed = True
        if self._results is not None:
            self._results.close()
        self._ledger.clear()
        self._streams.clear()

    def _on_pushed(self, pending: PendingCall, reply: Reply) -> None:
        if self._ledger.get(pending.call_id) is None:
            self._unqueue(pending.uri, [pending])  # abandoned in the meantime
            return
        if type(reply) is not int or reply < 0:
            self._remove(pending)
            if reply == OVER_CAPACITY:
                self._sweep.add(pending.uri)  # the list may be full of expired calls
            pending.on_stored(push_error(reply))
            return
        self.calls += 1
        pending.stored = True
        pending.on_stored(None)
        if pending.early_result is not None:
            self._deliver(pending, *pending.early_result)

    def _on_results(self, conn_uuid: str, batch: list[bytes]) -> None:
        over: list[bytes] = []
        now = time.monotonic()
        find, timeout_key = self._ledger.get, self._names.result_timeout
        for data in batch:
            try:
                result = codec.decode_result(data)
            except InvalidMessage:
                self.invalid += 1
                self.dropped += 1
                continue
            if not (result.keyless or result.more):
                over.append(timeout_key(conn_uuid, result.msg_uuid))
            pending = find(result.msg_uuid)
            if pending is None or pending.deadline <= now:
                self.dropped += 1
            elif result.more:
                self._on_part(pending, result, now)
            elif pending.stored:
                self._deliver(pending, result.args, result.failed)
            else:
                # The result has overtaken the reply to the push, which arrives on another connection.
                pending.early_result = result.args, result.failed
        self._store.delete(over)

    def _deliver(self, pending: PendingCall, args: bytes, failed: bool | None) -> None:
        if self._ledger.remove(pending):
            if self._streams.by_id:
                self._streams.remove(pending)
            pending.on_result(args, failed)

    def _on_part(self, pending: PendingCall, result: StoredResult, now: float) -> None:
        try:
            if self._streams.on_part(pending, result, now):
                pending.on_part(result.seq, result.args, result.joined)
        except InvalidMessage:
            self.invalid += 1
            self._control.cancel(pending, self._streams.callee_of(pending), _do_nothing)
            self._deliver(pending, LOST, True)

    def _look_after_streams(self, now: float) -> None:
        """Once a second: keep streams alive whose callers are busy, and fail calls whose callees have gone."""
        for stream in self._streams.too_long(now):
            self._control.cancel(stream.pending, stream.callee_id, _do_nothing)
            self._deliver(stream.pending, TOO_LONG, True)
        for stream in self._streams.hold(now):
            self._control.credit(stream.pending.call_id, stream.callee_id, stream.until)
        self._callees.look(self._streams.callees(), self._on_gone)

    def _on_gone(self, callee_ids: list[str]) -> None:
        calls = self._streams.taken_by(callee_ids)
        if calls:
            log.warning(Line("redis: callees have gone", callees=",".join(callee_ids), calls=len(calls)))
        for pending in calls:
            self._deliver(pending, GONE, True)

    def _expire(self, elapsed: float) -> None:
        now = time.monotonic()
        self._down = 0.0 if any(connection.usable for connection in self.connections()) else self._down + elapsed
        self._sweep.run()
        self._look_after_streams(now)
        for pending in self._ledger.overdue(now):
            if self._remove(pending):
                # Swept in the next second, since their keys in Redis expire a little later.
                self._sweep.add(pending.uri)
                pending.on_expired()
        if self._results is not None:
            oldest = self._ledger.oldest()
            self._results.release(None if oldest is None else oldest.call_id, self._ledger.latest)


def _do_nothing() -> None:
    """The call has completed."""
