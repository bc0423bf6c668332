"""The caller's role: pushes calls, and takes the results that come back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from gevent.event import Event as Signal

from juggler.broker import CallerBroker, PendingCall
from juggler.broker.names import check_uri
from juggler.broker.redis.commands import pack
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import BaseLink, Reply
from juggler.broker.redis.results_reader import ResultsReader
from juggler.broker.redis.store import Store
from juggler.broker.redis.sweep import Sweep
from juggler.broker.redis.topology import Topology
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerError, BrokerUnavailable, InvalidMessage
from juggler.process.uuids import new_uuid
from juggler.protocol import codec
from juggler.protocol.messages import CallPayload, ResultPayload


class _Entry:
    """A call in the table, from before it is pushed until it has ended; ``pending`` is None once it has."""

    __slots__ = ("deadline", "early_result", "pending", "stored", "uri")

    def __init__(self, uri: str, pending: PendingCall, deadline: float) -> None:
        self.uri = uri
        self.pending: PendingCall | None = pending
        self.deadline = deadline
        self.stored = False
        self.early_result: ResultPayload | None = None


class RedisCaller(CallerBroker):
    """See `juggler.broker.CallerBroker`.

    Results of all calls of this process go through lists of its own, under identifiers that are made here, so that
    clients can neither collide with nor receive each other's.

    Attributes:
        calls: calls that were stored.
        invalid: results that are none; dropped, too.
        expired: calls whose time was over before a result came.
        dropped: results for which nobody waits any more.
    """

    def __init__(self, names: Names, store: Store, watchdog: Watchdog, topology: Topology) -> None:
        self.expired = 0
        self.calls = 0
        self.invalid = 0
        self.dropped = 0
        self._names = names
        self._store = store
        self._watchdog = watchdog
        self._topology = topology
        self._table: dict[str, _Entry] = {}
        self._results: ResultsReader | None = None
        self._sweep = Sweep(names, topology)
        self._unserved: set[str] = set()
        self._closed = False
        self._prefix = ""
        self._count = 0

    def links(self) -> list[BaseLink]:
        """Return the links that read results."""
        return [] if self._results is None else self._results.links()

    def _start(self) -> ResultsReader:
        """Begin to wait for results.

        This is not in the constructor because forked processes must not share a list of results.
        """
        self._prefix = new_uuid()[:24]
        self._watchdog.add(self._expire)
        self._results = self._topology.make_results_reader(self._on_results)
        return self._results

    def call(self, uri: str, args: bytes, timeout: float, pending: PendingCall) -> None:
        if self._closed:
            pending.call_id = ""
            pending.on_stored(BrokerUnavailable("the broker is closed"))
            return
        results = self._results or self._start()
        self._count += 1
        call_id = f"{self._prefix}{self._count:012x}"
        pending.call_id = call_id
        entry = self._table[call_id] = _Entry(uri, pending, time.monotonic() + timeout)
        try:
            check_uri(uri)
            self._store.push(
                self._names.call_timeout(uri, call_id),
                self._names.calls(uri),
                codec.encode_call(CallPayload(results.conn_uuid(), call_id, uri, args)),
                timeout,
                lambda error: self._on_stored(entry, error),
            )
        except BrokerError as error:
            self._on_stored(entry, error)

    def forget(self, pending: PendingCall) -> None:
        entry = self._table.pop(pending.call_id, None)
        if entry is not None:
            entry.pending = None

    def queue_lengths(self, uris: Sequence[str]) -> dict[str, int]:
        """See `juggler.broker.Broker.queue_lengths`."""
        lengths: dict[str, int] = {}
        asked: set[str] = set()
        answered = Signal()

        def on_length(uri: str, reply: Reply) -> None:
            asked.discard(uri)
            if isinstance(reply, int):
                lengths[uri] = reply
            if not asked:
                answered.set()

        for uri in uris:
            key = self._names.calls(uri)
            asked.add(uri)
            try:
                self._topology.link_for(key).send(pack(b"LLEN", key), (partial(on_length, uri),))
            except BrokerError:
                asked.discard(uri)
        if asked:
            answered.wait(1.0)
        return dict(lengths)

    def close(self) -> None:
        self._closed = True
        if self._results is not None:
            self._results.close()
        self._table.clear()

    def _on_stored(self, entry: _Entry, error: BrokerError | None) -> None:
        pending = entry.pending
        if pending is None:
            return
        entry.stored = True
        if error is not None:
            self.forget(pending)
            pending.on_stored(error)
            return
        self.calls += 1
        pending.on_stored(None)
        if entry.early_result is not None:
            self._deliver(entry, entry.early_result)

    def _on_results(self, conn_uuid: str, batch: list[bytes]) -> None:
        over: list[bytes] = []
        now = time.monotonic()
        for data in batch:
            try:
                result = codec.decode_result(data)
            except InvalidMessage:
                self.invalid += 1
                self.dropped += 1
                continue
            over.append(self._names.result_timeout(conn_uuid, result.msg_uuid))
            entry = self._table.get(result.msg_uuid)
            if entry is None or entry.deadline <= now:
                self.dropped += 1
            elif entry.stored:
                self._deliver(entry, result)
            else:
                # The result has overtaken the reply to the push, which comes on another connection.
                entry.early_result = result
        self._store.delete(over)

    def _deliver(self, entry: _Entry, result: ResultPayload) -> None:
        pending = entry.pending
        if pending is not None:
            self.forget(pending)
            pending.on_result(result.args, result.failed)

    def _expire(self, _: float) -> None:
        now = time.monotonic()
        # The second time round, as their keys in Redis end a little later than we think.
        for uri in self._unserved:
            self._sweep.sweep(uri)
        over = [entry for entry in self._table.values() if entry.stored and entry.deadline <= now]
        self._unserved = {entry.uri for entry in over}
        for entry in over:
            pending = entry.pending
            if pending is not None:
                self.expired += 1
                self.forget(pending)
                pending.on_expired()
