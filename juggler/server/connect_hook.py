"""The client's request, for the connect hook, which admits the client and returns its identity.

It is read from the WSGI environ, which the upgrade empties. No I/O.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlencode

from juggler.errors import HandshakeRefused
from juggler.protocol.headers import tokens

_MAX_QUERY_FIELDS = 100
_NOT_SAVED = frozenset({"HTTP_AUTHORIZATION", "HTTP_CONNECTION", "HTTP_UPGRADE"})
_NOT_SAVED |= {f"HTTP_SEC_WEBSOCKET_{name}" for name in ("KEY", "VERSION", "EXTENSIONS", "PROTOCOL")}
# An address, which may have a port, and quotes around both: 192.0.2.7:51008, "[2001:db8::1]:443", 2001:db8::1
_FORWARDED = r'[ \t]*("?)(?:\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+|([0-9A-Fa-f:.]+))\1[ \t]*'
_is_forwarded = re.compile(_FORWARDED).fullmatch
_ESCAPE = re.compile(r"\\(?:([0-3][0-7]{2})|(.))", re.DOTALL)


class ConnectRequest:
    """The HTTP request of a client that connects.

    Attributes:
        path: path without the query.
        peer: address of the TCP connection's peer, which may be a proxy; empty for a UNIX socket.
        peer_port: port of this peer; None for a UNIX socket.
        local_address: address on which the connection arrived: a host, or the path of a UNIX socket.
        local_port: port on which it arrived; None for a UNIX socket.
        address: address of the client: `peer`, or the address that trusted proxies report.
        subprotocol: negotiated subprotocol; None if the client offers none and that is allowed.
        allowed: types of requests that the client may send on this connection.
        token: token of the AUTH with which the client renews its identity; ``None`` when it connects. The header
            ``Authorization`` and the query have it, too.
    """

    __slots__ = (
        "_environ",
        "address",
        "allowed",
        "local_address",
        "local_port",
        "path",
        "peer",
        "peer_port",
        "subprotocol",
        "token",
    )

    def __init__(
        self,
        environ: Mapping[str, Any],
        *,
        subprotocol: str | None,
        allowed: frozenset[int],
        trusted_proxies: int = 0,
        local_name: Any = None,
    ) -> None:
        """Read a request.

        Args:
            environ: the WSGI environ.
            subprotocol: negotiated subprotocol.
            allowed: allowed types of requests.
            trusted_proxies: see `client_address`.
            local_name: what the connection's socket returned from ``getsockname``; None if it is unknown.
        """
        self._environ = environ
        self.path: str = environ.get("PATH_INFO", "")
        self.peer: str = plain_address(environ.get("REMOTE_ADDR") or "")
        self.peer_port = _port(environ.get("REMOTE_PORT"))
        self.local_address, self.local_port = _local(local_name)
        self.address = client_address(self.peer, environ.get("HTTP_X_FORWARDED_FOR"), trusted_proxies)
        self.subprotocol = subprotocol
        self.allowed = allowed
        self.token: str | None = None

    def saved(self) -> str:
        """Return the query and the headers, from which `restored` makes a request. Tokens in headers are left out."""
        lines = [self._environ.get("QUERY_STRING", "")]
        for name, value in self._environ.items():
            if name.startswith("HTTP_") and name not in _NOT_SAVED:
                lines.append(f"{name}:{value}")
        return "\n".join(lines)

    @classmethod
    def restored(
        cls, saved: str, token: str, *, path: str, subprotocol: str | None, allowed: frozenset[int]
    ) -> ConnectRequest:
        """Return the request of a client as if it connected again with another token. The addresses are empty."""
        query, *headers = saved.split("\n")
        fields = [pair for pair in parse_query(query).items() if pair[0] != "token"]
        environ = {
            **dict(header.split(":", 1) for header in headers),
            "PATH_INFO": path,
            "QUERY_STRING": urlencode([*fields, ("token", token)]),
            "HTTP_AUTHORIZATION": f"Bearer {token}",
        }
        request = cls(environ, subprotocol=subprotocol, allowed=allowed)
        request.token = token
        return request

    def header(self, name: str) -> str | None:
        """Return a header by its name, in any case; None if absent. Several of one name are joined with commas."""
        value = self._environ.get("HTTP_" + name.upper().replace("-", "_"))
        return None if value is None else str(value)

    @property
    def offered(self) -> list[str]:
        """All entries of ``Sec-WebSocket-Protocol`` in order. Browsers can send a token there."""
        return tokens(self.header("Sec-WebSocket-Protocol"))

    @property
    def cookies(self) -> dict[str, str]:
        """Cookies by name. The last of several with one name wins."""
        return parse_cookies(self.header("Cookie") or "")

    @property
    def query(self) -> dict[str, str]:
        """Query parameters by name. The last of several with one name wins."""
        return parse_query(self._environ.get("QUERY_STRING", ""))


def _port(text: Any) -> int | None:
    return int(text) if text else None


def _local(name: Any) -> tuple[str, int | None]:
    if isinstance(name, tuple):
        # All connections share the text.
        return sys.intern(plain_address(name[0])), name[1]
    return (os.fsdecode(name) if name else ""), None


class Unauthorized(HandshakeRefused):
    """401 with the header that RFC 9110 §11.6.1 requires."""

    def __init__(self, reason: str) -> None:
        super().__init__("401 Unauthorized", reason, [("WWW-Authenticate", "Bearer")])


class Anonymous(Enum):
    """Type of `ANONYMOUS`."""

    ANONYMOUS = "anonymous"


ANONYMOUS = Anonymous.ANONYMOUS
"""Returned by a connect hook to admit a client without an identity."""

Connect: TypeAlias = Callable[[ConnectRequest], Any]
"""A connect hook: returns the client's identity (`Connection.identity`), or `ANONYMOUS`. Any false value refuses the
client with 401, as does raising `HandshakeRefused` with another status. It may block.

If the identity expires, it returns a `juggler.auth.Identity`. The hook is then called again for each AUTH.
"""


def parse_cookies(text: str) -> dict[str, str]:
    """Parse cookies as browsers send them, with any characters in names and values except for ``;``.

    Quotes around a value are removed, as `http.cookies` does. Cookies without a name are left out.
    """
    cookies = {}
    for pair in text.split(";"):
        name, separator, value = pair.partition("=")
        name, value = name.strip(), value.strip()
        if separator and name:
            is_quoted = len(value) >= 2 and value[0] == value[-1] == '"'
            cookies[name] = _ESCAPE.sub(_unescape, value[1:-1]) if is_quoted else value
    return cookies


def _unescape(match: re.Match[str]) -> str:
    return chr(int(match[1], 8)) if match[1] else match[2]


def parse_query(text: str) -> dict[str, str]:
    """Parse a query as `ConnectRequest.query`. Beyond 100 parameters, return none."""
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS))
    except ValueError:
        return {}


def client_address(peer: str, forwarded: str | None, trusted_proxies: int) -> str:
    """Return the address of a client that may be behind proxies.

    Each proxy appends the address of its peer to ``X-Forwarded-For``. Clients can forge all entries before those of
    trusted proxies.

    Args:
        peer: address of the TCP connection's peer.
        forwarded: header ``X-Forwarded-For``.
        trusted_proxies: number of trusted proxies that each request passes; 0 means that the header is ignored.

    Returns:
        The client's address; ``peer`` if the header has too few entries or a malformed one.
    """
    if trusted_proxies <= 0 or not forwarded:
        return plain_address(peer)
    entries = forwarded.split(",")
    claimed = entries[-trusted_proxies] if len(entries) >= trusted_proxies else ""
    match = _is_forwarded(claimed)
    try:
        return (
            plain_address(str(ipaddress.ip_address(match[2] or match[3] or match[4]))) if match else plain_address(peer)
        )
    except ValueError:
        return plain_address(peer)


def plain_address(text: str) -> str:
    """Return an IPv4-mapped IPv6 address (``::ffff:192.0.2.7``) as IPv4, and any other as it is."""
    if not text.lower().startswith("::ffff:"):
        return text
    try:
        mapped = ipaddress.IPv6Address(text).ipv4_mapped
    except ValueError:
        return text
    return text if mapped is None else str(mapped)


def address_group(address: str) -> str:
    """Return the address by which a client is counted: of IPv6 its /64 network, which one client may have to itself."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
