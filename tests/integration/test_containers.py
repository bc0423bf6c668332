"""The Dockerfile and the compose file, without a container engine.

The image is built as a virtual environment, and the commands and health checks of its containers run in it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from importlib.resources import files
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from juggler.client import Client
from tests.containers import BUILD, CLOSING, IMAGE, PORTS, UID, check_options, grace_of, status_of, stopped
from tests.dockerfile import ROOT, context
from tests.support import eventually

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "juggler"}
SECONDS = {"s": 1, "m": 60}

pytestmark = [pytest.mark.xdist_group("containers"), pytest.mark.timeout(300)]


def seconds(text: str) -> int:
    """Return the seconds of a duration such as 20s."""
    return int(text[:-1]) * SECONDS[text[-1]]


# The image.


def test_its_options_and_variables_exist():
    check_options(IMAGE.command, {})


def test_the_image_has_the_packages_of_a_server_and_neither_tests_nor_tools(image):
    paths = {str(path) for path in context()}
    assert "juggler/server/static/juggler.js" in paths
    assert not [path for path in paths if path.startswith(("tests", "docs", ".git", ".venv")) or "__pycache__" in path]
    packages = {path.name for path in image.venv.glob("lib/python*/site-packages/*")}
    assert {"juggler", "callee", "gunicorn", "gevent", "hiredis"} <= packages
    assert not packages & {"pip", "setuptools", "pytest", "rich"}
    done = subprocess.run(
        [image.venv / "bin" / "juggler", "--help"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_base_is_pinned_and_the_user_is_not_root():
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", IMAGE.base)
    assert BUILD.base == f"{IMAGE.base} AS build"
    assert UID > 0
    assert f"useradd --uid {UID} " in IMAGE.one("RUN")


def test_the_command_of_the_image_serves_is_healthy_and_drains_at_sigterm(image, compose_redis):
    assert not image.is_healthy(IMAGE.health_check)
    with image.running(IMAGE.command, REDIS_URL=compose_redis) as process:
        assert process.stdout.readline().startswith("juggler server: ws://")
        assert image.is_healthy(IMAGE.health_check)
        assert status_of(9000, "/metrics") == 404
        assert status_of(9001, "/metrics") == 200
        assert Path(f"/proc/{process.pid}").stat().st_uid == image.user
        stopped(process, 20)
    assert not image.is_healthy(IMAGE.health_check)


# Compose.


def test_the_compose_file_is_valid():
    schema = files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json"
    jsonschema_rs.validate(json.loads(schema.read_text()), COMPOSE)


@pytest.mark.parametrize("name", OURS)
def test_services_wait_for_redis_and_have_time_to_drain(name):
    service = OURS[name]
    check_options(service["command"], service["environment"])
    assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert seconds(service["stop_grace_period"]) >= grace_of(service["command"]) + CLOSING
    assert service["read_only"]
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        assert (ROOT / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"]
    for published in service.get("ports", []):
        host, _, port = published.rpartition(":")
        assert host.startswith("127.0.0.1:")
        assert int(port) == 9000


def test_the_chat_of_the_compose_file_works(image, compose_redis):
    data = image.directory / "data"
    data.mkdir(exist_ok=True)
    data.chmod(0o777)
    code = image.app / "examples"
    if not code.exists():
        shutil.copytree(ROOT / "examples", code)
    server, callee = OURS["server"], OURS["callee"]
    variables = {"REDIS_URL": compose_redis, "PYTHONPATH": "."}
    database = callee["environment"]["CHAT_DATABASE"].replace("/data", str(data))
    check = callee["healthcheck"]["test"]
    assert check[0] == "CMD"
    with (
        image.running(server["command"], **variables) as serving,
        image.running(callee["command"], **variables, CHAT_DATABASE=database) as called,
    ):
        assert serving.stdout.readline().startswith("juggler server: ")
        assert next(line for line in called.stdout if line.startswith("serving "))
        eventually(lambda: image.is_healthy(IMAGE.health_check), 30)
        eventually(lambda: image.is_healthy(check[1:]), 30)
        with urllib.request.urlopen(f"http://127.0.0.1:{PORTS[9000]}/", timeout=5) as page:
            assert b"<title>" in page.read()
        with Client(f"ws://127.0.0.1:{PORTS[9000]}/ws") as client:
            assert client.call("chat.say", ["room", "ann", "hello"])["text"] == "hello"
            assert [each["text"] for each in client.call("chat.history", "room")] == ["hello"]
        stopped(serving, seconds(server["stop_grace_period"]))
        assert "1 requests" not in stopped(called, seconds(callee["stop_grace_period"]))
