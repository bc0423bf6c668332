"""The callee's role: pops calls that are still wanted, and pushes their results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from gevent.event import AsyncResult

from juggler import codec
from juggler.broker import CallConsumer, CalleeBroker, Done, IncomingCall
from juggler.broker.names import check_uris
from juggler.broker.redis.held import HeldResults
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import Link, as_error, ignore
from juggler.broker.redis.pop import Popped, Popper
from juggler.broker.redis.resp import pack
from juggler.broker.redis.routes import Routes
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

    def __init__(self, names: Names, store: Store, watchdog: Watchdog, routes: Routes) -> None:
        self.expired = 0
        self.late = 0
        self.invalid = 0
        self.names = names
        self._store = store
        self._routes = routes
        self._consumers: list[RedisConsumer] = []
        self._held = HeldResults(self.result, watchdog)
        self._closed = False
        routes.on_up(self._held.release)

    def calls(self, uris: Sequence[str]) -> CallConsumer:
        popper = self._routes.make_popper([self.names.calls(uri) for uri in check_uris(uris)])
        consumer = RedisConsumer(self, popper)
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

    def __init__(self, callee: RedisCallee, popper: Popper) -> None:
        self._callee = callee
        self._popper = popper
        self._popping = False
        self._closed = False

    def pop(self, limit: int) -> list[IncomingCall]:
        if self._closed:
            return []
        self._popping = True
        try:
            return self._still_wanted(self._popper.pop(limit))
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
            self._popper.close()

    def abort(self) -> None:
        """Close at once; what a pop under way may already have taken from Redis is lost."""
        self._closed = True
        self._popper.close()

    def _still_wanted(self, batches: list[Popped]) -> list[IncomingCall]:
        # All checks leave before the first one is waited for.
        checks = [self._check(batch.link, payloads) for batch in batches if (payloads := self._decode(batch.payloads))]
        calls: list[IncomingCall] = []
        failure: BrokerError | None = None
        for check in checks:
            try:
                wanted = check.wait()
            except BrokerError as error:
                failure = error
                continue
            self._callee.expired += len(check.payloads) - len(wanted)
            calls += wanted
        if failure is not None and not calls:
            raise failure
        return calls

    def _check(self, link: Link, payloads: list[CallPayload]) -> _Check:
        names = [self._callee.names.call_timeout(payload.uri, payload.msg_uuid) for payload in payloads]
        return _Check(link, payloads, names)

    def _decode(self, batch: list[bytes]) -> list[CallPayload]:
        payloads = []
        for data in batch:
            try:
                payloads.append(codec.decode_call(data))
            except InvalidMessage:
                self._callee.invalid += 1
        return payloads


class _Check:
    """Asks how long the calls of one list are still wanted, and deletes the keys that say so."""

    def __init__(self, link: Link, payloads: list[CallPayload], names: list[bytes]) -> None:
        self.payloads = payloads
        self._pttls: list[Any] = []
        self._deleted: AsyncResult = AsyncResult()
        try:
            link.send(_pack_pttl_and_delete(names), (*([self._pttls.append] * len(names)), self._deleted.set))
        except BrokerUnavailable as error:
            self._deleted.set(error)

    def wait(self) -> list[IncomingCall]:
        """Return the calls that are.

        Raises:
            BrokerError: Redis did not tell.
        """
        reply = self._deleted.get()
        if isinstance(reply, Exception):
            self._on_failure(reply)
        now = time.monotonic()
        return [
            IncomingCall(payload.conn_uuid, payload.msg_uuid, payload.uri, payload.args, now + pttl / 1000)
            for payload, pttl in zip(self.payloads, self._pttls, strict=True)
            if type(pttl) is int and pttl > 0
        ]

    def _on_failure(self, failure: Exception) -> None:
        """A key that could not be deleted ends by itself; what counts is what it said."""
        if not any(type(pttl) is int for pttl in self._pttls):
            raise as_error(failure)
        ignore(failure)


def _pack_pttl_and_delete(names: list[bytes]) -> bytes:
    parts = [b"*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n" % (len(name), name) for name in names]
    parts.append(pack(b"DEL", *names))
    return b"".join(parts)
