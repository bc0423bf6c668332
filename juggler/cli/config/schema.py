"""The settings of ``juggler server``: one msgspec struct per group.

Keys of the file, variables, flags, defaults, help texts, validation and docs/configuration.md all derive from these
structs. The module imports nothing of what it configures: commands read settings before they monkey-patch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, field

from juggler.protocol.codec import MAX_TIMEOUT

_MIB = 1024 * 1024
LARGEST = 1.7976931348623157e308
"""Bound of numbers that may be anything but infinite."""

Count: TypeAlias = Annotated[int, Meta(ge=0)]
Limit: TypeAlias = Annotated[int, Meta(gt=0)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=LARGEST)]


def about(help: str, flag: str = "", variable: str = "", expected: str = "", is_secret: bool = False) -> Meta:
    """Describe a setting.

    Args:
        help: meaning, with the unit.
        flag: default: ``--`` and the name of the field.
        variable: a second name in the environment, of lower precedence.
        expected: valid values in words; default: derived from the type.
        is_secret: whether the value may contain a password.
    """
    extra = {"flag": flag, "variable": variable, "expected": expected, "is_secret": is_secret}
    return Meta(description=help, extra=extra)


class Listen(Struct, frozen=True):
    """Group ``listen``."""

    bind: Annotated[str, about("Address to listen on; port 0 picks a free port.")] = "127.0.0.1:9000"
    metrics_bind: Annotated[
        str | None, about("Address that serves /metrics and /debug/vars and nothing else; keep it private.")
    ] = None
    path: Annotated[
        tuple[Annotated[str, Meta(pattern="^/")], ...],
        Meta(min_length=1),
        about("Paths that accept websockets.", expected="one or more paths, each starting with /"),
    ] = ("/ws",)
    request_timeout: Annotated[
        Seconds | None, about("Seconds in which a request, such as an opening handshake, must arrive.")
    ] = 10.0
    max_header_size: Annotated[Limit, about("Maximum bytes of all headers of a request.")] = 16 * 1024
    workers: Annotated[Limit, about("Worker processes; more than one run under gunicorn.")] = 1
    grace: Annotated[
        Seconds, about("Graceful shutdown timeout in seconds: drain calls in flight, then close connections.")
    ] = 10.0


class Redis(Struct, frozen=True):
    """Group ``redis``."""

    url: Annotated[
        str | None,
        about(
            "Redis for calls and events. If unset: redis://127.0.0.1:6379. Also set by REDIS_URL.",
            flag="--redis",
            variable="REDIS_URL",
            is_secret=True,
        ),
    ] = None
    caller_url: Annotated[
        str | None,
        about("Redis for calls, in place of redis.url; needs redis.pubsub_url.", flag="--caller-redis", is_secret=True),
    ] = None
    pubsub_url: Annotated[
        str | None,
        about(
            "Redis for events, if separate. Also set by PUBSUB_REDIS_URL.",
            flag="--pubsub-redis",
            variable="PUBSUB_REDIS_URL",
            is_secret=True,
        ),
    ] = None
    key_prefix: Annotated[
        str,
        Meta(pattern="^[^{}]*$"),
        about("Prefix of every key and channel in Redis.", expected="a string without braces"),
    ] = ""
    call_capacity: Annotated[Count, about("Maximum calls queued per URI (0 = unlimited).")] = 10_000
    call_bytes: Annotated[
        Count, about("Maximum bytes of the arguments of a process's calls in flight, per URI (0 = unlimited).")
    ] = 64 * _MIB
    pattern_capacity: Annotated[
        Count, about("Maximum distinct patterns with subscribers in a process (0 = unlimited).")
    ] = 500
    blocking_timeout: Annotated[
        float, Meta(ge=0.01, le=LARGEST), about("Seconds that a blocking pop waits in Redis.")
    ] = 1.0
    sharded_pubsub: Annotated[bool, about("Use sharded pub-sub; needs a Redis Cluster.")] = False
    fail_fast: Annotated[bool, about("Exit if Redis is unreachable at startup, instead of retrying.")] = False


class ServerSettings(Struct, frozen=True):
    """Group ``server``: options of `juggler.server.Server`."""

    call_timeout: Annotated[Seconds, about("Timeout in seconds of calls that set none.")] = 60.0
    max_call_timeout: Annotated[
        float, Meta(gt=0, le=MAX_TIMEOUT), about("Longest timeout in seconds that a call may set.")
    ] = 600.0
    max_stream_time: Annotated[
        Annotated[float, Meta(gt=0, le=MAX_TIMEOUT)],
        about("Longest time in seconds from a call that asks for parts to its result."),
    ] = 3600.0
    max_connections: Annotated[Limit | None, about("Maximum connections per process.")] = 10_000
    max_connections_per_address: Annotated[Limit | None, about("Maximum connections per client address.")] = None
    max_calls: Annotated[Limit, about("Maximum calls in flight per connection.")] = 50
    max_call_bytes: Annotated[Limit, about("Maximum bytes of the arguments of calls in flight per connection.")] = (
        8 * _MIB
    )
    max_subscriptions: Annotated[Limit, about("Maximum subscriptions per connection.")] = 1000
    max_patterns: Annotated[Limit, about("Maximum subscriptions to patterns per connection.")] = 20
    max_pattern_length: Annotated[Limit, about("Maximum length of a pattern in characters.")] = 128
    max_wildcards: Annotated[Limit, about("Maximum number of * in a pattern.")] = 4
    max_unanswered: Annotated[
        Limit, about("Maximum unacknowledged requests per connection; the server stops reading at the limit.")
    ] = 256
    max_waiting: Annotated[Limit, about("Maximum responses per connection queued for a handler.")] = 1000
    max_uri_length: Annotated[Limit | None, about("Maximum length of a URI in characters.")] = 512
    max_channel_length: Annotated[Limit | None, about("Maximum length of a channel in characters.")] = 512
    write_limit: Annotated[Limit | None, about("Maximum size of an outgoing message in bytes.")] = 16 * _MIB
    answer_limit: Annotated[Limit, about("Maximum bytes of responses queued for one client.")] = 64 * _MIB
    total_answer_limit: Annotated[
        Limit | None, about("Maximum bytes of responses queued for all clients of a process.")
    ] = 512 * _MIB
    ack_delay: Annotated[
        Annotated[float, Meta(ge=0, le=1)],
        about("Seconds in which a RES replaces the ACK of its CALL under juggler.1 (0 = never)."),
    ] = 0.005
    token_grace: Annotated[
        Annotated[float, Meta(ge=0, le=3600)],
        about("Seconds after the expiry of a token in which clients of juggler.1 may renew it."),
    ] = 25.0
    slow_threshold: Annotated[
        Annotated[float, Meta(gt=0, le=MAX_TIMEOUT)] | None,
        about("Seconds from which processing a message counts as slow, in juggler_slow_messages_total."),
    ] = 0.1
    unknown_uris: Annotated[
        Literal["queue", "refuse"],
        about("Calls to a URI that no callee announces: queue them until their timeout, or refuse them with NACK 404."),
    ] = "queue"
    cancel_on_close: Annotated[
        Literal["juggler.1", "always", "never"],
        about("Cancel the calls of a connection that closes: under juggler.1 only, always, or never."),
    ] = "juggler.1"
    list_uri: Annotated[
        str | None, about("URI at which the server returns the catalogue of registered functions, e.g. juggler.uris.")
    ] = None
    fleet_uri: Annotated[
        str | None, about("URI at which the server returns the processes and rates of the fleet, e.g. juggler.fleet.")
    ] = None
    connection_events: Annotated[
        bool, about("Call the callee's functions for clients that connect and disconnect.")
    ] = False


class WebSocketSettings(Struct, frozen=True):
    """Group ``websocket``: options of `juggler.server.websocket.WebSocketOptions`."""

    read_limit: Annotated[Limit | None, about("Maximum size of an incoming message in bytes.")] = _MIB
    read_timeout: Annotated[
        Seconds | None, about("Seconds without a message from the client until the server closes the connection.")
    ] = None
    message_timeout: Annotated[
        Seconds | None, about("Seconds in which a message that has begun must arrive, or advance by 1 KiB per second.")
    ] = 30.0
    max_fragments: Annotated[
        Limit | Literal["auto"] | None,
        about(
            "Maximum frames per incoming message; auto: one per 2 KiB of read_limit, at least 1024.",
            expected="an integer greater than 0, auto, or none",
        ),
    ] = "auto"
    queue_limit: Annotated[Limit | None, about("Maximum bytes of events queued for one client.")] = _MIB
    write_timeout: Annotated[
        Seconds | None, about("Seconds in which a client with queued output must read, or be disconnected.")
    ] = 10.0
    ping_interval: Annotated[Seconds | None, about("Seconds of silence until the server pings a client.")] = 25.0
    ping_timeout: Annotated[Seconds | None, about("Seconds to wait for the reply to a ping.")] = 10.0
    close_timeout: Annotated[Seconds | None, about("Seconds to wait for the closing handshake.")] = 5.0
    deflate: Annotated[bool, about("Offer compression (permessage-deflate).")] = False


class Http(Struct, frozen=True):
    """Group ``http``: options of `juggler.wsgi.Application`."""

    allow_origins: Annotated[
        tuple[str, ...],
        about(
            "Origins of web pages that may connect, besides the server's own: https://example.com, "
            "https://*.example.com, or * for all.",
            flag="--allow-origin",
        ),
    ] = ()
    allow_hosts: Annotated[
        tuple[str, ...],
        about(
            "Hosts that requests may name, without port: example.com, *.example.com, or * for all. If unset: on a "
            "loopback bind without trusted proxies localhost, 127.0.0.1 and [::1], otherwise all.",
            flag="--allow-host",
        ),
    ] = ()
    subprotocols: Annotated[
        tuple[Literal["juggler.1", "juggler.0"], ...],
        about(
            "Subprotocols that clients may use, in order of preference.",
            flag="--subprotocol",
            expected="some of juggler.1, juggler.0",
        ),
    ] = ("juggler.1", "juggler.0")
    allow_empty_subprotocol: Annotated[bool, about("Accept clients that offer no subprotocol.")] = False
    trusted_proxies: Annotated[Count, about("Number of your reverse proxies whose X-Forwarded-For is trusted.")] = 0
    metrics: Annotated[bool, about("Serve /metrics and /debug/vars to all clients of listen.bind.")] = False
    playground: Annotated[bool, about("Serve the playground, a web client, at /.")] = False


class Log(Struct, frozen=True):
    """Group ``log``."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        about("Minimum level: debug, info, warning or error.", flag="--log-level"),
    ] = "info"
    format: Annotated[
        Literal["text", "logfmt", "json"],
        about("One line per record, as text, logfmt (key=value) or json.", flag="--log-format"),
    ] = "text"
    connections: Annotated[
        bool, about("Log each connection that opens or closes, at level info.", flag="--log-connections")
    ] = False
    messages: Annotated[
        bool,
        about("Log each message but events, without its arguments, at level info.", flag="--log-messages"),
    ] = False


class Debug(Struct, frozen=True):
    """Group ``debug``: options of `juggler.handlers.drill.drill`."""

    close_uri: Annotated[str | None, about("A call to this URI makes the server close the connection.")] = None
    panic_uri: Annotated[str | None, about("A call to this URI makes a handler raise an error.")] = None


class Settings(Struct, frozen=True):
    """All settings.

    Attributes:
        sources: where each value comes from that is no default, by key: ``j.toml line 4``, ``REDIS_URL``, ``--path``.
    """

    listen: Listen = field(default_factory=Listen)
    redis: Redis = field(default_factory=Redis)
    server: ServerSettings = field(default_factory=ServerSettings)
    websocket: WebSocketSettings = field(default_factory=WebSocketSettings)
    http: Http = field(default_factory=Http)
    log: Log = field(default_factory=Log)
    debug: Debug = field(default_factory=Debug)
    sources: dict[str, str] = field(default_factory=dict)

    def value(self, key: str) -> Any:
        """Return the value of ``group.name``."""
        group, _, name = key.partition(".")
        return getattr(getattr(self, group), name)
