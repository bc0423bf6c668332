"""Signals that arrive while a command is still being imported."""

from __future__ import annotations

import signal

import pytest

from tests.integration.commands import run_python

PROGRAM = """
import os, signal, sys

class Signaller:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid_(), {number})
            print("still running")

os.getpid_ = os.getpid
sys.meta_path.insert(0, Signaller())
sys.argv = {argv!r}
{first}
from juggler.cli.entry import {entry}
{entry}()
"""

CONFIG = ["juggler", "config", "show"]
SERVER = ["juggler", "server", "--redis", "redis://127.0.0.1:1"]
CALLEE = ["juggler-callee", "callee.demo:rpc", "--redis", "redis://127.0.0.1:1"]


def start(argv, module, number=signal.SIGINT, first=""):
    entry = argv[0].replace("-", "_")
    return run_python(
        "-c", PROGRAM.format(module=module, number=int(number), argv=argv, entry=entry, first=first), PYTHONPATH="."
    )


@pytest.mark.parametrize(
    ("argv", "module"),
    [
        *((CONFIG, module) for module in ("juggler.cli.main", "click", "msgspec", "juggler.cli.config_command")),
        *((SERVER, module) for module in ("juggler.errors", "gevent", "redis", "hiredis", "juggler.wsgi")),
        *((CALLEE, module) for module in ("juggler.callee", "msgspec", "click", "gevent", "hiredis", "callee.demo")),
        ([*CALLEE, "-p", "2"], "juggler.callee.supervisor"),
    ],
)
def test_ctrl_c_during_the_imports_exits_with_130(argv, module):
    done = start(argv, module)
    # Once the callee handles signals, it stops as at any other time before it has taken calls.
    expected = 0 if module == "callee.demo" else 130
    assert (done.returncode, done.stderr) == (expected, "")
    assert "still running" not in done.stdout


@pytest.mark.parametrize("argv", [CONFIG, SERVER, CALLEE])
def test_sigterm_during_the_imports_stops_process_1_of_a_container(argv):
    done = start(argv, "msgspec", signal.SIGTERM, "os.getpid = lambda: 1")
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")
    assert start(argv, "msgspec", signal.SIGTERM).returncode == -signal.SIGTERM


def test_a_signal_that_is_ignored_stays_ignored():
    done = start(CONFIG, "msgspec", first="signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("still running\n")


def test_the_module_is_the_same_command():
    done = run_python("-m", "juggler", "config", "show", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"server.max_calls"' in done.stdout
