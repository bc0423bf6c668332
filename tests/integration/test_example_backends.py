"""The programs of examples/backends/: gunicorn with Flask, its worker processes, and the script for cron."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from juggler.client import Client
from juggler.process.embedded import free_port
from tests.integration.commands import ROOT, run_python, running_python, server_process
from tests.support import eventually


@pytest.fixture
def shop(redis_url):
    with running_python("-m", "callee.cli", "examples.backends.callees:rpc", "--redis", redis_url) as process:
        assert process.stdout.readline(), process.stderr.read()
        yield redis_url


def test_flask_and_its_worker(shop):
    address = f"127.0.0.1:{free_port()}"
    command = ("-m", "gunicorn", "examples.backends.flask_app:app", "--preload", "-w", "2", "--bind", address)

    def ask(path: str, method: str = "GET", **headers: str):
        request = urllib.request.Request(f"http://{address}{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def is_up() -> bool:
        try:
            return ask("/price/tea") == (200, {"price": 3})
        except OSError:
            return False

    with (
        server_process(shop) as url,
        Client(url) as client,
        client.subscribe("orders") as orders,
        running_python(*command, REDIS_URL=shop) as gunicorn,
    ):
        eventually(is_up)
        placed = "tea for ann"
        assert ask("/orders/tea", "POST", **{"X-User": "ann"}) == (201, {"order": placed, "watching": 1})
        states = [orders.get(10).args for _ in range(3)]
        assert all(each["order"] == placed for each in states)
        assert sorted(each["state"] for each in states) == ["packed", "placed", "sent"]
        assert ask("/orders/cup", "POST")[1]["order"] == "cup for a guest"
        assert ask("/price/coffee")[0] == 502
        gunicorn.terminate()
        assert gunicorn.wait(20) == 0


# An ASGI server for a few requests, one after another.
ASGI = """
import asyncio, json, warnings
from examples.backends.fastapi_app import app

async def ask(method, path, user=None):
    headers = [] if user is None else [(b"x-user", user)]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": headers, "http_version": "1.1", "scheme": "http", "server": ("x", 80), "root_path": ""}
    sent = []
    requests = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        return requests.pop() if requests else await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    print(sent[0]["status"], b"".join(each.get("body", b"") for each in sent[1:]).decode())

async def main():
    async with app.router.lifespan_context(app):
        await ask("GET", "/price/tea")
        await ask("POST", "/orders/tea", b"ann")
        await ask("POST", "/orders/cup")
        await ask("GET", "/report")
        await ask("GET", "/price/coffee")

asyncio.run(main())
"""


def test_fastapi(shop):
    with server_process(shop) as url, Client(url) as client, client.subscribe("orders") as orders:
        done = run_python("-c", ASGI, REDIS_URL=shop)
        *answers, failure = done.stdout.splitlines()
        assert answers == [
            '200 {"price":3}',
            '201 {"order":"tea for ann","watching":1}',
            '201 {"order":"cup for a guest","watching":1}',
            "200 tea: 3",
            *("cup: 7", ""),
        ], done.stderr[-2000:]
        assert failure.startswith('502 {"error":"internal error')
        assert [orders.get(5).args for _ in range(2)] == [{"order": "tea for ann"}, {"order": "cup for a guest"}]


def test_the_script_for_cron(shop):
    with server_process(shop) as url, Client(url) as client, client.subscribe("report") as report:
        done = run_python("-m", "examples.backends.report", REDIS_URL=shop)
        assert (done.returncode, done.stdout, done.stderr) == (0, "2 lines\n", "")
        assert [report.get(5).args for _ in range(2)] == ["tea: 3", "cup: 7"]


def test_the_script_fails_clearly_without_redis():
    url = f"redis://:secret@127.0.0.1:{free_port()}"
    done = run_python("-m", "examples.backends.report", REDIS_URL=url)
    assert done.returncode == 1
    assert done.stderr.startswith("report: no connection to Redis at redis://:***@127.0.0.1:")


def test_each_recipe_is_short():
    files = list((ROOT / "examples" / "backends").glob("*.py"))
    assert len(files) >= 5
    assert not [path for path in files if len(path.read_text().splitlines()) > 60]
