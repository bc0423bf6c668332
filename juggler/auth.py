"""Ready-made connect hooks: who comes with a token that is good, comes in.

::

    server = Server(..., connect=bearer(lambda token: users_by_token.get(token)))

A token is looked for where clients can put one: in the header ``Authorization: Bearer …``, in the query
(``/ws?token=…``), or among the subprotocols (``juggler.bearer.…``), the ways that browsers have. In a query it may end
up in access logs of proxies; as a subprotocol it does not.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

from juggler.errors import ConfigError, HandshakeRefused
from juggler.server.connect_hook import Connect, ConnectRequest

log = logging.getLogger("juggler.auth")

SUBPROTOCOL_PREFIX = "juggler.bearer."
"""Before a token among the subprotocols. The rest is the token, in base64url without padding unless it is a JWT."""

WAYS = ("header", "query", "subprotocol")


class Unauthorized(HandshakeRefused):
    """401, with the header that RFC 6750 §3 wants."""

    def __init__(self, reason: str) -> None:
        super().__init__("401 Unauthorized", reason, [("WWW-Authenticate", "Bearer")])


def find_token(request: ConnectRequest, ways: Collection[str] = WAYS, query: str = "token") -> str | None:
    """Return the token that a client shows, None when it shows none. The header counts before the query, that before
    the subprotocol.

    Args:
        request: of the client.
        ways: where to look, some of `WAYS`.
        query: name of the field in the query.
    """
    if "header" in ways:
        scheme, _, token = (request.header("Authorization") or "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    if "query" in ways and (token := request.query.get(query, "")):
        return token
    if "subprotocol" in ways:
        for entry in request.offered:
            if entry.startswith(SUBPROTOCOL_PREFIX):
                return _decoded(entry.removeprefix(SUBPROTOCOL_PREFIX))
    return None


def _decoded(entry: str) -> str:
    """A JWT consists of characters that a subprotocol may have; of others we cannot know, so they come in base64url."""
    if entry.count(".") == 2:
        return entry
    try:
        return base64.b64decode(entry + "=" * (-len(entry) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Unauthorized(f"subprotocol {SUBPROTOCOL_PREFIX}…: expected a token in base64url") from None


def bearer(
    verify: Callable[[str], Any], *, ways: Collection[str] = WAYS, query: str = "token", optional: bool = False
) -> Connect:
    """Return a connect hook that lets in who shows a good token.

    Args:
        verify: is given the token; returns the identity, or None (or raises `HandshakeRefused`) when it is not good. It
            may block. Should it raise anything else, the client gets 503 and the log the traceback.
        ways: where tokens are looked for, some of `WAYS`.
        query: name of the field in the query.
        optional: whether clients without a token come in, too, with the identity None.

    Raises:
        ConfigError: a way is unknown.
    """
    unknown = set(ways) - set(WAYS)
    if unknown or isinstance(ways, str):
        raise ConfigError(f"ways: expected some of {', '.join(WAYS)}, got {ways!r}")

    def connect(request: ConnectRequest) -> Any:
        token = find_token(request, ways, query)
        if token is None:
            if optional:
                return None
            raise Unauthorized(
                f"expected a bearer token in {' or '.join(way for way in WAYS if way in ways)}, got none"
            )
        identity = verify(token)
        if identity is None:
            raise Unauthorized("the token is not valid")
        return identity

    return connect


def jwt(
    key: Any,
    algorithms: Sequence[str],
    *,
    audience: str | None = None,
    issuer: str | None = None,
    leeway: float = 10.0,
    ways: Collection[str] = WAYS,
    query: str = "token",
    optional: bool = False,
) -> Connect:
    """Return a connect hook that lets in who shows a JWT with a good signature; its claims are the identity.

    ``exp`` is required and looked at when the client connects, not later. Needs the extra ``juggler[jwt]``.

    Args:
        key: the secret or public key, or a function that is given the token and returns it (for key sets).
        algorithms: those that are accepted, for example ``["RS256"]``; never those that the token names.
        audience: what ``aud`` must contain; None: a token with an ``aud`` is refused.
        issuer: what ``iss`` must be; None: anything.
        leeway: seconds by which clocks may differ.
        ways: as `bearer`.
        query: as `bearer`.
        optional: as `bearer`.

    Raises:
        ConfigError: PyJWT is not installed, or no algorithm is named.
    """
    try:
        import jwt as pyjwt
    except ImportError:
        raise ConfigError("JSON web tokens need PyJWT: pip install 'juggler[jwt]'") from None
    if isinstance(algorithms, str) or not algorithms or "none" in map(str.lower, algorithms):
        raise ConfigError(f"algorithms: expected a list such as ['RS256'], without 'none', got {algorithms!r}")

    def verify(token: str) -> Any:
        try:
            return pyjwt.decode(
                token,
                key(token) if callable(key) else key,
                algorithms=list(algorithms),
                audience=audience,
                issuer=issuer,
                leeway=leeway,
                options={"require": ["exp"]},
            )
        except pyjwt.InvalidTokenError as error:
            log.info("a token was refused: %s", error)
            raise Unauthorized(f"the token is not valid: {error}") from None

    return bearer(verify, ways=ways, query=query, optional=optional)
