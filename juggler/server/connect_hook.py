"""What a client shows when it connects, before the upgrade: for whoever decides whether it may come, and who it is.

No I/O: made from a WSGI environ, which the upgrade empties. What must outlast it is taken here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from juggler.protocol.headers import tokens
from juggler.protocol.messages import MessageType

_MAX_QUERY_FIELDS = 100


class ConnectRequest:
    """The HTTP request of a client that wants to connect.

    Attributes:
        path: the request's path, without the query.
        peer: address of whoever made the TCP connection; empty for a UNIX socket.
        address: the client's address: `peer`, or what trusted proxies say of it.
        subprotocol: what is going to be negotiated, None where clients may come without.
        allowed: the types of requests that the client is going to send.
    """

    __slots__ = ("_environ", "address", "allowed", "path", "peer", "subprotocol")

    def __init__(
        self,
        environ: Mapping[str, Any],
        *,
        subprotocol: str | None,
        allowed: frozenset[MessageType],
        trusted_proxies: int = 0,
    ) -> None:
        """Look at a request; see `client_address` for ``trusted_proxies``."""
        self._environ = environ
        self.path: str = environ.get("PATH_INFO", "")
        self.peer: str = environ.get("REMOTE_ADDR") or ""
        self.address = client_address(self.peer, environ.get("HTTP_X_FORWARDED_FOR"), trusted_proxies)
        self.subprotocol = subprotocol
        self.allowed = allowed

    def header(self, name: str) -> str | None:
        """Return a header by its name in any case, None when it is absent; several of one name are joined by commas."""
        value = self._environ.get("HTTP_" + name.upper().replace("-", "_"))
        return None if value is None else str(value)

    @property
    def offered(self) -> list[str]:
        """All entries of ``Sec-WebSocket-Protocol``, in order; browsers can put a token there."""
        return tokens(self.header("Sec-WebSocket-Protocol"))

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies, by name; none where the header cannot be read."""
        try:
            return {name: morsel.value for name, morsel in SimpleCookie(self.header("Cookie") or "").items()}
        except CookieError:
            return {}

    @property
    def query(self) -> dict[str, str]:
        """The fields of the query by name; of several with one name the last."""
        return parse_query(self._environ.get("QUERY_STRING", ""))


Connect: TypeAlias = Callable[[ConnectRequest], Any]
"""A connect hook: returns who the client is, for `Connection.identity`, or raises `HandshakeRefused`. It may block."""


def parse_query(text: str) -> dict[str, str]:
    """Return the fields of a query by name; of several with one name the last. One with over 100 fields has none."""
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS))
    except ValueError:
        return {}


def client_address(peer: str, forwarded: str | None, trusted_proxies: int) -> str:
    """Return the address of a client that may be behind proxies.

    Each proxy adds the address of whoever spoke to it at the end of ``X-Forwarded-For``. What stands before the entries
    of our own proxies was written by anybody.

    Args:
        peer: who made the connection.
        forwarded: header ``X-Forwarded-For``.
        trusted_proxies: number of proxies of our own that each request passes; 0: the header is not believed.

    Returns:
        ``peer`` where the header has too few entries, or no address at that place.
    """
    if trusted_proxies <= 0 or not forwarded:
        return peer
    entries = [entry.strip() for entry in forwarded.split(",")]
    if len(entries) < trusted_proxies:
        return peer
    claimed = entries[-trusted_proxies]
    try:
        return str(ipaddress.ip_address(claimed.removeprefix("[").removesuffix("]")))
    except ValueError:
        return peer
