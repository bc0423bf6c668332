"""docs/security.md: its hardened server refuses what the page promises. Names and the secret are put in."""

from __future__ import annotations

import time

import jwt
import pytest
from gevent.pywsgi import WSGIServer

from juggler.backend import Backend
from juggler.client import Client
from juggler.errors import HandshakeRefused, Nacked
from juggler.server import WebSocketHandler
from tests.docs import run_blocks

SECRET = "a secret of 32 bytes, for tests.."
ORIGIN = {"Origin": "https://shop.example.com"}


def token(sub="ann", audience="shop", **claims):
    return jwt.encode({"sub": sub, "aud": audience, "exp": time.time() + 600, **claims}, SECRET, "HS256")


@pytest.fixture
def connect(redis_url, monkeypatch):
    """Connect to the page's server with headers and a token."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("JWT_SECRET", SECRET)
    page = run_blocks("security.md", {'allowed_hosts=["shop.example.com"]': 'allowed_hosts=["127.0.0.1"]'})
    served = WSGIServer(("127.0.0.1", 0), page["application"], handler_class=WebSocketHandler, log=None)
    served.start()
    clients = []

    def open_client(headers=ORIGIN, host="127.0.0.1", **options):
        clients.append(Client(f"ws://{host}:{served.server_port}/ws", headers=headers, reconnect=False, **options))
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()
    page["server"].shut_down(0)
    served.stop(timeout=1)
    page["broker"].close()


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({}, 401),
        ({"token": "forged"}, 401),
        ({"token": token(audience="another")}, 401),
        ({"token": token(), "headers": {"Origin": "https://evil.example.com"}}, 403),
        ({"token": token(), "host": "localhost"}, 403),
    ],
)
def test_it_refuses(connect, options, status):
    with pytest.raises(HandshakeRefused) as refused:
        connect(**options)
    assert str(refused.value.status).startswith(str(status))


def test_it_allows_what_a_rule_allows(connect, redis_url):
    client = connect(token=token())
    with client.subscribe("user.ann") as own, Backend(redis_url) as backend:
        backend.publish("user.ann", "hello")
        assert own.get(timeout=10).args == "hello"
    for request in (
        lambda: client.subscribe("user.bob"),
        lambda: client.subscribe("*", pattern=True),
        lambda: client.publish("news", 1),
        lambda: client.call("admin.drop"),
        lambda: client.call("other.price"),
    ):
        with pytest.raises(Nacked) as refused:
            request()
        assert refused.value.code == 403
    # Allowed, but no callee serves it.
    for each, uri in ((client, "shop.price"), (connect(token=token(roles=["admin"])), "admin.drop")):
        with pytest.raises(Nacked) as refused:
            each.call(uri)
        assert refused.value.code == 404
