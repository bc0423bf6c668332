"""Tokens on live connections: asks the connect hook, renews identities, and closes connections whose own has expired.

Expiry costs a connection nothing while it does not expire, and no timer: one greenlet of the server looks at all.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any, Protocol

import gevent

from juggler.errors import CloseCode, HandshakeRefused, NackCode, Refused
from juggler.process.logline import Line
from juggler.protocol.messages import Ack, Auth, MessageType, Nack, nack
from juggler.protocol.subprotocols import JUGGLER_1
from juggler.server.connect_hook import ANONYMOUS, Connect, ConnectRequest, Unauthorized
from juggler.server.identities import Identity, who

log = logging.getLogger("juggler.server")

MAX_TOKEN = 16 * 1024
"""Maximum length of the token of an AUTH in characters: what the headers of a request may have."""

RATE, BURST = 1.0, 10
"""AUTHs of a connection: per second on average, and at once."""

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # between two sweeps
_BATCH = 256  # connections between two turns of the loop
_STOPS = (gevent.GreenletExit, KeyboardInterrupt)  # from outside: every other exception is one of the hook


class TokenState:
    """What a server keeps of a connection whose identity expires, or that has sent AUTH.

    Attributes:
        expires: when its identity expires, in seconds of a monotonic clock; infinite if it does not.
        request: the query and the headers of its request, see `ConnectRequest.saved`.
        greenlet: processes an AUTH; ``None`` if there is none.
        is_asking: whether this greenlet waits for the connect hook.
        permitted: UUIDs of the checks of subscriptions that have passed the handler.
        spent_until: when the connection may send AUTH at the full rate again, likewise.
    """

    __slots__ = ("expires", "greenlet", "is_asking", "permitted", "request", "spent_until")

    def __init__(self, expires: float, request: str) -> None:
        self.expires = expires
        self.request = request
        self.greenlet: gevent.Greenlet | None = None
        self.is_asking = False
        self.permitted: tuple[str, ...] = ()
        self.spent_until = 0.0

    def took_permission(self, uuid: str) -> bool:
        """Return whether the check of a subscription has passed the handler, and forget it."""
        before = len(self.permitted)
        self.permitted = tuple(each for each in self.permitted if each != uuid)
        return len(self.permitted) < before


class Holder(Protocol):
    """A connection, as far as this module knows it; see `juggler.server.connection.Connection`."""

    uuid: str
    path: str
    subprotocol: str | None
    allowed: frozenset[int]
    address: str
    peer: str
    peer_port: int | None
    local_address: str
    local_port: int | None
    identity: Any
    by: bytes | None
    unanswered: int
    token_state: TokenState | None

    def answer(self, response: Ack | Nack) -> None: ...

    def answered(self) -> None: ...

    def close(self, code: int = ..., reason: str = ...) -> None: ...

    def identify(self) -> bytes: ...

    def check_subscriptions(self) -> None: ...


class Tokens:
    """The connect hook of one server, and the connections whose identities expire.

    Args:
        connect: the connect hook.
        timeout: seconds that it may take.
        grace: seconds after expiry in which a client of juggler.1 may still renew its identity.
    """

    def __init__(self, connect: Connect, timeout: float, grace: float) -> None:
        self._connect = connect
        self._timeout = timeout
        self._grace = grace
        self._due: dict[Holder, float] = {}  # when to close those whose identity expires
        self._watcher: gevent.Greenlet | None = None

    def ask(self, request: ConnectRequest) -> Identity:
        """Return the identity that the connect hook returns, with ``None`` for `ANONYMOUS`. Blocks.

        Raises:
            HandshakeRefused: the hook refuses the client; 503 if it fails.
        """
        try:
            with gevent.Timeout(self._timeout):
                answer = self._connect(request)
            identity = answer if isinstance(answer, Identity) else Identity(answer)
            if not identity:
                raise Unauthorized("the connect hook returned no identity")
            if identity.seconds_left(time.time()) <= 0:
                raise Unauthorized("the token has expired")
            return Identity(None, identity.expires_at) if identity.value is ANONYMOUS else identity
        except (HandshakeRefused, *_STOPS):
            raise
        except BaseException:  # gevent.Timeout, SystemExit, asyncio.CancelledError
            raise _failed(request.address) from None

    # Expiry

    def watch(self, connection: Holder) -> None:
        """Close a connection when its identity has expired, until `discard`. To be called again when that changes."""
        state = connection.token_state
        if state is None or state.expires == math.inf:
            self._due.pop(connection, None)
            return
        self._due[connection] = state.expires + (self._grace if connection.subprotocol == JUGGLER_1 else 0.0)
        if self._watcher is None or self._watcher.dead:
            self._watcher = gevent.Greenlet(self._watch)
            self._watcher.name = "juggler-token-expiry"
            self._watcher.start()

    def discard(self, connection: Holder) -> None:
        """Forget a connection that has closed. Idempotent."""
        self._due.pop(connection, None)
        state = connection.token_state
        if state is not None and state.greenlet is not None:
            greenlet, state.greenlet = state.greenlet, None
            greenlet.kill(block=False)

    def close(self) -> None:
        """Stop the greenlet. Idempotent."""
        self._due.clear()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.kill(block=False)

    def _watch(self) -> None:
        while self._due:
            gevent.sleep(self._sweep())
        self._watcher = None

    def _sweep(self) -> float:
        """Close the connections that are due. Return the seconds until the next sweep."""
        now = time.monotonic()
        late = [connection for connection, due in self._due.items() if due <= now]
        for number, connection in enumerate(late, 1):
            state = connection.token_state
            # Others run in between: it may have renewed its token, or closed. An AUTH that the hook has was in time.
            if state is not None and not state.is_asking and self._is_late(connection):
                del self._due[connection]
                connection.close(CloseCode.TOKEN_EXPIRED, "the token has expired")
            if number % _BATCH == 0:
                gevent.sleep(1e-9)
        left = min(self._due.values(), default=math.inf) - time.monotonic()
        return max(_SHORTEST_PAUSE, min(_LONGEST_PAUSE, left))

    def _is_late(self, connection: Holder) -> bool:
        return self._due.get(connection, math.inf) <= time.monotonic()

    # Renewal

    def renew(self, connection: Holder, message: Auth) -> None:
        """Process an AUTH: its answer follows when the connect hook has returned. Does not block.

        Raises:
            Refused: the token is malformed, or there are too many AUTHs.
        """
        if not message.token:
            raise Refused(NackCode.UNAUTHORIZED, "token: expected one, got an empty string")
        if len(message.token) > MAX_TOKEN:
            reason = f"token: expected at most {MAX_TOKEN} characters, got {len(message.token)}"
            raise Refused(NackCode.BAD_REQUEST, reason)
        if connection.token_state is None:
            connection.token_state = TokenState(math.inf, "")
        state = connection.token_state
        if self._is_late(connection):
            connection.close(CloseCode.TOKEN_EXPIRED, "the token has expired")
            return
        now = time.monotonic()
        spent = max(state.spent_until, now) + 1 / RATE
        if state.greenlet is not None or spent > now + BURST / RATE:
            raise Refused(
                NackCode.TOO_MANY_REQUESTS, f"AUTH: expected at most {RATE:g} per second, one after the other"
            )
        state.spent_until = spent
        connection.unanswered += 1
        greenlet = state.greenlet = gevent.Greenlet(self._renew, connection, state, message)
        greenlet.name = f"juggler-auth-{connection.uuid}"
        greenlet.start()

    def _renew(self, connection: Holder, state: TokenState, message: Auth) -> None:
        # An exception that stays in the greenlet would keep all this alive through its traceback.
        try:
            try:
                self._ask_again(connection, state, message)
            except HandshakeRefused as refusal:
                connection.answer(nack(message, _code(refusal.status), refusal.reason))
            else:
                connection.check_subscriptions()
        except KeyboardInterrupt:
            raise
        except BaseException:
            if state.greenlet is not None:  # else `discard` has killed it
                log.exception(Line("server: renewal failed"), extra={"connection": connection.uuid})
                connection.close(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            state.greenlet = None

    def _ask_again(self, connection: Holder, state: TokenState, message: Auth) -> None:
        """Renew the identity of a connection, or close it if the token is that of another identity.

        Raises:
            HandshakeRefused: the hook refuses the token; 503 if it fails.
        """
        state.is_asking = True
        try:
            identity = self.ask(_request(connection, state, message.token))
        finally:
            state.is_asking = False
        try:
            is_same = bool(who(identity.value) == who(connection.identity))
        except _STOPS:
            raise
        except BaseException:  # of an __eq__
            raise _failed(connection.address) from None
        if not is_same:
            connection.answered()
            connection.close(CloseCode.MESSAGE_NOT_ALLOWED, "the token is that of another identity")
            return
        left = identity.seconds_left(time.time())
        state.expires = time.monotonic() + left
        connection.identity = identity.value
        self.watch(connection)
        if connection.by is not None:
            self._identify(connection)
        connection.answer(Ack(for_=message.uuid, for_type=MessageType.AUTH, ttl=ttl(state)))

    def _identify(self, connection: Holder) -> None:
        """Replace the identity that calls carry: the claims may be others."""
        try:
            connection.identify()
        except _STOPS:
            raise
        except BaseException as error:
            connection.by = None  # the next call asks again, and is refused if that fails
            log.warning(Line("server: caller hook failed", error=error), extra={"connection": connection.uuid})


def _request(connection: Holder, state: TokenState, token: str) -> ConnectRequest:
    """Return the request of a connection as it would be with a new token."""
    request = ConnectRequest.restored(
        state.request, token, path=connection.path, subprotocol=connection.subprotocol, allowed=connection.allowed
    )
    request.address = connection.address
    request.peer, request.peer_port = connection.peer, connection.peer_port
    request.local_address, request.local_port = connection.local_address, connection.local_port
    return request


def ttl(state: TokenState | None) -> float | None:
    """Return the seconds until an identity expires, as clients receive them; ``None`` if it does not."""
    if state is None or state.expires == math.inf:
        return None
    return max(0.0, round(state.expires - time.monotonic(), 3))


def _failed(address: str) -> HandshakeRefused:
    """Log the exception that is being handled, and return the refusal."""
    log.exception(Line("server: connect hook failed", client=address or "UNIX socket"))
    reason = "authentication is temporarily unavailable"
    return HandshakeRefused("503 Service Unavailable", reason, [("Retry-After", "5")])


def _code(status: str) -> int:
    code = status[:3]
    return int(code) if code.isdecimal() and 400 <= int(code) <= 599 else NackCode.UNAUTHORIZED
