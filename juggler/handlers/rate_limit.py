"""Limits how often requests come, by token buckets."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from juggler.errors import ConfigError, NackCode, Refused
from juggler.protocol.messages import REQUEST_TYPES, Message, MessageType
from juggler.server.processing import Context, Handler, Middleware

if TYPE_CHECKING:
    from juggler.server.connection import Connection

Key: TypeAlias = "Callable[[Connection, Message], Hashable]"


def by_connection(connection: Connection, message: Message) -> Hashable:
    """One bucket for each connection."""
    return connection.uuid


def by_identity(connection: Connection, message: Message) -> Hashable:
    """One bucket for all connections of an identity; for each connection where there is none, or it is not hashable.

    A mapping, the claims of a JWT for example, is told apart by its ``iss`` and ``sub``.
    """
    identity = connection.identity
    if isinstance(identity, Mapping):
        identity = (identity.get("iss"), identity["sub"]) if identity.get("sub") else None
    try:
        hash(identity)
    except TypeError:
        identity = None
    return connection.uuid if identity is None else ("identity", identity)


def by_name(connection: Connection, message: Message) -> Hashable:
    """One bucket for each URI or channel of each connection."""
    name = getattr(message, "uri", None) or getattr(message, "channel", "")
    return connection.uuid, message.type, name


KEYS: dict[str, Key] = {"connection": by_connection, "identity": by_identity, "uri": by_name}


class Buckets:
    """Token buckets by key.

    A bucket holds up to ``burst`` tokens and gains ``rate`` of them a second. One that is not there is full.

    Args:
        rate: tokens a second.
        burst: the most tokens in a bucket, and how many a new one has.
        most: buckets that are kept; beyond it, the one that has been used least recently is dropped.
        clock: returns the time in seconds.
    """

    def __init__(
        self, rate: float, burst: float, most: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not rate > 0 or not burst >= 1 or most < 1:
            raise ConfigError(
                f"expected a rate over 0, a burst and a number of buckets from 1, got {rate}, {burst}, {most}"
            )
        self._rate = rate
        self._burst = burst
        self._most = most
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable) -> float:
        """Take a token. Return 0, or the seconds until there is one, when none was taken."""
        now = self._clock()
        tokens, since = self._buckets.get(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._buckets[key] = (tokens if wait else tokens - 1, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return wait


def rate_limit(
    rate: float,
    burst: float | None = None,
    *,
    key: str | Key = "connection",
    types: Collection[MessageType] = REQUEST_TYPES,
    most_buckets: int = 10_000,
    clock: Callable[[], float] = time.monotonic,
) -> Middleware:
    """Return a middleware that refuses with NACK 429, and the time to wait, what comes too often.

    Each server process counts for itself. Several of these may be chained, by different keys.

    Args:
        rate: requests a second, over time.
        burst: requests at once, at least 1; None means one second's worth.
        key: what has a bucket of its own: ``"connection"``, ``"identity"`` (over all its connections), ``"uri"`` (each
            URI or channel of each connection), or a function of the connection and the message.
        types: the types of requests that are limited, and that share a bucket.
        most_buckets: how many are kept, about 200 bytes each; the one used least recently is dropped, and counts as
            full when it is needed again. Who can use more keys than that gets round the limit: put one by connection
            outside of one by URI.
        clock: returns the time in seconds.

    Raises:
        ConfigError: a value is out of its range, the key is unknown, or a type is no request's.
    """
    if isinstance(key, str) and key not in KEYS:
        raise ConfigError(f"key: expected one of {', '.join(KEYS)}, or a function, got {key!r}")
    if not set(types) <= REQUEST_TYPES:
        raise ConfigError(f"types: expected types of requests, got {types!r}")
    key_of = KEYS[key] if isinstance(key, str) else key
    buckets = Buckets(rate, max(1.0, rate) if burst is None else burst, most_buckets, clock)
    limited = frozenset(types)

    def middleware(next_handler: Handler) -> Handler:
        def handler(ctx: Context, connection: Connection, message: Message) -> None:
            if message.type in limited and (wait := buckets.take(key_of(connection, message))):
                # Rounded up: who comes back then must not be early.
                shown = math.ceil(wait * 100) / 100
                raise Refused(NackCode.TOO_MANY_REQUESTS, f"too many requests: try again in {shown:.2f} s")
            next_handler(ctx, connection, message)

        return handler

    return middleware
