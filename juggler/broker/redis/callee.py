"""The callee's role: pops calls that are still wanted, and pushes their results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from gevent.event import AsyncResult

from juggler import codec
from juggler.broker import CallConsumer, CalleeBroker, Done, IncomingCall
from juggler.broker.names import check_uris
from juggler.broker.redis.held import HeldResults
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import as_error
from juggler.broker.redis.pop import PopLink
from juggler.broker.redis.resp import pack
from juggler.broker.redis.store import Store
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerError, BrokerUnavailable, InvalidMessage
from juggler.message import CallPayload, ResultPayload


class RedisCallee(CalleeBroker):
    """See `juggler.broker.CalleeBroker`.

    Attributes:
        expired: calls that were not wanted any more when they were popped.
        late: results that were not wanted any more when they were ready.
        invalid: payloads in a list of calls that are none.
        names: of the keys.
    """

    def __init__(self, names: Names, store: Store, watchdog: Watchdog, make_pop_link: Callable[[], PopLink]) -> None:
        self.expired = 0
        self.late = 0
        self.invalid = 0
        self.names = names
        self._store = store
        self._make_pop_link = make_pop_link
        self._consumers: list[RedisConsumer] = []
        self._held = HeldResults(self.result, watchdog)
        self._closed = False
        store.on_up(self._held.release)

    def calls(self, uris: Sequence[str]) -> CallConsumer:
        consumer = RedisConsumer(self, self._make_pop_link(), check_uris(uris))
        self._consumers.append(consumer)
        return consumer

    def result(self, call: IncomingCall, args: bytes, on_done: Done) -> None:
        remaining = call.deadline - time.monotonic()
        if remaining <= 0:
            self.late += 1
            on_done(None)
            return
        try:
            self._store.push(
                self.names.result_timeout(call.conn_uuid, call.msg_uuid),
                self.names.results(call.conn_uuid),
                codec.encode_result(ResultPayload(call.conn_uuid, call.msg_uuid, call.uri, args)),
                remaining,
                on_done,
            )
        except BrokerUnavailable as error:
            if self._closed:
                on_done(error)
            else:
                self._held.add(call, args, on_done, error)

    def close(self) -> None:
        self._closed = True
        self._held.close()
        for consumer in self._consumers:
            consumer.abort()
        self._consumers.clear()


class RedisConsumer(CallConsumer):
    """See `juggler.broker.CallConsumer`."""

    def __init__(self, callee: RedisCallee, link: PopLink, uris: Sequence[str]) -> None:
        self._callee = callee
        self._link = link
        self._keys = deque(callee.names.calls(uri) for uri in uris)
        self._popping = False
        self._closed = False

    def pop(self, limit: int) -> list[IncomingCall]:
        if self._closed:
            return []
        # The server looks at the lists in the order given: turn it, so that a busy one does not starve the others.
        self._keys.rotate(-1)
        self._popping = True
        try:
            return self._pop(limit)
        except BrokerError:
            if self._closed:
                return []  # type: ignore[unreachable]  # another greenlet may have closed it
            raise
        finally:
            self._popping = False
            self._close_if_done()

    def _pop(self, limit: int) -> list[IncomingCall]:
        popped: AsyncResult = AsyncResult()
        self._link.pop(self._keys, limit, popped.set)
        batch = popped.get()
        if isinstance(batch, Exception):
            raise as_error(batch)
        return self._still_wanted(batch) if batch else []

    def close(self) -> None:
        self._closed = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._closed and not self._popping:
            self._link.close()

    def abort(self) -> None:
        """Close at once; what a pop under way may already have taken from Redis is lost."""
        self._closed = True
        self._link.close()

    def _still_wanted(self, batch: list[bytes]) -> list[IncomingCall]:
        payloads = [payload for data in batch if (payload := self._decode(data)) is not None]
        if not payloads:
            return []
        names = [self._callee.names.call_timeout(payload.uri, payload.msg_uuid) for payload in payloads]
        pttls: list[Any] = []
        deleted: AsyncResult = AsyncResult()
        # On the connection that popped them, so that it takes no other one to be up.
        self._link.send(_pack_pttl_and_delete(names), (*([pttls.append] * len(names)), deleted.set))
        reply = deleted.get()
        if isinstance(reply, Exception):
            raise as_error(reply)
        now = time.monotonic()
        calls = [
            IncomingCall(payload.conn_uuid, payload.msg_uuid, payload.uri, payload.args, now + pttl / 1000)
            for payload, pttl in zip(payloads, pttls, strict=True)
            if type(pttl) is int and pttl > 0
        ]
        self._callee.expired += len(payloads) - len(calls)
        return calls

    def _decode(self, data: bytes) -> CallPayload | None:
        try:
            return codec.decode_call(data)
        except InvalidMessage:
            self._callee.invalid += 1
            return None


def _pack_pttl_and_delete(names: list[bytes]) -> bytes:
    parts = [b"*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n" % (len(name), name) for name in names]
    parts.append(pack(b"DEL", *names))
    return b"".join(parts)
