"""The table of all settings. Flags, variables, the file's keys, checks and docs/configuration.md come from it alone.

No I/O, and no imports of what the settings are for: a command reads them before it patches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from juggler.process.address import parse_address

_MIB = 1024 * 1024
_NONE = ("none", "off")
_BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _address(text: str) -> str:
    try:
        parse_address(text)
    except ValueError:
        raise ValueError("HOST:PORT, such as 127.0.0.1:9000 or [::1]:9000") from None
    return text


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("a path that begins with /")
    return text


def _prefix(text: str) -> str:
    if "{" in text or "}" in text:
        raise ValueError("no braces")
    return text


def _one_of(*names: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in names:
            raise ValueError("one of " + ", ".join(names))
        return text

    return check


def _nothing(text: str) -> str:
    return text


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        key: its group and name, as in the file: ``server.max_calls``.
        default: its value where nobody gives another; its type is the setting's, see `kind`.
        help: what it means, with the unit.
        kind: int, float, bool, str, or list (of strings).
        optional: whether None is a value: ``none`` in variables and flags, ``false`` in the file.
        least: the lowest number; None: it has to be more than 0.
        check: raises ValueError, with what was expected, for a string that cannot be meant.
        option: its flag, without the dashes; derived from the name unless given.
        variables: older names in the environment.
    """

    key: str
    kind: type
    default: Any
    help: str
    optional: bool = False
    least: float | None = None
    check: Callable[[str], Any] = _nothing
    option: str = ""
    variables: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        return self.key.partition(".")[0]

    @property
    def name(self) -> str:
        return self.key.partition(".")[2]

    @property
    def flag(self) -> str:
        return "--" + (self.option or self.name.replace("_", "-"))

    @property
    def variable(self) -> str:
        return f"JUGGLER_{self.key.replace('.', '_').upper()}"

    @property
    def is_secret(self) -> bool:
        """Whether a password may be in it."""
        return self.group == "redis" and self.name.endswith("url")

    @property
    def shown_default(self) -> str:
        return show(self.default)

    def from_toml(self, value: Any) -> Any:
        """Return the setting's value for one of the file.

        Raises:
            ValueError: with what was expected.
        """
        if self.optional and (value is False or (isinstance(value, str) and value.lower() in _NONE)):
            return None
        if self.kind is list:
            if isinstance(value, str):
                value = [value]
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise ValueError("strings in a list")
            return self._checked_list(value)
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, self.kind) or (isinstance(value, bool) and self.kind is not bool):
            raise ValueError(self.expected)
        return self._checked(value)

    def from_text(self, text: str) -> Any:
        """Return the setting's value for the text of a variable or flag.

        Raises:
            ValueError: with what was expected.
        """
        if self.optional and text.lower() in _NONE:
            return None
        if self.kind is list:
            return self._checked_list([part for each in text.split(",") if (part := each.strip())])
        if self.kind is bool:
            if text.lower() not in _BOOLS:
                raise ValueError(self.expected)
            return _BOOLS[text.lower()]
        if self.kind is str:
            return self._checked(text)
        try:
            return self._checked(self.kind(text))
        except (ValueError, OverflowError):
            raise ValueError(self.expected) from None

    @property
    def expected(self) -> str:
        """What its values are, in words."""
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "a string"
        number = "a whole number" if self.kind is int else "a number"
        limit = "more than 0" if self.least is None else f"at least {self.least:g}"
        return f"{number}, {limit}" + (", or none" if self.optional else "")

    def _checked(self, value: Any) -> Any:
        if isinstance(value, str):
            self.check(value)
        elif not isinstance(value, bool) and not self._in_range(value):
            raise ValueError(self.expected)
        return value

    def _checked_list(self, values: list[str]) -> tuple[str, ...]:
        if not values and self.default:
            raise ValueError("at least one")
        return tuple(self._checked(each) for each in values)

    def _in_range(self, value: float) -> bool:
        return value < float("inf") and (value > 0 if self.least is None else value >= self.least)


def show(value: Any) -> str:
    """Return a value as people write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


_S = Setting

SETTINGS = (
    _S("listen.bind", str, "127.0.0.1:9000", "Where to listen; port 0 takes a free one.", check=_address),
    _S("listen.path", list, ("/ws",), "The paths that serve websockets.", check=_path),
    _S("listen.workers", int, 1, "Processes. One runs by itself, more run under gunicorn.", least=1),
    _S("listen.grace", float, 10.0, "Seconds in which it ends: for calls under way, then for closing connections."),
    _S(
        "redis.url",
        str,
        None,
        "Redis, for calls and events; without it redis://127.0.0.1:6379. Also REDIS_URL.",
        optional=True,
        option="redis",
        variables=("REDIS_URL",),
    ),
    _S(
        "redis.caller_url",
        str,
        None,
        "Redis for calls; with pubsub_url, instead of url.",
        optional=True,
        option="caller-redis",
    ),
    _S(
        "redis.pubsub_url",
        str,
        None,
        "Redis for events, if it is another one. Also PUBSUB_REDIS_URL.",
        optional=True,
        option="pubsub-redis",
        variables=("PUBSUB_REDIS_URL",),
    ),
    _S("redis.key_prefix", str, "", "What all names in Redis begin with.", check=_prefix),
    _S("redis.call_capacity", int, 0, "Calls that may wait for one URI; 0: as many as come.", least=0),
    _S("redis.result_capacity", int, 0, "Results that may wait for one server; 0: as many as come.", least=0),
    _S("redis.blocking_timeout", float, 1.0, "Seconds for which Redis holds a pop.", least=0.01),
    _S("redis.sharded_pubsub", bool, False, "Sharded pub-sub, on a cluster."),
    _S("redis.fail_fast", bool, False, "End when Redis does not answer at the start, rather than wait for it."),
    _S("server.call_timeout", float, 60.0, "Seconds for a CALL that does not say how long it waits."),
    _S("server.max_call_timeout", float, 86400.0, "Seconds that a CALL may ask for."),
    _S("server.max_connections", int, 10_000, "Connections at a time, of each process.", optional=True),
    _S("server.max_calls", int, 1000, "Calls in flight on one connection."),
    _S("server.max_subscriptions", int, 1000, "Subscriptions of one connection."),
    _S("server.max_unanswered", int, 256, "Requests of one connection that await their ACK."),
    _S("server.max_waiting", int, 1000, "Responses of one connection that wait for a handler."),
    _S("server.max_uri_length", int, 512, "Characters of a URI.", optional=True),
    _S("server.max_channel_length", int, 512, "Characters of a channel or pattern.", optional=True),
    _S("server.write_limit", int, 16 * _MIB, "Bytes of an outgoing message.", optional=True),
    _S("server.answer_limit", int, 64 * _MIB, "Bytes of answers that wait for one client."),
    _S(
        "server.unknown_uris",
        str,
        "queue",
        "A CALL to a URI that no callee announces: queue until its timeout, or refuse with NACK 404.",
        check=_one_of("queue", "refuse"),
    ),
    _S(
        "server.list_uri",
        str,
        None,
        "A CALL to this URI is answered with the list of what is served; juggler.uris, say.",
        optional=True,
    ),
    _S("websocket.read_limit", int, _MIB, "Bytes of an incoming message.", optional=True),
    _S("websocket.read_timeout", float, None, "Seconds in which a client has to send a message.", optional=True),
    _S("websocket.max_fragments", int, 1024, "Frames of an incoming message.", optional=True),
    _S("websocket.queue_limit", int, _MIB, "Bytes of events that wait for one client.", optional=True),
    _S("websocket.write_timeout", float, 10.0, "Seconds in which a client has to read something.", optional=True),
    _S("websocket.ping_interval", float, 25.0, "Seconds of silence after which a client is pinged.", optional=True),
    _S("websocket.ping_timeout", float, 10.0, "Seconds that it has for an answer.", optional=True),
    _S("websocket.close_timeout", float, 5.0, "Seconds for the close handshake.", optional=True),
    _S("websocket.deflate", bool, False, "Offer compression (permessage-deflate)."),
    _S(
        "http.allow_origins",
        list,
        (),
        "Pages that may connect, besides our own: https://example.com, https://*.example.com, or * for all.",
        option="allow-origin",
    ),
    _S("http.allow_empty_subprotocol", bool, False, "Let clients in that offer no subprotocol."),
    _S("http.trusted_proxies", int, 0, "Proxies of ours whose X-Forwarded-For is believed.", least=0),
    _S("http.metrics", bool, True, "Answer at /metrics and /debug/vars."),
    _S("http.playground", bool, False, "Answer at / with a page to try everything with."),
    _S(
        "log.level",
        str,
        "info",
        "Lowest level that is logged: debug, info, warning, error.",
        check=_one_of("debug", "info", "warning", "error"),
        option="log-level",
    ),
    _S(
        "log.format",
        str,
        "text",
        "text, logfmt (key=value) or json, a line each.",
        check=_one_of("text", "logfmt", "json"),
        option="log-format",
    ),
    _S("debug.close_uri", str, None, "A CALL to this URI makes the server close the connection.", optional=True),
    _S("debug.panic_uri", str, None, "A CALL to this URI makes a handler fail.", optional=True),
)

BY_KEY = {setting.key: setting for setting in SETTINGS}
GROUPS = tuple(dict.fromkeys(setting.group for setting in SETTINGS))
