"""The callee's role: pops calls that are still wanted, and pushes their results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from gevent.event import AsyncResult

from juggler.broker import CallConsumer, CalleeBroker, Done, IncomingCall
from juggler.broker.names import check_uris
from juggler.broker.redis.call_source import CallSource
from juggler.broker.redis.commands import pack, pttl
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import Reply, as_error, ignore
from juggler.broker.redis.store import Store, push_error
from juggler.broker.redis.topology import Topology
from juggler.broker.redis.unsent_results import HeldResult, UnsentResults
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerError, BrokerUnavailable, InvalidMessage
from juggler.protocol import codec
from juggler.protocol.messages import CallPayload


class RedisCallee(CalleeBroker):
    """See `juggler.broker.CalleeBroker`.

    Attributes:
        expired: calls that were not wanted any more when they were popped.
        unchecked: failed attempts to learn whether popped calls are still wanted.
        late: results that were not wanted any more when they were ready.
        invalid: payloads in a list of calls that are none.
        names: of the keys.
    """

    def __init__(self, names: Names, store: Store, watchdog: Watchdog, topology: Topology) -> None:
        self.expired = 0
        self.unchecked = 0
        self.late = 0
        self.invalid = 0
        self.names = names
        self._store = store
        self._topology = topology
        self._consumers: set[RedisConsumer] = set()
        self._held = UnsentResults(lambda held: self.result(*held), watchdog)
        self._closed = False
        topology.on_up(self._held.release)

    def calls(self, uris: Sequence[str]) -> CallConsumer:
        source = self._topology.make_call_source([self.names.calls(uri) for uri in check_uris(uris)])
        consumer = RedisConsumer(self, source, self._topology)
        self._consumers.add(consumer)
        if self._closed:
            consumer.abort()
        return consumer

    def forget(self, consumer: RedisConsumer) -> None:
        """A consumer has closed its connections. Idempotent."""
        self._consumers.discard(consumer)

    def result(self, call: IncomingCall, args: bytes, on_done: Done, failed: bool | None = None) -> None:
        remaining = call.deadline - time.monotonic()
        if remaining <= 0:
            self.late += 1
            on_done(None)
            return
        try:
            self._store.push(
                self.names.result_timeout(call.conn_uuid, call.msg_uuid),
                self.names.results(call.conn_uuid),
                codec.encode_result(call.conn_uuid, call.msg_uuid, call.uri, args, failed),
                remaining,
                lambda reply: on_done(push_error(reply)),
            )
        except BrokerUnavailable as error:
            if self._closed:
                on_done(error)
            else:
                self._held.add(HeldResult(call, args, on_done, failed), error)

    def close(self) -> None:
        self._closed = True
        self._held.close()
        for consumer in list(self._consumers):
            consumer.abort()


class RedisConsumer(CallConsumer):
    """See `juggler.broker.CallConsumer`."""

    def __init__(self, callee: RedisCallee, source: CallSource, topology: Topology) -> None:
        self._callee = callee
        self._source = source
        self._topology = topology
        # Calls that were popped while it could not be asked whether they are still wanted.
        self._unchecked: list[list[CallPayload]] = []
        self._popping = False
        self._closed = False

    def pop(self, limit: int) -> list[IncomingCall]:
        if self._closed:
            return []
        self._popping = True
        try:
            batches, self._unchecked = self._unchecked, []
            return self._still_wanted(batches or [self._decode(batch) for batch in self._source.pop(limit)])
        except BrokerError:
            if self._closed:
                return []  # type: ignore[unreachable]  # another greenlet may have closed it
            raise
        finally:
            self._popping = False
            self._close_if_done()

    def close(self) -> None:
        self._closed = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._closed and not self._popping:
            self._end()

    def abort(self) -> None:
        """Close at once; what a pop under way may already have taken from Redis is lost."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        self._source.close()
        self._callee.forget(self)

    def _still_wanted(self, batches: list[list[CallPayload]]) -> list[IncomingCall]:
        # All checks leave before the first one is waited for.
        checks = [_Check(self._topology, self._callee.names, payloads) for payloads in batches if payloads]
        calls: list[IncomingCall] = []
        failure: BrokerError | None = None
        for check in checks:
            try:
                wanted = check.wait()
            except BrokerError as error:
                # Redis does not have them any more: nobody else will ever run them.
                self._unchecked.append(check.payloads)
                self._callee.unchecked += 1
                failure = error
                continue
            self._callee.expired += len(check.payloads) - len(wanted)
            calls += wanted
        if failure is not None and not calls:
            raise failure
        return calls

    def _decode(self, batch: list[bytes]) -> list[CallPayload]:
        payloads = []
        for data in batch:
            try:
                payloads.append(codec.decode_call(data))
            except InvalidMessage:
                self._callee.invalid += 1
        return payloads


class _Check:
    """Asks how long the calls of one list are still wanted, then deletes the keys that say so."""

    def __init__(self, topology: Topology, names: Names, payloads: list[CallPayload]) -> None:
        self.payloads = payloads
        self._topology = topology
        self._keys = [names.call_timeout(payload.uri, payload.msg_uuid) for payload in payloads]
        self._pttls: list[Any] = []
        self._timeouts: Reply = None
        self._known: AsyncResult = AsyncResult()
        try:
            packed = pttl(self._keys) + pack(b"MGET", *self._keys)
            on_replies = [self._pttls.append] * len(payloads)
            topology.link_for(self._keys[0]).send(packed, (*on_replies, self._on_timeouts))
        except BrokerUnavailable as error:
            self._known.set(error)

    def _on_timeouts(self, reply: Reply) -> None:
        self._timeouts = reply
        self._known.set(None)

    def wait(self) -> list[IncomingCall]:
        """Return the calls that are.

        Raises:
            BrokerError: Redis did not tell. It may be asked again: nothing was deleted.
        """
        failures = [self._known.get(), *self._pttls]
        for failure in failures:
            if isinstance(failure, Exception):
                raise as_error(failure)
        now = time.monotonic()
        # Without the right to them, nobody knows how long calls have waited, and no more than that.
        timeouts = self._timeouts if isinstance(self._timeouts, list) else [None] * len(self._keys)
        self._delete()
        return [
            IncomingCall(
                payload.conn_uuid,
                payload.msg_uuid,
                payload.uri,
                payload.args,
                now + pttl / 1000,
                # The key's value is the call's timeout; it may have ended just now.
                (int(timeout) - pttl) / 1000 if timeout and timeout.isdigit() else 0.0,
            )
            for payload, pttl, timeout in zip(self.payloads, self._pttls, timeouts, strict=True)
            if pttl > 0
        ]

    def _delete(self) -> None:
        # A key that is not deleted ends by itself.
        with suppress(BrokerUnavailable):
            self._topology.link_for(self._keys[0]).send(pack(b"DEL", *self._keys), (ignore,))
