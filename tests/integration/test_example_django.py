"""Django in examples/backends/: what is committed is published once, and calls leave no connection to the database."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

from juggler.client import Client
from juggler.process.embedded import free_port
from tests.integration.commands import run_python, running_python, server_process

APP = "examples.backends.django_app"


def with_descendants(pid: int) -> list[int]:
    """Return a process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in with_descendants(int(child)))]


def open_files(pid: int) -> list[str]:
    return [os.path.realpath(file) for file in Path(f"/proc/{pid}/fd").iterdir()]


def test_django(mortal, tmp_path):
    database = str(tmp_path / "orders.sqlite3")
    address = f"127.0.0.1:{free_port()}"
    mortal.start()
    environment = {"REDIS_URL": mortal.url, "ORDERS_DATABASE": database}
    created = run_python("-m", APP, **environment)
    assert created.returncode == 0, created.stderr

    def place(*names: str) -> int:
        form = urlencode([("name", name) for name in names]).encode()
        try:
            with urllib.request.urlopen(f"http://{address}/orders", data=form, timeout=30) as response:
                return response.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    with (
        server_process(mortal.url) as url,
        running_python("-m", "callee.cli", "examples.backends.django_callees:rpc", **environment) as callee,
        running_python("-m", "gunicorn", f"{APP}:application", "--bind", address, **environment) as gunicorn,
        Client(url) as client,
        client.subscribe("orders") as orders,
    ):
        assert callee.stdout.readline(), callee.stderr.read()
        while "Listening at" not in (line := gunicorn.stderr.readline()):
            assert line
        assert place("tea", "gold") == 404  # the event of tea waits for a commit that never happens
        assert place("coffee") == 201
        client.publish("orders", "the last event")
        assert [orders.get(20).args for _ in range(2)] == [{"number": 1, "name": "coffee"}, "the last event"]

        assert [client.call("orders.count", name) for name in ("coffee", "tea")] == [1, 0]
        assert client.call("orders.names") == ["coffee"]
        # Results are sent after the end of the call, so nothing may be open any more, in any process.
        processes = with_descendants(callee.pid)
        assert len(processes) > 1
        assert not [file for pid in processes for file in open_files(pid) if file.startswith(database)]

        mortal.kill()
        assert place("tea") == 201
        gunicorn.terminate()
        _, log = gunicorn.communicate(timeout=20)
        assert "Error calling" in log
        assert "BrokerUnavailable" in log
