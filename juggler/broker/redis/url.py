"""Parse Redis URLs, and mask their secrets. Unknown options are refused.

::

    redis://[[user]:password@]host[:port][/db][?option=value&…]
    rediss://…                                                     the same over TLS
    unix://[[user]:password@]/path[?db=0&…]
    redis+sentinel://[[user]:password@]host[:port],…/service[/db]  rediss+sentinel: with TLS
    redis+cluster://[[user]:password@]host[:port],…                rediss+cluster: with TLS

Options have the names of redis-py. A cluster has one more: ``sharded=1``, see `RedisBroker`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote

from juggler.errors import ConfigError

PORT, SENTINEL_PORT = 6379, 26379

Host: TypeAlias = tuple[str, int]


class RedisUrl(NamedTuple):
    """A parsed URL.

    Attributes:
        kind: ``redis``, ``unix``, ``sentinel`` or ``cluster``.
        tls: whether connections are encrypted.
        hosts: names or addresses with ports of Redis, of the sentinels, or of some nodes of the cluster.
        path: path of the UNIX socket.
        service: name of the master that the sentinels monitor.
        options: keyword arguments of redis-py's connections.
        sentinel_options: user name and password for the sentinels.
        shown: the URL without its secrets.
        sharded: whether the cluster's pub-sub is sharded.
    """

    kind: str
    tls: bool
    hosts: tuple[Host, ...]
    path: str
    service: str
    options: dict[str, Any]
    sentinel_options: dict[str, Any]
    shown: str
    sharded: bool = False

    def at(self, host: Host) -> RedisUrl:
        """Return the URL of one node of a cluster."""
        return self._replace(kind="redis", hosts=(host,))


class _Scheme(NamedTuple):
    kind: str
    tls: bool
    options: tuple[str, ...]
    """Names after the question mark."""


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("expected a number of 0 or more")
    return int(text)


def _flag(text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise ValueError("expected true or false")
    return _FLAGS[text.lower()]


def _verification(text: str) -> str:
    if text not in ("none", "optional", "required"):
        raise ValueError("expected none, optional or required")
    return text


def _readable(text: str) -> str:
    if not os.access(text, os.R_OK):
        raise ValueError("expected a file or directory that can be read")
    return text


def _text(text: str) -> str:
    if not text:
        raise ValueError("expected a value")
    return text


_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_BASIC = ("client_name", "db", "password", "username")
_TCP = (*_BASIC, "socket_keepalive")
_CLUSTER = (*(name for name in _TCP if name != "db"), "sharded")
_SENTINEL = ("sentinel_password", "sentinel_username")
_TLS = (
    *("ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname"),
    *("ssl_ciphers", "ssl_keyfile", "ssl_password"),
)
_PARSERS: dict[str, Callable[[str], Any]] = {
    "db": _number,
    "sharded": _flag,
    "socket_keepalive": _flag,
    "ssl_ca_certs": _readable,
    "ssl_ca_path": _readable,
    "ssl_cert_reqs": _verification,
    "ssl_certfile": _readable,
    "ssl_check_hostname": _flag,
    "ssl_keyfile": _readable,
}
_SCHEMES = {
    "redis": _Scheme("redis", False, _TCP),
    "rediss": _Scheme("redis", True, _TCP + _TLS),
    "unix": _Scheme("unix", False, _BASIC),
    "redis+sentinel": _Scheme("sentinel", False, _TCP + _SENTINEL),
    "rediss+sentinel": _Scheme("sentinel", True, _TCP + _SENTINEL + _TLS),
    "redis+cluster": _Scheme("cluster", False, _CLUSTER),
    "rediss+cluster": _Scheme("cluster", True, _CLUSTER + _TLS),
}
_SECRETS = ("password", "sentinel_password", "ssl_password")
_SHOWABLE = {name for scheme in _SCHEMES.values() for name in scheme.options} - set(_SECRETS)

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([\w.-]+))(?::([0-9]+))?")
# Parts of a URL that may be shown. Anything else could be a part of a password.
_HOSTS = rf"{_HOST.pattern}(?:,{_HOST.pattern})*"
_SHOWABLE_PLACES = {
    "unix": re.compile("/.*", re.DOTALL),
    "sentinel": re.compile(rf"{_HOSTS}(?:/[\w.%-]*)?(?:/[0-9]*)?"),
    "cluster": re.compile(rf"{_HOSTS}/?"),
    "redis": re.compile(rf"{_HOSTS}(?:/[0-9]*)?"),
}
_SHOWABLE_VALUE = re.compile(r"[\w./~-]*")
_OPTION_NAME = re.compile(r"[a-z_]{1,40}")


def parse(url: str) -> RedisUrl:
    """Parse a URL.

    Raises:
        ConfigError: the URL is invalid. The error names the part and what was expected, and contains no password.
    """
    shown = masked(url)
    try:
        return _parse(url, shown)
    except ValueError as error:
        raise ConfigError(f"Redis URL {shown!r}: {error}") from None


def masked(url: str) -> str:
    """Return the URL without passwords. Anything that is not clearly a host, path or harmless option is masked, too."""
    name, colon, rest = url.partition("://")
    if not colon or not re.fullmatch("[a-z+]+", name):
        return "***"
    head, question, query = rest.partition("?")
    credentials, place = _split_credentials(name, head)
    kind = _SCHEMES[name].kind if name in _SCHEMES else "redis"
    if not _SHOWABLE_PLACES[kind].fullmatch(place):
        return f"{name}://***"
    return f"{name}://{_masked_credentials(credentials)}{place}{question}{_masked_query(query)}"


def _masked_credentials(credentials: str | None) -> str:
    if credentials is None:
        return ""
    user, colon, _ = credentials.partition(":")
    return f"{user}:***@" if colon else "***@"


def _masked_query(query: str) -> str:
    pairs = [part.partition("=") for part in query.split("&")] if query else []
    return query if all(name in _SHOWABLE and _SHOWABLE_VALUE.fullmatch(text) for name, _, text in pairs) else "***"


def _split_credentials(scheme: str, head: str) -> tuple[str | None, str]:
    """Return the credentials, ``None`` if there are none, and the rest."""
    # A path may contain an @.
    if scheme == "unix" and head.startswith("/"):
        return None, head
    credentials, at, place = head.rpartition("@")
    return credentials if at else None, place


def _parse(url: str, shown: str) -> RedisUrl:
    name, separator, rest = url.partition("://")
    scheme = _SCHEMES.get(name)
    if scheme is None or not separator:
        raise ValueError(f"expected a scheme of {', '.join(_SCHEMES)}, as in redis://127.0.0.1:6379")
    head, _, query = rest.partition("?")
    credentials, place = _split_credentials(name, head)
    # Hosts first: if they are invalid, what follows the question mark may be the rest of a password.
    hosts, path, service, db = _place(scheme.kind, place)
    options = _options(scheme, name, query)
    user, password = _credentials(credentials)
    for option, value in (("db", db), ("username", user), ("password", password)):
        if value is not None:
            _add(options, option, value)
    sentinel_options = {key.removeprefix("sentinel_"): options.pop(key) for key in _SENTINEL if key in options}
    sharded = options.pop("sharded", False)
    return RedisUrl(scheme.kind, scheme.tls, hosts, path, service, options, sentinel_options, shown, sharded)


def _add(options: dict[str, Any], option: str, value: Any) -> None:
    if option in options:
        raise ValueError(f"{option} is given twice")
    options[option] = value


def _options(scheme: _Scheme, name: str, query: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise ValueError("expected option=value pairs, joined by &, after the question mark") from None
    options: dict[str, Any] = {}
    for option, text in pairs:
        if option not in scheme.options:
            which = f" {option!r}" if _OPTION_NAME.fullmatch(option) else ""
            raise ValueError(f"unknown option{which}; {name}:// knows {', '.join(scheme.options)}")
        try:
            value = _PARSERS.get(option, _text)(text)
        except ValueError as error:
            raise ValueError(f"option {option}: {error}") from None
        _add(options, option, value)
    return options


def _credentials(text: str | None) -> tuple[str | None, str | None]:
    if text is None:
        return None, None
    user, colon, password = text.partition(":")
    if not colon:
        raise ValueError("expected user:password or :password before the @")
    return unquote(user) or None, unquote(password) or None


def _place(kind: str, place: str) -> tuple[tuple[Host, ...], str, str, int | None]:
    """Return the hosts, path, service and database."""
    if kind == "unix":
        if not place.startswith("/"):
            raise ValueError("expected an absolute path, as in unix:///run/redis.sock")
        return (), unquote(place), "", None
    where, _, rest = place.partition("/")
    hosts = tuple(_host(text, SENTINEL_PORT if kind == "sentinel" else PORT) for text in where.split(","))
    if kind == "redis" and len(hosts) > 1:
        raise ValueError("expected one host; several are for redis+sentinel:// and redis+cluster://")
    if kind == "cluster" and rest:
        raise ValueError("expected nothing after the hosts: a cluster has one database")
    service, db = "", rest
    if kind == "sentinel":
        service, _, db = rest.partition("/")
        if not service:
            raise ValueError("expected the service's name after the hosts, as in redis+sentinel://host:26379/mymaster")
    return hosts, "", unquote(service), _database(db)


def _database(text: str) -> int | None:
    try:
        return _number(text) if text else None
    except ValueError as error:
        raise ValueError(f"database: {error} after the slash") from None


def _host(text: str, default_port: int) -> Host:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError(
            "expected host or host:port; in a user name or password write ? as %3F, % as %25, and close it with @"
        )
    address, name, digits = match.groups()
    port = int(digits) if digits else default_port
    if not 0 < port < 65536:
        raise ValueError("port: expected 1 to 65535")
    return address or name, port
