"""Processes that are guarded end with the one that started them; real ones, and a real SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from juggler.process.guard import ProcessGuard
from loadtest.procfs import family
from tests.support import eventually

# Starts three sessions, each a shell and its child, prints their numbers, and waits.
STARTER = """
import subprocess, sys, time
from juggler.process.guard import ProcessGuard

guard = ProcessGuard()
started = [subprocess.Popen(["/bin/sh", "-c", "sleep 30; :"], start_new_session=True).pid for _ in range(3)]
for pid in started:
    guard.add(pid)
guard.remove(started[1])
if sys.argv[1] == "close":
    guard.close()
print(*started, flush=True)
time.sleep(30)
"""


@pytest.fixture
def start():
    started = []

    def start(what):
        process = subprocess.Popen([sys.executable, "-c", STARTER, what], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            leaders = [int(pid) for pid in process.stdout.readline().split()]
        started.extend(leaders)
        families = [eventually(lambda pid=pid: whole(pid)) for pid in leaders]
        process.kill()
        process.wait()
        return families

    yield start
    for pid in started:
        if pid in sessions():
            os.killpg(pid, signal.SIGKILL)


def whole(pid):
    found = family(pid)
    return found if len(found) == 2 else None


def sessions():
    return {os.getsid(int(name)) for name in os.listdir("/proc") if name.isdigit() and runs(int(name))}


def runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_sessions_end_whole_with_the_one_that_started_them_but_not_those_that_were_removed(start):
    first, removed, last = start("guard")
    eventually(lambda: not any(map(runs, first + last)))
    assert all(map(runs, removed))


def test_nothing_is_guarded_after_close(start):
    families = start("close")
    assert all(runs(pid) for each in families for pid in each)


def test_after_close_removing_does_nothing_and_adding_is_an_error():
    guard = ProcessGuard()
    guard.close()
    guard.close()
    guard.remove(1)
    with pytest.raises((OSError, ValueError), match="closed"):
        guard.add(1)
