"""Limit the rate of requests, with token buckets."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace

from juggler.errors import ConfigError, NackCode, Refused
from juggler.protocol.custom import registered_types
from juggler.protocol.messages import ALL_REQUEST_TYPES, CustomType, Message, MessageType, Sub, Wlcm
from juggler.server.connect_hook import address_group
from juggler.server.identities import who
from juggler.server.processing import Context, Handler, Middleware

if TYPE_CHECKING:
    from juggler.server.connection import Connection

Key: TypeAlias = "Callable[[Connection, Message], Hashable]"


def by_connection(connection: Connection, message: Message) -> Hashable:
    """Use one bucket per connection."""
    return connection.uuid


def by_identity(connection: Connection, message: Message) -> Hashable:
    """Use one bucket per identity, for all its connections.

    Of a mapping, for example the claims of a JWT, ``iss`` and ``sub`` count. Connections without an
    identity, or with one that is not hashable, have one bucket each.
    """
    identity = who(connection.identity)
    try:
        hash(identity)
    except TypeError:
        identity = None
    return connection.uuid if identity is None else ("identity", identity)


def by_address(connection: Connection, message: Message) -> Hashable:
    """Use one bucket per client address, of IPv6 per /64 network. A reconnect does not fill it."""
    return ("address", address_group(connection.address)) if connection.address else connection.uuid


def by_name(connection: Connection, message: Message) -> Hashable:
    """Use one bucket per connection and URI or channel."""
    name = getattr(message, "uri", None) or getattr(message, "channel", "")
    return connection.uuid, message.type, name


KEYS: dict[str, Key] = {"connection": by_connection, "identity": by_identity, "address": by_address, "uri": by_name}


class Buckets:
    """Token buckets by key. A missing bucket counts as full.

    Args:
        rate: tokens added to each bucket per second.
        burst: maximum tokens in a bucket.
        most: maximum buckets; beyond it, the least recently used one is dropped.
        clock: returns the time in seconds.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(
        self, rate: float, burst: float, most: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not rate > 0 or not burst >= 1 or most < 1:
            raise ConfigError(
                "rate limit: expected rate > 0, burst >= 1 and most_buckets >= 1, "
                f"got rate {rate}, burst {burst}, most_buckets {most}"
            )
        self._rate = rate
        self._burst = burst
        self._most = most
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable) -> float:
        """Take a token and return 0, or return the seconds until one is available."""
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
    types: Collection[MessageType | CustomType] | None = None,
    most_buckets: int = 10_000,
    clock: Callable[[], float] = time.monotonic,
) -> Middleware:
    """Return a middleware that refuses requests over a rate with NACK 429 and the time to wait.

    Each server process counts for itself. Several rate limits with different keys may be chained. Clients of juggler.1
    find them in the WLCM, as ``rate_limits``.

    Args:
        rate: requests per second, on average.
        burst: maximum requests at once, at least 1. Default: the requests of one second.
        key: unit that the limit applies to: ``"connection"``, ``"identity"`` or ``"address"`` (all its connections
            together), ``"uri"`` (each URI or channel of a connection), or a function of the connection and the message
            that returns a hashable key. Default: ``"connection"``.
        types: types of requests that are limited, together. Default: all but CRDT, which gets no answer. Those that
            are registered by now are included, see `juggler.protocol.custom`.
        most_buckets: maximum keys to remember, at about 200 bytes each. The least recently used one is forgotten, so a
            client with more keys evades the limit: put a limit by connection outside of one by URI. Default: 10,000.
        clock: returns the time in seconds.

    Raises:
        ConfigError: a value is out of range, the key is unknown, or a type is not a request's.
    """
    if isinstance(key, str) and key not in KEYS:
        raise ConfigError(f"key: expected one of {', '.join(KEYS)}, or a function, got {key!r}")
    known: set[MessageType | CustomType] = {
        *ALL_REQUEST_TYPES,
        *(each for each in registered_types() if each.is_request),
    }
    limited: frozenset[MessageType | CustomType] = frozenset(known - {MessageType.CRDT} if types is None else types)
    if not limited <= known:
        raise ConfigError(f"types: expected types of requests such as MessageType.CALL, got {types!r}")
    key_of = KEYS[key] if isinstance(key, str) else key
    burst = max(1.0, rate) if burst is None else burst
    buckets = Buckets(rate, burst, most_buckets, clock)
    reported = {
        "rate": rate,
        "burst": burst,
        "key": key if isinstance(key, str) else "other",
        "types": sorted(type.name for type in limited),
    }

    def middleware(next_handler: Handler) -> Handler:
        def handler(ctx: Context, connection: Connection, message: Message) -> None:
            if isinstance(message, Wlcm):
                limits = {**message.limits, "rate_limits": [*message.limits.get("rate_limits", ()), reported]}
                message = replace(message, limits=limits)
            elif isinstance(message, Sub) and message.is_check:
                pass  # the client has not sent it
            elif message.type in limited and (wait := buckets.take(key_of(connection, message))):
                # Rounded up, so that a client that waits this long is not early.
                shown = math.ceil(wait * 100) / 100
                raise Refused(NackCode.TOO_MANY_REQUESTS, f"too many requests: try again in {shown:.2f} s")
            next_handler(ctx, connection, message)

        return handler

    return middleware
