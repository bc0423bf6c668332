"""Tokens: where clients send them, and which are valid."""

from __future__ import annotations

import base64
import math
import time
from datetime import datetime, timezone

import jwt as pyjwt
import pytest

from juggler.auth import ANONYMOUS, WAYS, Identity, bearer, find_token, jwt
from juggler.errors import ConfigError, HandshakeRefused
from juggler.protocol.messages import REQUEST_TYPES
from juggler.server.connect_hook import ConnectRequest
from juggler.server.identities import who

KEY = "a secret of at least as many bytes as the longest hash has"


def request(**environ):
    return ConnectRequest(environ, subprotocol="juggler.0", allowed=REQUEST_TYPES)


def in_subprotocol(token: str) -> str:
    return "juggler.0, juggler.bearer." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


SHOWN = [
    ("header", {"HTTP_AUTHORIZATION": "bearer  t/k+n? "}),
    ("query", {"QUERY_STRING": "token=t/k%2Bn?"}),
    ("subprotocol", {"HTTP_SEC_WEBSOCKET_PROTOCOL": in_subprotocol("t/k+n?")}),
]


@pytest.mark.parametrize(("way", "environ"), SHOWN, ids=[way for way, _ in SHOWN])
def test_a_token_is_found_in_each_way_and_only_where_it_may_be(way, environ):
    assert find_token(request(**environ)) == "t/k+n?"
    assert find_token(request(**environ), [way]) == "t/k+n?"
    assert find_token(request(**environ), [other for other in WAYS if other != way]) is None


@pytest.mark.parametrize(
    "environ",
    [{}, {"HTTP_AUTHORIZATION": "Basic dXNlcg=="}, {"HTTP_AUTHORIZATION": "Bearer"}, {"QUERY_STRING": "token="}],
)
def test_without_a_token_there_is_401(environ):
    hook = bearer(lambda token: token)
    with pytest.raises(HandshakeRefused, match="expected a bearer token in header or query or subprotocol") as refusal:
        hook(request(**environ))
    assert refusal.value.status == "401 Unauthorized"
    assert ("WWW-Authenticate", "Bearer") in refusal.value.headers
    assert bearer(lambda token: token, optional=True)(request(**environ)) is ANONYMOUS


def test_a_token_that_is_not_good_is_401_even_where_none_is_needed():
    hook = bearer({"good": "ann"}.get, optional=True)
    assert hook(request(QUERY_STRING="token=good")) == "ann"
    with pytest.raises(HandshakeRefused, match="not valid"):
        hook(request(QUERY_STRING="token=bad"))
    with pytest.raises(HandshakeRefused, match="base64url"):
        hook(request(HTTP_SEC_WEBSOCKET_PROTOCOL="juggler.0, juggler.bearer.!"))


def token(key=KEY, algorithm="HS256", **claims):
    return pyjwt.encode({"sub": "ann", "exp": time.time() + 3600, **claims}, key, algorithm=algorithm)


def shown(text):
    """A browser sends a JWT unencoded: it is a legal subprotocol."""
    return request(HTTP_SEC_WEBSOCKET_PROTOCOL=f"juggler.0, juggler.bearer.{text}")


def test_the_claims_of_a_good_jwt_are_the_identity():
    assert jwt(KEY, ["HS256"])(shown(token())).value["sub"] == "ann"
    assert jwt(lambda text: KEY, ["HS256"], audience="chat", issuer="us")(shown(token(aud="chat", iss="us")))
    assert jwt(KEY, ["HS256"])(shown(token(exp=time.time() - 5)))  # within the leeway


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (token(exp=time.time() - 60), "expired"),
        (pyjwt.encode({"sub": "ann"}, KEY, algorithm="HS256"), "exp"),
        (token(key="another secret, of as many bytes as the longest hash has"), "ignature"),
        (token(algorithm="HS384"), "alg"),
        (token(key=None, algorithm="none"), "alg"),
        (token(aud="another"), "udience"),
        ("a.b.c", ""),
        (token() + "x", ""),
    ],
    ids=["expired", "no-expiry", "other-key", "other-algorithm", "unsigned", "other-audience", "no-jwt", "altered"],
)
def test_an_invalid_jwt_is_401_with_the_reason(bad, why):
    with pytest.raises(HandshakeRefused, match=f"the token is not valid: .*{why}") as refusal:
        jwt(KEY, ["HS256"])(shown(bad))
    assert refusal.value.status == "401 Unauthorized"


def test_settings_that_let_anybody_in_are_refused():
    for algorithms in ([], ["none"], ["HS256", "None"], "HS256"):
        with pytest.raises(ConfigError, match="algorithms"):
            jwt(KEY, algorithms)
    for ways in (["cookie"], "header"):
        with pytest.raises(ConfigError, match="ways"):
            bearer(lambda token: token, ways=ways)


def test_an_identity_has_an_expiry_in_seconds_or_as_a_datetime():
    noon = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
    for at in (noon, noon.timestamp(), int(noon.timestamp())):
        identity = Identity("ann", at)
        assert identity.seconds_left(noon.timestamp() - 5) == 5
        assert (identity.value, bool(identity)) == ("ann", True)
    assert Identity("ann").seconds_left(time.time()) == Identity("ann", math.inf).seconds_left(0.0) == math.inf
    assert not Identity(None, noon)
    for wrong in (datetime(2030, 1, 1), "2030", True, math.nan, [1]):
        with pytest.raises(ValueError, match="expires_at: expected seconds since 1970, or a datetime with a time zone"):
            Identity("ann", wrong)


def test_a_jwt_expires_at_its_exp_and_within_the_leeway_at_its_end():
    now = time.time()
    for exp, expires in ((now + 100, now + 100), (now - 5, now + 5)):
        assert jwt(KEY, ["HS256"])(shown(token(exp=exp))).expires_at == pytest.approx(expires, abs=0.01)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("ann", "ann", True),
        ("ann", "bob", False),
        ({"sub": "ann", "exp": 1, "role": "user"}, {"sub": "ann", "exp": 2, "role": "admin"}, True),
        ({"sub": "ann", "iss": "a"}, {"sub": "ann", "iss": "b"}, False),
        ({"sub": "ann"}, {"sub": "bob"}, False),
        ({"sub": "ann"}, ("None", "ann"), False),
        ({"name": "ann", "exp": 1, "iat": 1, "jti": "x"}, {"name": "ann", "exp": 2, "nbf": 2}, True),
        ({"name": "ann"}, {"name": "bob"}, False),
        ({"sub": "", "name": "ann"}, {"sub": "", "name": "bob"}, False),
        (None, None, True),
        (None, "ann", False),
    ],
)
def test_an_identity_is_the_same_in_another_token(one, other, same):
    assert (who(one) == who(other)) is same
