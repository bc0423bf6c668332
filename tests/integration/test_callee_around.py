"""A process that is forked within a call does not resume the generators around it."""

from __future__ import annotations

import pytest

from tests.integration.commands import run_python

PROGRAM = """
import os
import sys
import time

from juggler.broker import IncomingCall
from juggler.callee import Callee, answer

rpc = Callee()
first, forks_in = os.getpid(), sys.argv[1]


def fork(place):
    if place == forks_in and (pid := os.fork()):
        os.waitpid(pid, 0)


def log(text):
    print(text, "first" if os.getpid() == first else "forked", flush=True)


@rpc.around
def around():
    fork("set-up")
    yield
    log("closed")
    fork("tear-down")


@rpc.register("f")
def f(fail: bool):
    fork("function")
    if fail and os.getpid() != first:
        raise ValueError("forked")


call = IncomingCall("conn", "msg", "f", sys.argv[2].encode(), time.monotonic() + 60)
answer.run(rpc["f"], call)
log("answered")
"""


@pytest.mark.parametrize("fails", ["true", "false"])
def test_a_function_that_forks_is_left_by_its_child_at_once(fails):
    done = run_python("-c", PROGRAM, "function", fails)
    assert (done.returncode, done.stdout) == (0, "closed first\nanswered first\n"), done.stderr
    assert done.stderr.count("ValueError: forked") == (fails == "true")


@pytest.mark.parametrize("place", ["set-up", "tear-down"])
def test_a_generator_that_forks_leaves_one_process(place):
    done = run_python("-c", PROGRAM, place, "false")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("answered") == 1
    assert "answered first" in done.stdout
