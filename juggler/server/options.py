"""Options of a server: immutable, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from juggler.protocol.codec import MAX_TIMEOUT
from juggler.server.websocket import WebSocketOptions

MAX_ACK_DELAY = 1.0
"""Maximum of `ServerOptions.ack_delay`, in seconds."""


MAX_TOKEN_GRACE = 3600.0
"""Maximum of `ServerOptions.token_grace`, in seconds."""


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Limits and behaviour of a server. Durations are seconds, sizes are bytes.

    Attributes:
        connect_timeout: how long the connect hook may wait; then the client receives 503. Clients in the hook count as
            connections. Default: 10.
        keep_headers: names of request headers kept as `Connection.headers`. Default: none.
        websocket: limits of each websocket. Default: those of `WebSocketOptions`.
        call_timeout: timeout of a CALL that does not set one. Default: 60.
        max_call_timeout: maximum timeout of a CALL, at most 24 hours; a longer one is refused with NACK 400. Default:
            600.
        max_stream_time: maximum seconds from a CALL that asks for parts to its RES; then it fails. Their timeout counts
            from part to part. At most 24 hours. Default: 3600.
        max_connections: maximum connections; more are refused with 503. ``None`` = unlimited. Default: 10,000.
        max_connections_per_address: maximum connections of one client address, of IPv6 of one /64 network; more are
            refused with 429. Addresses of UNIX sockets are not limited. ``None`` = unlimited. Default: ``None``.
        max_calls: maximum calls in flight per connection; more are refused with NACK 429. Default: 50, half of what one
            callee process runs concurrently by default.
        max_call_bytes: maximum size of the arguments of a connection's calls in flight; more are refused with NACK 429.
            One call may always be in flight. Default: 8 MiB.
        max_subscriptions: maximum subscriptions per connection; more are refused with NACK 429. Default: 1,000.
        max_patterns: maximum subscriptions to patterns per connection, likewise. Default: 20.
        max_pattern_length: maximum length of a pattern in characters; a longer one is refused with NACK 400. Default:
            128.
        max_wildcards: maximum number of ``*`` in a pattern, likewise. Default: 4.
        max_unanswered: maximum requests per connection that await their ACK; then the server stops reading from the
            connection until one is answered. Default: 256.
        max_waiting: maximum responses of each kind that wait for the handler; then the connection is closed with 4429.
            Default: 1,000.
        max_uri_length: maximum length of a URI in characters; a longer one is refused with NACK 400. ``None`` =
            unlimited. Default: 512.
        max_channel_length: maximum length of a channel in characters, likewise. Default: 512.
        write_limit: maximum size of an outgoing message; a larger one becomes NACK 413. ``None`` = unlimited.
            Default: 16 MiB.
        answer_limit: size of the answers that may wait for a client to read them, beyond
            `WebSocketOptions.queue_limit`, which limits events: the results of many calls may arrive faster than a
            client reads. Default: 64 MiB.
        total_answer_limit: size of the answers that may wait for all clients of the process to read them. Beyond it,
            the connections with the largest queues are closed with 4429. Queues of at most 16 KiB are not counted.
            ``None`` = unlimited. Default: 512 MiB.
        ack_delay: longest time for which the ACK of a CALL is held under juggler.1. If the result is ready by then,
            only the RES is sent, which implies the ACK. At most 1; 0 sends each ACK at once. Default: 0.005.
        token_grace: seconds after the identity of a client has expired in which it may still renew it, under juggler.1;
            then the connection is closed with 4401. 0 to 3600. Under juggler.0 it is closed at expiry. Default: 25.
        slow_threshold: seconds from which processing a message counts as slow, in the metric
            ``juggler_slow_messages_total``. ``None`` counts none. Default: 0.1.
        unknown_uris: what happens to a CALL to a URI that no callee has announced. ``"queue"`` keeps it until its
            timeout, as the Go package does; ``"refuse"`` answers NACK 404 at once. Callees of the Go package announce
            nothing. Default: ``"queue"``.
        cancel_on_close: whether the calls of a connection that closes are cancelled: ``"juggler.1"`` only under that
            subprotocol, ``"always"``, or ``"never"``: their functions go on. Default: ``"juggler.1"``.
        list_uri: a CALL to this URI returns the catalogue, see `juggler.broker.ServedFunction`. ``None`` disables it.
            Default: ``None``.
        fleet_uri: a CALL to this URI returns the server and callee processes with their rates, see
            `juggler.broker.overview.Overview`. Any client may call it, unless a handler refuses. ``None`` disables it.
            Default: ``None``.
        connection_events: whether the server calls the functions of `callee.Callee.on_connect` and ``on_disconnect``.
            Default: False.

    Raises:
        ValueError: an option is out of range.
    """

    connect_timeout: float = 10.0
    keep_headers: Sequence[str] = ()
    websocket: WebSocketOptions = field(default_factory=WebSocketOptions)
    call_timeout: float = 60.0
    max_call_timeout: float = 600.0
    max_stream_time: float = 3600.0
    max_connections: int | None = 10_000
    max_connections_per_address: int | None = None
    max_calls: int = 50
    max_call_bytes: int = 8 * 1024 * 1024
    max_subscriptions: int = 1000
    max_patterns: int = 20
    max_pattern_length: int = 128
    max_wildcards: int = 4
    max_unanswered: int = 256
    max_waiting: int = 1000
    max_uri_length: int | None = 512
    max_channel_length: int | None = 512
    write_limit: int | None = 16 * 1024 * 1024
    answer_limit: int = 64 * 1024 * 1024
    total_answer_limit: int | None = 512 * 1024 * 1024
    ack_delay: float = 0.005
    token_grace: float = 25.0
    slow_threshold: float | None = 0.1
    unknown_uris: Literal["queue", "refuse"] = "queue"
    cancel_on_close: Literal["juggler.1", "always", "never"] = "juggler.1"
    list_uri: str | None = None
    fleet_uri: str | None = None
    connection_events: bool = False

    def __post_init__(self) -> None:
        if self.unknown_uris not in ("queue", "refuse"):
            raise ValueError(f"unknown_uris: expected 'queue' or 'refuse', got {self.unknown_uris!r}")
        if self.cancel_on_close not in ("juggler.1", "always", "never"):
            raise ValueError(
                f"cancel_on_close: expected 'juggler.1', 'always' or 'never', got {self.cancel_on_close!r}"
            )
        if self.fleet_uri is not None and self.fleet_uri == self.list_uri:
            raise ValueError(f"fleet_uri: expected another URI than list_uri, got {self.fleet_uri!r} for both")
        if isinstance(self.keep_headers, str):
            raise ValueError(f"keep_headers: expected a list of names, got {self.keep_headers!r}")
        _check_seconds("max_call_timeout", self.max_call_timeout, MAX_TIMEOUT)
        _check_seconds("call_timeout", self.call_timeout, self.max_call_timeout)
        _check_seconds("max_stream_time", self.max_stream_time, MAX_TIMEOUT)
        _check_seconds("connect_timeout", self.connect_timeout, MAX_TIMEOUT)
        if self.slow_threshold is not None:
            _check_seconds("slow_threshold", self.slow_threshold, MAX_TIMEOUT)
        if self.ack_delay != 0 or isinstance(self.ack_delay, bool):
            _check_seconds("ack_delay", self.ack_delay, MAX_ACK_DELAY)
        if self.token_grace != 0 or isinstance(self.token_grace, bool):
            _check_seconds("token_grace", self.token_grace, MAX_TOKEN_GRACE)
        for name in _POSITIVE:
            value = getattr(self, name)
            if (value is None and name not in _UNLIMITED) or (value is not None and value <= 0):
                raise ValueError(f"{name}: expected a number over 0, got {value!r}")

    def limits(self) -> dict[str, float]:
        """Return the limits that clients of juggler.1 receive in the WLCM, by name; those that are off are left out."""
        limits = {name: getattr(self, name) for name in _REPORTED} | {"read_limit": self.websocket.read_limit}
        return {name: value for name, value in limits.items() if value is not None}


_REPORTED = (
    "call_timeout",
    "max_call_timeout",
    "max_stream_time",
    "max_calls",
    "max_call_bytes",
    "max_subscriptions",
    "max_patterns",
    "max_pattern_length",
    "max_wildcards",
    "max_unanswered",
    "max_uri_length",
    "max_channel_length",
    "write_limit",
)
_UNLIMITED = (
    "max_connections",
    "max_connections_per_address",
    "max_uri_length",
    "max_channel_length",
    "write_limit",
    "total_answer_limit",
)
_POSITIVE = (
    *_UNLIMITED,
    "max_calls",
    "max_call_bytes",
    "max_subscriptions",
    "max_patterns",
    "max_pattern_length",
    "max_wildcards",
    "max_unanswered",
    "max_waiting",
    "answer_limit",
)


def _check_seconds(name: str, value: Any, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise ValueError(f"{name}: expected more than 0 and at most {most:g} s, got {value!r}")
