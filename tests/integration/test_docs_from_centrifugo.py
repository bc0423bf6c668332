"""docs/coming-from-centrifugo.md: its code answers as Centrifugo's documentation asks, and as a callee."""

from __future__ import annotations

import importlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from juggler.callee.testing import Caller
from juggler.client import Client
from juggler.errors import CallFailed
from tests.docs import python_blocks
from tests.integration.commands import running_python, server_process

SHOWN = "redis://127.0.0.1:6379"
# The payload of an RPC request over HTTP, as Centrifugo's documentation shows it.
REQUEST = {
    "client": "9336a229-2400-4ebc-8c50-0a643d22e8a0",
    "transport": "websocket",
    "protocol": "json",
    "encoding": "json",
    "user": "56",
}


@pytest.fixture
def files(redis_url, tmp_path, monkeypatch):
    """The files of the page can be imported, with the address of a Redis; returns it."""
    names = []
    for text in python_blocks("coming-from-centrifugo.md"):
        names.append(re.match(r"# (\w+)\.py\n", text)[1])
        (tmp_path / f"{names[-1]}.py").write_text(text.replace(SHOWN, redis_url))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    monkeypatch.chdir(tmp_path)
    yield redis_url
    for name in names:
        sys.modules.pop(name, None)


def test_both_answer_the_same(files):
    app, rpc = importlib.import_module("before").app, importlib.import_module("callees").rpc

    def ask(method, data):
        return app.test_client().post("/centrifugo/rpc", json={**REQUEST, "method": method, "data": data}).get_json()

    caller = Caller(rpc)
    assert ask("shop.price", ["tea", 2]) == {"result": {"data": 6}}
    assert caller.call("shop.price", ["tea", 2]) == 6
    assert ask("shop.price", ["gold", 2]) == {"error": {"code": 1000, "message": "not in stock: gold"}}
    with pytest.raises(CallFailed, match="not in stock: gold") as failed:
        caller.call("shop.price", ["gold", 2])
    assert failed.value.code == 1000
    assert ask("shop.other", [])["error"]["code"] == 404


class Api(BaseHTTPRequestHandler):
    """Stands for Centrifugo's HTTP API, and remembers requests."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers["X-API-Key"], json.loads(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


def test_both_publish(files, monkeypatch):
    with HTTPServer(("127.0.0.1", 0), Api) as server:
        server.requests = []
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("CENTRIFUGO_API", f"http://127.0.0.1:{server.server_port}/api")
        importlib.import_module("before").publish("news", {"text": "tea"})
        thread.join(10)
        assert server.requests == [
            ("/api/publish", "0123456789abcdef", {"channel": "news", "data": {"text": "tea"}}),
        ]
    publisher = importlib.import_module("publisher")
    with server_process(files) as url, Client(url) as client, client.subscribe("news") as news, publisher.backend:
        publisher.publish("news", {"text": "tea"})
        assert news.get(timeout=20).args == {"text": "tea"}


def test_a_client_asks_for_what_it_has_missed(files):
    with (
        running_python("-m", "callee.cli", "rooms:rpc", "--redis", files) as callee,
        server_process(files) as url,
        Client(url) as client,
    ):
        assert callee.stdout.readline(), callee.stderr.read()
        assert client.call("room.say", ["tea", "missed"]) == 1
        with client.subscribe("room.tea") as room:
            assert client.call("room.since", ["tea", 0]) == [{"number": 1, "text": "missed"}]
            client.call("room.say", ["tea", "hello"])
            assert room.get(timeout=20).args == {"number": 2, "text": "hello"}
        assert client.call("room.since", ["tea", 2]) == []
