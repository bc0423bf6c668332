"""Install juggler without the development extras, in its newest and its lowest supported dependencies, and run it."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from juggler.process.embedded import free_port
from tests.integration.commands import ROOT, TIMEOUT, environment

INSTALL_TIMEOUT = 150
README = (ROOT / "README.md").read_text()
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

pytestmark = [pytest.mark.xdist_group("install"), pytest.mark.timeout(2 * INSTALL_TIMEOUT)]


def check(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lowest_requirements() -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"] + config["options.extras_require"]["server"]
    return [line.replace(">=", "==") for line in lines.split("\n") if line]


class Installed:
    """A virtual environment with juggler, and a directory with the README's callee and application."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        self.directory = directory
        path = f"{directory / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.variables = environment(PATH=path, REDIS_URL=redis_url)
        self.redis_url = redis_url

    def run(self, *args: str) -> str:
        command = shutil.which(args[0], path=self.variables["PATH"])
        done = subprocess.run(
            [command, *args[1:]],
            cwd=self.directory,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    @contextmanager
    def running(self, line: str, ready: str) -> Iterator[None]:
        """Run a command of the README. At the end it must exit with 0 at SIGTERM, without a traceback."""
        program, *args = shlex.split(line.replace("redis://127.0.0.1:6379", self.redis_url))
        process = subprocess.Popen(
            [shutil.which(program, path=self.variables["PATH"]), *args],
            cwd=self.directory,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            output = []
            try:
                for text in process.stdout:
                    output.append(text)
                    if re.search(ready, text):
                        break
                else:
                    raise AssertionError("".join(output))
                yield
            finally:
                process.terminate()
                output += process.stdout
        assert process.returncode == 0, "".join(output)
        assert "Traceback" not in "".join(output)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that pip builds from a copy of the tree, which must not need git."""
    directory = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "build", "__pycache__", "tests")
    shutil.copytree(ROOT, directory / "tree", ignore=ignored)
    check(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", directory, directory / "tree", cwd=directory)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(params=["newest", "lowest"])
def installed(request, tmp_path, wheel, redis_url) -> Installed:
    more = lowest_requirements() if request.param == "lowest" else []
    check(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    pip = (sys.executable, "-m", "pip", "--python", tmp_path / "venv" / "bin" / "python")
    check(*pip, "install", "-q", "--no-compile", f"{wheel}[server]", *more, cwd=tmp_path)
    (callee,) = [text for text in PYTHON_BLOCKS if "rpc.register" in text]
    (application,) = [text for text in PYTHON_BLOCKS if "application =" in text]
    (tmp_path / "greet.py").write_text(callee)
    (tmp_path / "app.py").write_text(application)
    return Installed(tmp_path, redis_url)


@pytest.mark.leaves_keys("juggler:calls:*")
def test_the_commands_for_production(installed):
    (gunicorn,) = re.findall(r"^gunicorn .*$", README, re.MULTILINE)
    (server,) = re.findall(r"^juggler server --workers 2 .*$", README, re.MULTILINE)
    (callee,) = re.findall(r"^juggler-callee .* -p 2 .*$", README, re.MULTILINE)
    shown = "127.0.0.1:8000"
    with installed.running(callee, "^serving greet"):
        assert "greet" in installed.run("juggler", "uris")
        for line, ready in ((gunicorn, "Booting worker"), (server, r"\(2 workers\)")):
            assert shown in line
            bind = f"127.0.0.1:{free_port()}"
            with installed.running(line.replace(shown, bind), ready):
                result = installed.run("juggler", "call", "greet", '"world"', "--url", f"ws://{bind}/ws")
                assert result == '"hello, world"\n'
