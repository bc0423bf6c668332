"""Check whether an HTTP request may become a websocket: the opening handshake (RFC 6455 §4.2.1) and the origin.

PURE: strings and a WSGI environ in, a value or `HandshakeRefused` out.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from juggler.errors import ConfigError
from juggler.protocol.headers import refused, short_repr, tokens

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_IS_KEY = re.compile(r"[A-Za-z0-9+/]{22}==").fullmatch  # 16 bytes in base64
_UPGRADE = (("Upgrade", "websocket"), ("Connection", "Upgrade"))  # sent with each 426, RFC 9110 §15.5.22

_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<any>\*\.)?(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
)
_HTTP_SCHEMES = {"ws": "http", "wss": "https"}
_DEFAULT_PORTS = {"http": 80, "https": 443}


def accept_token(key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` for a ``Sec-WebSocket-Key`` (RFC 6455 §4.2.2)."""
    return b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()


def websocket_key(environ: Mapping[str, Any]) -> str:
    """Return the ``Sec-WebSocket-Key`` of a valid opening handshake (RFC 6455 §4.2.1).

    Args:
        environ: the WSGI environ of the request.

    Raises:
        HandshakeRefused: the request is not an opening handshake (405, 426) or is malformed (400).
    """
    method = environ.get("REQUEST_METHOD")
    if method != "GET":
        raise refused("405 Method Not Allowed", "method", "GET", method, [("Allow", "GET")])
    _check_upgrade(environ)
    _check_no_body(environ)
    key = str(environ.get("HTTP_SEC_WEBSOCKET_KEY", "")).strip(" \t")
    if not _IS_KEY(key):
        raise refused("400 Bad Request", "Sec-WebSocket-Key", "16 bytes in base64, once", key)
    return key


def _check_upgrade(environ: Mapping[str, Any]) -> None:
    for name, expected in (("Upgrade", "websocket"), ("Connection", "upgrade")):
        value = environ.get(f"HTTP_{name.upper()}")
        if expected not in map(str.lower, tokens(value)):
            raise refused("426 Upgrade Required", name, expected, value, _UPGRADE)
    protocol = environ.get("SERVER_PROTOCOL")
    if protocol != "HTTP/1.1":  # a proxy may speak 1.0, which cannot upgrade
        raise refused("426 Upgrade Required", "protocol", "HTTP/1.1", protocol, _UPGRADE)
    version = environ.get("HTTP_SEC_WEBSOCKET_VERSION", "").strip(" \t")
    if version != "13":
        headers = (*_UPGRADE, ("Sec-WebSocket-Version", "13"))
        raise refused("426 Upgrade Required", "Sec-WebSocket-Version", "13", version, headers)


def _check_no_body(environ: Mapping[str, Any]) -> None:
    # A body would be parsed as frames.
    length = environ.get("CONTENT_LENGTH") or "0"
    if length != "0":
        raise refused("400 Bad Request", "Content-Length", "no body", length)
    encoding = environ.get("HTTP_TRANSFER_ENCODING")
    if encoding:
        raise refused("400 Bad Request", "Transfer-Encoding", "no body", encoding)


class _Origin(NamedTuple):
    scheme: str
    any_subdomain: bool
    host: str
    port: int | None

    def covers(self, origin: _Origin) -> bool:
        if not self.any_subdomain:
            return self == origin
        same_rest = self.scheme == origin.scheme and self.port == origin.port
        return same_rest and origin.host.endswith("." + self.host)


def _parse_origin(text: str) -> _Origin | None:
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        return None
    scheme = _HTTP_SCHEMES.get(match["scheme"], match["scheme"])
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS.get(scheme)
    return _Origin(scheme, match["any"] is not None, match["host"], port)


def check_origin(origin: str | None, host: str, allowed: Sequence[str] = ()) -> None:
    """Refuse web pages of other origins, whose requests carry the visitor's cookies (RFC 6455 §10.2).

    The server's own origin is compared by host and port only, because a server behind a TLS proxy does not know the
    page's scheme. Allowed origins are compared by scheme, host and port; ``ws`` counts as ``http``.

    Args:
        origin: header ``Origin``; None passes, because only browsers send it.
        host: header ``Host``.
        allowed: origins allowed beside the server's own: ``https://app.example.com``, ``https://*.example.com`` for
            all subdomains of any depth, or ``*`` for every origin, ``null`` included.

    Raises:
        HandshakeRefused: 403.
    """
    if origin is None or "*" in allowed:
        return
    parsed = _parse_origin(origin.strip(" \t"))
    if parsed is not None and not parsed.any_subdomain:
        for entry in (f"{parsed.scheme}://{host}", *allowed):
            known = _parse_origin(entry)
            if known is not None and known.covers(parsed):
                return
    expected = f"a page of {short_repr(host)} or one of the allowed origins"
    raise refused("403 Forbidden", "Origin", expected, origin)


def check_allowed_origins(entries: Iterable[str]) -> None:
    """Check a setting for the ``allowed`` of `check_origin`.

    Raises:
        ConfigError: an entry can never match.
    """
    if isinstance(entries, str):
        raise ConfigError(f"allowed origins: expected a list, got {entries!r}")
    for entry in entries:
        if entry != "*" and (not isinstance(entry, str) or _parse_origin(entry) is None):
            expected = "'https://app.example.com', 'https://*.example.com' or '*'"
            raise ConfigError(f"allowed origins: expected {expected}, got {entry!r}")


LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Hosts that are allowed by default where the server listens on loopback only."""

_is_host = re.compile(r"(?:\*\.)?[a-z0-9._-]+|\[[0-9a-f:.]+\]").fullmatch


def check_host(host: str, allowed: Sequence[str]) -> None:
    """Refuse requests for other hosts. It stops DNS rebinding: a web page whose own name resolves to this server.

    Args:
        host: header ``Host``. Its port is ignored. Empty passes, because browsers always send it.
        allowed: ``example.com``, ``*.example.com`` for all subdomains of any depth, ``[::1]``, or ``*`` for every host.

    Raises:
        HandshakeRefused: 403.
    """
    if not host or "*" in allowed:
        return
    name = host.lower() if host.endswith("]") else host.lower().rpartition(":")[0] or host.lower()
    name = name.removesuffix(".")
    for entry in map(str.lower, allowed):
        if entry == name or (entry.startswith("*.") and name.endswith(entry[1:])):
            return
    raise refused("403 Forbidden", "Host", f"one of the allowed hosts ({', '.join(allowed)}; see allowed_hosts)", host)


def check_allowed_hosts(entries: Iterable[str]) -> None:
    """Check a setting for the ``allowed`` of `check_host`.

    Raises:
        ConfigError: an entry can never match.
    """
    if isinstance(entries, str):
        raise ConfigError(f"allowed hosts: expected a list, got {entries!r}")
    for entry in entries:
        if entry != "*" and (not isinstance(entry, str) or not _is_host(entry.lower())):
            expected = "'example.com', '*.example.com', '127.0.0.1', '[::1]' or '*'"
            raise ConfigError(f"allowed hosts: expected {expected}, got {entry!r}")
