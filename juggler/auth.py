"""Ready-made connect hooks that authenticate clients by a token.

::

    server = Server(..., connect=bearer(lambda token: users_by_token.get(token)))

Clients send the token in the header ``Authorization: Bearer …``, in the query (``/ws?token=…``), or as a subprotocol
(``juggler.bearer.…``). Browsers cannot set the header. A token in the query may end up in access logs of proxies; one
in a subprotocol does not.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from juggler.errors import ConfigError
from juggler.process.logline import Line
from juggler.server.connect_hook import ANONYMOUS, Connect, ConnectRequest, Unauthorized
from juggler.server.identities import Identity

__all__ = ["ANONYMOUS", "Identity", "Unauthorized", "bearer", "find_token", "jwt"]

log = logging.getLogger("juggler.auth")

SUBPROTOCOL_PREFIX = "juggler.bearer."
"""Prefix of the subprotocol with the token, which is in base64url without padding unless it is a JWT."""

WAYS = ("header", "query", "subprotocol")


def find_token(request: ConnectRequest, ways: Collection[str] = WAYS, query: str = "token") -> str | None:
    """Return the token of a request, or None. The header precedes the query, which precedes the subprotocol.

    If the client renews its identity, this is the new token, whatever the ways.

    Args:
        request: the client's request.
        ways: where to look for the token, some of `WAYS`. Default: all.
        query: name of the query parameter. Default: ``token``.

    Raises:
        Unauthorized: the token in the subprotocol is malformed.
    """
    if request.token is not None:
        return request.token
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
    # A JWT has only characters that are allowed in a subprotocol. Other tokens may not, so they are in base64url.
    if entry.count(".") == 2:
        return entry
    try:
        return base64.b64decode(entry + "=" * (-len(entry) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Unauthorized(f"subprotocol {SUBPROTOCOL_PREFIX}…: expected a token in base64url") from None


def bearer(
    verify: Callable[[str], Any], *, ways: Collection[str] = WAYS, query: str = "token", optional: bool = False
) -> Connect:
    """Return a connect hook that admits clients with a valid token.

    Args:
        verify: returns the identity for a token, or an `Identity` if it expires. For an invalid token it returns a
            false value (None, False, ...) or raises `juggler.errors.HandshakeRefused`. It may block. If it raises
            anything else, the client receives 503 and the traceback is logged.
        ways: where to look for the token, some of `WAYS`. Default: all.
        query: name of the query parameter. Default: ``token``.
        optional: whether to admit clients without a token, without an identity. Default: False.

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
                return ANONYMOUS
            raise Unauthorized(
                f"expected a bearer token in {' or '.join(way for way in WAYS if way in ways)}, got none"
            )
        identity = verify(token)
        if not identity:
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
    """Return a connect hook that admits clients with a valid JWT; its claims are the identity.

    ``exp`` is required. The hook returns an `Identity` that expires then: clients renew it with a new token, or are
    disconnected. Requires the extra ``juggler[jwt]``.

    Args:
        key: secret or public key, or a function that returns the key for a token (for key sets).
        algorithms: accepted algorithms, for example ``["RS256"]``, whatever the token names.
        audience: value that ``aud`` must contain; None refuses tokens with an ``aud``. Default: None.
        issuer: value of ``iss``; None accepts any. Default: None.
        leeway: tolerated clock skew in seconds: a token that has expired by the clock of this machine is valid for so
            long. Default: 10.
        ways: see `bearer`.
        query: see `bearer`.
        optional: see `bearer`.

    Raises:
        ConfigError: PyJWT is not installed, or ``algorithms`` is invalid.
    """
    try:
        import jwt as pyjwt
    except ImportError:
        raise ConfigError("JSON web tokens require PyJWT: pip install 'juggler[jwt]'") from None
    if isinstance(algorithms, str) or not algorithms or "none" in map(str.lower, algorithms):
        raise ConfigError(f"algorithms: expected a list such as ['RS256'], without 'none', got {algorithms!r}")

    def verify(token: str) -> Any:
        try:
            claims = pyjwt.decode(
                token,
                key(token) if callable(key) else key,
                algorithms=list(algorithms),
                audience=audience,
                issuer=issuer,
                leeway=leeway,
                options={"require": ["exp"]},
            )
        except pyjwt.InvalidTokenError as error:
            log.info(Line("auth: token refused", error=error))
            raise Unauthorized(f"the token is not valid: {error}") from None
        exp = float(claims["exp"])
        return Identity(claims, exp if exp > time.time() else exp + leeway)

    return bearer(verify, ways=ways, query=query, optional=optional)
