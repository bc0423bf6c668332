"""Static files: the client module and the playground."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request

import pytest

from juggler.protocol.messages import MessageType
from juggler.server.static_files import STATIC
from tests.stack import Wire, running_server


def get(running, path, method="GET", **headers):
    """Return status, headers and body of a response."""
    url = running.url.replace("ws://", "http://").removesuffix("/ws") + path
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def test_the_client_module_is_always_served_and_cached():
    with running_server() as running:
        status, headers, body = get(running, "/juggler.js")
        assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
        assert b"export class Client" in body
        again = get(running, "/juggler.js", **{"If-None-Match": headers["ETag"]})
        assert (again[0], again[2]) == (304, b"")
        head = get(running, "/juggler.js", method="HEAD")
        assert (head[0], head[1]["Content-Length"], head[2]) == (200, str(len(body)), b"")
        assert get(running, "/juggler.d.ts")[0] == 200


def test_the_playground_is_off_by_default():
    with running_server() as running:
        assert get(running, "/")[0] == get(running, "/playground.js")[0] == 404
    with running_server(application={"playground": True}, list_uri="who", fleet_uri="all") as running:
        status, headers, body = get(running, "/")
        assert (status, b"playground" in body) == (200, True)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert json.loads(get(running, "/playground.json")[2]) == {"path": "/ws", "listUri": "who", "fleetUri": "all"}
        files = [file.name for file in (STATIC / "playground").iterdir() if file.suffix != ".html"]
        assert {"playground.js", "playground.css", "playground.svg", "playground-form.js"} <= set(files)
        for name in files:
            assert get(running, f"/{name}")[0] == 200


def test_the_playground_stays_small():
    # As docs/clients/browser.md says.
    assert sum(file.stat().st_size for file in (STATIC / "playground").iterdir()) < 150_000


def test_each_module_of_the_playground_states_its_responsibility():
    for file in (STATIC / "playground").glob("*.js"):
        assert file.read_text().startswith("/** "), file


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_written(method):
    with running_server() as running:
        status, headers, body = get(running, "/juggler.js", method=method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert body == b"method not allowed: expected GET or HEAD\n"


def test_another_application_keeps_its_pages():
    def own(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    with running_server(application={"otherwise": own}) as running:
        assert get(running, "/")[2] == b"/"
        assert b"export class Client" in get(running, "/juggler.js")[2]


@pytest.mark.parametrize("code", [None, 0, 3])
def test_another_application_that_exits_costs_only_its_request(code):
    def own(environ, start_response):
        sys.exit(code)

    with running_server(application={"otherwise": own}) as running, Wire(running.url) as wire:
        assert get(running, "/")[0] == 500
        assert get(running, "/healthz")[0] == 200
        assert wire.request(MessageType.SUB, channel="c")["meta"]["type"] == MessageType.ACK


def test_no_path_leads_out_of_the_folder():
    with running_server(application={"playground": True}) as running:
        for path in ("/../pages.py", "/%2e%2e/pages.py", "/playground/index.html", "/package.json"):
            assert get(running, path)[0] == 404
