"""Memory that large messages have used is returned to the system."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from contextlib import ExitStack

import gevent
import pytest

from juggler.client import Client
from juggler.process import trim
from loadtest.procfs import family, resident
from tests.integration.commands import running, running_python
from tests.integration.test_callee_command import running as running_callee
from tests.integration.test_server_backlog import BIG, call_without_reading
from tests.support import eventually

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries return it themselves")

MB = 1_000_000
TRIMMED = trim.GROWTH + 40 * MB
"""Growth that may stay."""

LEAVER = f"""
import gevent
from juggler.process import trim
from juggler.process.process_memory import resident

trim.PERIOD = 0.05
before = resident()
with trim.returned_memory():
    blocks = [bytes(20_000) + b"x" for _ in range(20_000)]
    kept = blocks[::50]
    assert resident() > before + 300 * {MB}
    del blocks
    with gevent.Timeout(60):
        while resident() > before + {TRIMMED}:
            gevent.sleep(0.05)
"""


@on_glibc
def test_free_memory_between_blocks_in_use_is_returned():
    with running_python("-c", LEAVER) as process:
        output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, output + errors


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    monkeypatch.setattr(gevent, "spawn", None)
    with trim.returned_memory():
        assert sys.modules["juggler.process.trim"] is trim


def used(pid: int) -> int:
    """The memory of the largest of a process and its children."""
    return max(map(resident, family(pid)))


@on_glibc
@pytest.mark.alone
@pytest.mark.leaves_keys("juggler:*")
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["alone", "gunicorn"])
def test_a_server_returns_what_large_messages_used(redis_url, tmp_path, options):
    (tmp_path / "big.py").write_text(BIG)
    with (
        running("server", "--bind", "127.0.0.1:0", "--redis", redis_url, *options) as server,
        running_callee("big:rpc", "-c", "20", "--redis", redis_url, cwd=tmp_path),
        ExitStack() as stayers,
    ):
        url = re.search(r"ws://\S+", server.stdout.readline()).group()
        stayers.enter_context(Client(url))
        before = used(server.pid)
        with ExitStack() as stack:
            for _ in range(40):
                call_without_reading(stack, url, MB)

            def grows() -> bool:
                # Connections that stay are in the memory between messages: what lies below them is not returned.
                for _ in range(5):
                    stayers.enter_context(Client(url))
                return used(server.pid) > before + 2 * TRIMMED

            eventually(grows, timeout=60, message="a burst")
        eventually(lambda: used(server.pid) < before + TRIMMED, timeout=60, message="memory is returned")


SCATTER = """
from callee import Callee

rpc = Callee()
kept = []


@rpc.register("scatter")
def scatter() -> None:
    kept.extend([b"x" * 20_000 for _ in range(20_000)][::50])
"""


@on_glibc
@pytest.mark.parametrize("options", [(), ("-p", "2")], ids=["alone", "supervised"])
def test_a_callee_returns_what_functions_used(redis_url, ask, tmp_path, options):
    (tmp_path / "scattering.py").write_text(SCATTER)
    with running_callee("scattering:rpc", *options, "--redis", redis_url, cwd=tmp_path) as callee:
        before = used(callee.pid)
        ask("scatter", None)
        assert used(callee.pid) > before + 2 * TRIMMED
        eventually(lambda: used(callee.pid) < before + TRIMMED, timeout=60, message="memory is returned")
