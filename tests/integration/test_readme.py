"""Run the README's commands and code blocks against the demo. Only the addresses are replaced."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pytest

from juggler.client import Client
from juggler.errors import ConnectionClosed
from juggler.process.embedded import free_port
from tests.support import eventually

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
TIMEOUT = 100

URL_SHOWN = "ws://127.0.0.1:9000/ws"
REDIS_SHOWN = "unix:///tmp/juggler-redis-k3v9x2ma/redis.sock"
BIND_SHOWN = "127.0.0.1:8000"
PRODUCTION_REDIS_SHOWN = "redis://127.0.0.1:6379"

NOT_RUN_HERE = {"pip install 'juggler[embedded]'", "juggler demo"}


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def python_block(word: str) -> str:
    (text,) = [text for text in blocks("python") if word in text]
    return text


SHELL = [line for text in blocks("sh") for line in text.splitlines()]


class Demo(NamedTuple):
    output: str
    url: str
    redis_url: str
    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # With an empty REDIS_URL the demo starts its own Redis.
        return {**os.environ, "PATH": path, "JUGGLER_URL": self.url, "REDIS_URL": self.redis_url}

    @contextmanager
    def running(self, line: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            shlex.split(line),
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.terminate()

    def run(self, line: str) -> str:
        with self.running(line) as process:
            output, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, line
        return output


pytestmark = pytest.mark.xdist_group("readme")


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Iterator[Demo]:
    directory = tmp_path_factory.mktemp("readme")
    (directory / "greet.py").write_text(python_block("rpc.register"))
    (directory / "app.py").write_text(python_block("application ="))
    (directory / "program.py").write_text(python_block("Client("))
    start = Demo("", "", "", directory)
    with start.running(f"{sys.executable} -m juggler.cli.main demo --bind 127.0.0.1:0") as process:
        output = "".join(takewhile(lambda line: not line.startswith("Ctrl-C"), process.stdout))
        url = re.search(r"ws://\S+", output).group()
        yield Demo(output, url, re.search(r"unix://\S+", output).group(), directory)


@pytest.fixture(scope="module")
def greeting(demo: Demo) -> Iterator[None]:
    (line,) = [line for line in SHELL if REDIS_SHOWN in line]
    with demo.running(line.replace(REDIS_SHOWN, demo.redis_url)) as process:
        assert process.stdout.readline().startswith("serving greet")
        yield


def test_the_demo_prints_what_the_readme_shows(demo):
    (shown,) = [text for text in blocks("") if text.startswith("redis")]
    assert re.sub(r":\d+", ":9000", demo.output.replace(demo.redis_url, REDIS_SHOWN)).startswith(shown)


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ('juggler call test.echo \'{"any": ["JSON"]}\'', '{"any":["JSON"]}\n'),
        ("juggler call test.reverse '\"olleh\"'", '"hello"\n'),
        ('juggler pub news \'{"text": "hello"}\'', ""),
        ("juggler call greet '\"world\"'", '"hello, world"\n'),
    ],
)
def test_its_commands(demo, greeting, line, output):
    assert line in SHELL
    assert demo.run(line) == output


def test_no_command_is_forgotten():
    known = ("juggler call ", "juggler pub ", "juggler-callee ", "juggler server ", "gunicorn ")
    assert [line for line in SHELL if line not in NOT_RUN_HERE and not line.startswith(known)] == []
    assert len([line for line in SHELL if line.startswith(("juggler ", "juggler-callee "))]) == 8
    assert len(blocks("python")) == 3


def test_its_client(demo, greeting):
    program = demo.directory / "program.py"
    text = program.read_text()
    assert URL_SHOWN in text
    program.write_text(text.replace(URL_SHOWN, demo.url))
    assert demo.run(f"{sys.executable} program.py") == "hello, world\n{'text': 'hello'}\n"


def greeting_from(bind: str) -> str:
    try:
        with Client(f"ws://{bind}/ws") as client:
            return client.call("greet", "there", timeout=5)
    except ConnectionClosed:
        return ""


def test_its_application_under_gunicorn(demo, greeting):
    (line,) = [line for line in SHELL if line.startswith("gunicorn")]
    assert BIND_SHOWN in line
    bind = f"127.0.0.1:{free_port()}"
    with demo.running(line.replace(BIND_SHOWN, bind)):
        assert eventually(lambda: greeting_from(bind), timeout=TIMEOUT) == "hello, there"


def test_its_commands_for_production(demo):
    server, callee = [line for line in SHELL if PRODUCTION_REDIS_SHOWN in line]
    bind = f"127.0.0.1:{free_port()}"
    with (
        demo.running(server.replace(PRODUCTION_REDIS_SHOWN, demo.redis_url).replace(BIND_SHOWN, bind)),
        demo.running(callee.replace(PRODUCTION_REDIS_SHOWN, demo.redis_url)) as process,
    ):
        assert process.stdout.readline().startswith("serving greet")
        assert eventually(lambda: greeting_from(bind), timeout=TIMEOUT) == "hello, there"


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert [link for link in links if "://" not in link and not (ROOT / link.partition("#")[0]).exists()] == []
