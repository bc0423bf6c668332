"""Containers without a container engine: the image of the Dockerfile as a virtual environment, and processes in it.

A process has the variables, the user and the command of its container, and other ports. If the tests do not run as
root, it has the user of the tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from juggler.callee.cli import main as callee_command
from juggler.cli.config.load import load
from juggler.cli.config.table import SETTINGS
from juggler.process.embedded import free_port
from tests.dockerfile import ROOT, context, stages
from tests.integration.commands import environment

BUILD_TIMEOUT = 240
BUILD, IMAGE = stages((ROOT / "Dockerfile").read_text())
UID = int(IMAGE.one("USER").split(":")[0])
PORTS = {int(port): free_port() for port in IMAGE.one("EXPOSE").split()}
"""The port of this machine for each port of the image."""


class Image:
    """A directory with what the build stage makes: ``src``, ``venv``, and the empty ``app``.

    Attributes:
        user: user of its processes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.app = directory / "app"
        self.venv = directory / "venv"
        self.interpreter = _interpreter()
        self.user = UID if os.geteuid() == 0 and _may_run(self.interpreter) else os.geteuid()

    def build(self) -> None:
        """Run the instructions of the build stage."""
        tools = self.directory / "bin"
        for each in (tools, self.app):
            each.mkdir()
        (tools / "python").symlink_to(self.interpreter)
        pip = tools / "pip"
        pip.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip "$@"\n')
        pip.chmod(0o755)
        there = Path()
        for name, value in BUILD.instructions:
            if name == "WORKDIR":
                there = self._here(value)
                there.mkdir()
            elif name == "COPY":
                _copy(value.split(), there)
            else:
                assert name == "RUN"
                self._run(value, there, f"{tools}:{os.environ['PATH']}")

    def _run(self, command: str, there: Path, path: str) -> None:
        for name in ("/venv", "/src"):
            command = command.replace(name, str(self._here(name)))
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=there,
            env=environment(PATH=path),
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _here(self, path: str) -> Path:
        return self.directory / path.lstrip("/")

    def start(self, command: Sequence[str], **variables: str) -> subprocess.Popen[str]:
        """Start a process of a container, in an empty directory that it cannot write to."""
        set_in_image = {name: _moved(value) for name, value in IMAGE.environment.items() if name != "PATH"}
        path = f"{self.venv / 'bin'}:/usr/bin:/bin"
        words = [_moved(word) for word in command]
        program = shutil.which(words[0], path=path)
        assert program is not None, f"{words[0]} is not in the image"
        user = self.user if os.geteuid() == 0 else None
        return subprocess.Popen(
            [program, *words[1:]],
            cwd=self.app,
            env={"PATH": path, **set_in_image, **variables},
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @contextmanager
    def running(self, command: Sequence[str], **variables: str) -> Iterator[subprocess.Popen[str]]:
        """Run a process of a container, and kill it at the end when it still runs."""
        with self.start(command, **variables) as process:
            try:
                yield process
            finally:
                process.kill()

    def is_healthy(self, check: Sequence[str]) -> bool:
        """Run a health check of a container; return whether it succeeds."""
        with self.running(check) as process:
            return process.wait(30) == 0


def _copy(words: Sequence[str], there: Path) -> None:
    """Copy files of the context as COPY does: files into a directory that ends with a slash, or a directory."""
    *sources, target = words
    copied = 0
    for path in context():
        for source in sources:
            if path.match(source) and len(path.parts) == 1:
                shutil.copy(ROOT / path, there / target)
            elif path.is_relative_to(source):
                to = there / target / path.relative_to(source)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, to)
            else:
                continue
            copied += 1
    assert copied, f"COPY {' '.join(words)}: the context has no such file"


def _moved(text: str) -> str:
    """Return a word of a command or variable with the ports of this machine, on loopback."""
    for port, here in PORTS.items():
        text = text.replace(str(port), str(here))
    return text.replace("0.0.0.0", "127.0.0.1")


def _interpreter() -> str:
    """Return a Python of this machine: one that the user of the image may run, if there is one."""
    found = [os.path.realpath(sys.executable)]
    found += [path for path in ("/usr/local/bin/python3", "/usr/bin/python3") if os.path.exists(path)]
    return next(filter(_may_run, found), found[0])


def _may_run(interpreter: str) -> bool:
    check = "import sys, venv; raise SystemExit(sys.version_info < (3, 10))"
    user = UID if os.geteuid() == 0 else None
    try:
        done = subprocess.run(
            [interpreter, "-c", check], user=user, group=user, capture_output=True, timeout=30, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


CLOSING = 2 + 1 + 2
"""Seconds in which a server closes its connections and answers the last requests after --grace, with some to spare."""


def status_of(port: int, path: str) -> int:
    """Return the HTTP status of a path at a port of the image; 0 if nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORTS[port]}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def stopped(process: subprocess.Popen[str], within: float) -> str:
    """Send SIGTERM; the process must stop with code 0. Return its output."""
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=within)
    assert process.returncode == 0, output
    return output


def options_of(words: Sequence[str]) -> dict[str, str]:
    """Return the options of a command by name; they have the form --name=value or --name."""
    return dict(each[2:].partition("=")[::2] for each in words if each.startswith("--"))


def grace_of(words: Sequence[str]) -> float:
    """Return the seconds that a command drains: those of its option, or the default."""
    defaults = {"juggler": next(setting.default for setting in SETTINGS if setting.key == "listen.grace")}
    defaults["juggler-callee"] = next(each.default for each in callee_command.params if each.name == "grace")
    return float(options_of(words).get("grace", defaults[words[0]]))


def check_options(words: Sequence[str], variables: Mapping[str, str]) -> None:
    """Check that the options and variables of a container exist, and that it listens on the ports of the image."""
    every = {**IMAGE.environment, **variables}
    if words[0] == "juggler":
        assert words[1] == "server"
        flags = {flag for setting in SETTINGS for flag in (setting.flag, f"--no-{setting.flag[2:]}")}
        settings, errors = load(environ=every)
        assert errors == []
        assert settings.listen.bind == "0.0.0.0:9000"
        assert settings.listen.metrics_bind == "0.0.0.0:9001"
    else:
        assert words[0] == "juggler-callee"
        flags = {flag for parameter in callee_command.params for flag in parameter.opts}
        names = {f"JUGGLER_CALLEE_{(parameter.name or '').upper()}" for parameter in callee_command.params}
        ours = {variable for variable in every if variable.startswith("JUGGLER_CALLEE_")}
        assert ours
        assert ours <= names
    assert {f"--{each}" for each in options_of(words)} <= flags
