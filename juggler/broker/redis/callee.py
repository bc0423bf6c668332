"""The callee's role: pop calls that are still wanted, and push their results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from gevent.event import AsyncResult

from juggler.broker import (
    CallConsumer,
    CalleeBroker,
    Choose,
    ControlListener,
    Done,
    IncomingCall,
    client_of,
    is_from_juggler,
)
from juggler.broker.names import check_uris
from juggler.broker.redis.call_source import CallSource
from juggler.broker.redis.chosen_calls import ChosenCalls
from juggler.broker.redis.commands import PTTL, RESULTS_TTL, delete, mget, packed_key
from juggler.broker.redis.control_reader import ControlReader
from juggler.broker.redis.keys import Names
from juggler.broker.redis.replies import Reply, as_error, ignore, is_temporary
from juggler.broker.redis.store import Store, push_error
from juggler.broker.redis.topology import Topology
from juggler.broker.redis.unsent_results import UnsentResults
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerError, BrokerUnavailable, InvalidMessage
from juggler.protocol import codec
from juggler.protocol.codec import StoredCall
from juggler.protocol.messages import NULL


class RedisCallee(CalleeBroker):
    """See `juggler.broker.CalleeBroker`.

    Attributes:
        expired: calls that had expired or been abandoned when they were popped.
        unchecked: failed attempts to check whether popped calls are still wanted.
        late: results that were ready only after their call had expired or been abandoned.
        invalid: malformed calls.
        names: names of the keys.
    """

    def __init__(self, names: Names, watchdog: Watchdog, topology: Topology, capacity: int) -> None:
        """Create a callee with the ``result_capacity`` of `juggler.broker.redis.RedisBroker`."""
        self._watchdog = watchdog
        self._parts = Store(topology, capacity, RESULTS_TTL, _on_part_pushed)
        self._readers: dict[str, ControlReader] = {}
        self.expired = 0
        self.unchecked = 0
        self.late = 0
        self.invalid = 0
        self.names = names
        self._store = Store(topology, capacity, RESULTS_TTL, self._on_pushed)
        self._topology = topology
        self._consumers: set[RedisConsumer] = set()
        self._unsent = UnsentResults(self.result, watchdog)
        self._closed = False
        topology.on_up(self._unsent.release)

    def calls(self, uris: Sequence[str]) -> RedisConsumer:
        lists = [self.names.calls(uri) for uri in check_uris(uris)]
        chosen = ChosenCalls(lists, self._topology)
        consumer = RedisConsumer(self, self._topology.make_call_source(lists), chosen, self._topology)
        self._consumers.add(consumer)
        if self._closed:
            consumer.abort()
        return consumer

    def forget(self, consumer: RedisConsumer) -> None:
        """Forget a closed consumer. Idempotent."""
        self._consumers.discard(consumer)

    def result(self, call: IncomingCall, args: bytes, on_done: Done, failed: bool | None = None) -> None:
        remaining = call.deadline - time.monotonic()
        if remaining <= 0:
            self.late += 1
            on_done(None)
            return
        keyless = is_from_juggler(call.msg_uuid)
        try:
            self._store.push(
                b"" if keyless else self.names.result_timeout(call.conn_uuid, call.msg_uuid),
                self.names.results(call.conn_uuid),
                codec.encode_result(call.conn_uuid, call.msg_uuid, call.uri, args, failed, keyless=keyless),
                remaining,
                (call, args, on_done, failed),
            )
        except BrokerUnavailable as error:
            if self._closed:
                on_done(error)
            else:
                self._unsent.add(call, args, on_done, failed, error)

    def part(
        self, call: IncomingCall, callee_id: str, on_done: Done, seq: int = 0, args: bytes = NULL, joined: bool = False
    ) -> None:
        try:
            self._parts.push(
                b"",  # only servers that keep deadlines themselves ask for parts
                self.names.results(call.conn_uuid),
                codec.encode_result(
                    call.conn_uuid, call.msg_uuid, call.uri, args, seq=seq, more=True, callee=callee_id, joined=joined
                ),
                max(0.0, call.deadline - time.monotonic()),
                on_done,
            )
        except BrokerUnavailable as error:
            on_done(error)

    def listen(self, callee_id: str, listener: ControlListener) -> None:
        self._readers[callee_id] = ControlReader(
            callee_id, listener, self.part, self.names, self._topology, self._watchdog
        )

    def unlisten(self, callee_id: str) -> None:
        reader = self._readers.pop(callee_id, None)
        if reader is not None:
            reader.close()

    def _on_pushed(self, result: tuple[IncomingCall, bytes, Done, bool | None], reply: Reply) -> None:
        call, args, on_done, failed = result
        error = None if type(reply) is int and reply >= 0 else push_error(reply)
        if isinstance(error, BrokerUnavailable) and is_temporary(reply) and not self._closed:
            self._unsent.add(call, args, on_done, failed, error)
        else:
            on_done(error)

    def close(self) -> None:
        self._closed = True
        self._unsent.close()
        for callee_id in list(self._readers):
            self.unlisten(callee_id)
        for consumer in list(self._consumers):
            consumer.abort()


def _on_part_pushed(on_done: Done, reply: Reply) -> None:
    on_done(push_error(reply))


class RedisConsumer(CallConsumer):
    """See `juggler.broker.CallConsumer`.

    Attributes:
        source: what it pops from.
    """

    def __init__(self, callee: RedisCallee, source: CallSource, chosen: ChosenCalls, topology: Topology) -> None:
        self.source = source
        self._chosen = chosen
        self._callee = callee
        self._topology = topology
        # Popped calls for which the check whether they are still wanted has failed.
        self._unchecked: list[list[StoredCall]] = []
        self._popping = False
        self.closed = False

    def pop(self, limit: int) -> list[IncomingCall]:
        return self._pop(lambda: self._pop_oldest(limit))

    def pop_chosen(self, limit: int, choose: Choose) -> list[IncomingCall]:
        return self._pop(lambda: self._pop_chosen(limit, choose))

    def _pop(self, pop: Callable[[], list[IncomingCall]]) -> list[IncomingCall]:
        if self.closed:
            return []
        self._popping = True
        try:
            return pop()
        except BrokerError:
            if self.closed:
                return []  # type: ignore[unreachable]  # another greenlet may have closed it
            raise
        finally:
            self._popping = False
            self._close_if_done()

    def _pop_oldest(self, limit: int) -> list[IncomingCall]:
        batches, self._unchecked = self._unchecked, []
        return self._still_wanted(batches or [self._decode(batch) for batch in self.source.pop(limit)])

    def _pop_chosen(self, limit: int, choose: Choose) -> list[IncomingCall]:
        if self._unchecked or not self._chosen.is_permitted:
            return self._pop_oldest(limit)
        while batches := self._chosen.pop(limit, choose):
            calls = self._still_wanted([self._decode(batch) for batch in batches])
            if calls or self.closed:
                return calls
        return []

    def close(self) -> None:
        self.closed = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.closed and not self._popping:
            self._end()

    def abort(self) -> None:
        """Close at once. Calls that a concurrent pop has taken from Redis are lost."""
        self.closed = True
        self._end()

    def _end(self) -> None:
        self.source.close()
        self._callee.forget(self)

    def _decode(self, batch: list[bytes]) -> list[StoredCall]:
        popped = []
        for data in batch:
            try:
                popped.append(codec.decode_call(data))
            except InvalidMessage:
                self._callee.invalid += 1
        return popped

    def _still_wanted(self, batches: list[list[StoredCall]]) -> list[IncomingCall]:
        # All checks are sent before the first reply is awaited.
        checks = [(popped, *self._ask(popped)) for popped in batches if popped]
        calls: list[IncomingCall] = []
        failure: BrokerError | None = None
        for popped, key, packed, replies in checks:
            try:
                wanted = self._wanted(popped, key, packed, replies.get())
            except BrokerError as error:
                # Redis no longer has them, so they are kept here until the check succeeds.
                self._unchecked.append(popped)
                self._callee.unchecked += 1
                failure = error
                continue
            self._callee.expired += len(popped) - len(wanted)
            calls += wanted
        if failure is not None and not calls:
            raise failure
        return calls

    def _ask(self, popped: list[StoredCall]) -> tuple[bytes, list[bytes], AsyncResult]:
        """Ask for the remaining times and the timeouts of calls from one list.

        Returns:
            The key of the first one, the keys of all, packed, and the replies.
        """
        call_timeout = self._callee.names.call_timeout
        keys = [call_timeout(call.uri, call.msg_uuid) for call in popped]
        packed = [packed_key(key) for key in keys]
        replies: AsyncResult = AsyncResult()
        try:
            self._topology.link_for(keys[0]).gather([*[PTTL + key for key in packed], mget(packed)], replies.set)
        except BrokerUnavailable as error:
            replies.set_exception(error)
        return keys[0], packed, replies

    def _wanted(
        self, popped: list[StoredCall], key: bytes, packed: list[bytes], replies: list[Reply]
    ) -> list[IncomingCall]:
        """Return the calls that are still wanted, and delete the timeout keys of all.

        Raises:
            BrokerError: Redis refused. Nothing was deleted.
        """
        *pttls, timeouts = replies
        for pttl in pttls:
            if isinstance(pttl, Exception):
                raise as_error(pttl)
        if not isinstance(timeouts, list):
            # MGET is not permitted, or the connection was lost: the time for which calls have waited is unknown.
            timeouts = [None] * len(packed)
        now = time.monotonic()
        # A key that is not deleted expires.
        with suppress(BrokerUnavailable):
            self._topology.link_for(key).send(delete(packed), (ignore,))
        return [
            IncomingCall(
                call.conn_uuid,
                call.msg_uuid,
                call.uri,
                call.args,
                now + pttl / 1000,
                # The value of the key is the call's timeout. The key may have expired between the two commands.
                (int(timeout) - pttl) / 1000 if timeout and timeout.isdigit() else 0.0,
                by=call.by,
                parts=call.parts,
                trace=call.trace,
                client=client_of(call.conn_uuid, call.msg_uuid),
            )
            for call, pttl, timeout in zip(popped, pttls, timeouts, strict=True)
            if pttl > 0
        ]
