"""docs/clients/python.md, run as it stands against a server and the demo's callee. Only the address is put in."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from juggler.errors import Cancelled
from tests.docs import run_blocks
from tests.integration import test_callee_command as callee_command
from tests.integration.commands import server_process
from tests.support import eventually

FUNCTIONS = """
import time

from callee import cancelled
from callee.demo import rpc


@rpc.register("shop.describe")
def describe(text: str):
    for word in text.split():
        yield word
    return {"words": len(text.split())}


@rpc.register("shop.export")
def export(rows: int) -> str:
    for row in range(rows):
        if cancelled():
            with open("cancelled", "a") as file:
                file.write("export ")
            return "stopped"
        time.sleep(0.05)
    return "exported"
"""

SHOWN = "ws://127.0.0.1:9000/ws"


@pytest.mark.leaves_keys("juggler:results:*")  # of calls that were cancelled just before the end
def test_the_page_works(redis_url, tmp_path):
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    with (
        callee_command.running("functions:rpc", "--redis", redis_url, cwd=tmp_path),
        server_process(redis_url) as url,
    ):
        names = run_blocks("clients/python.md", {SHOWN: url})
        assert names["reversed_text"] == "olleh"
        assert (names["failed"].type, names["failed"].code) == ("InvalidArguments", 400)
        assert names["delay"] == 20
        assert (names["event"].channel, names["event"].args) == ("news.tea", {"price": 3})
        assert (names["words"], names["counted"]) == (["green", "tea"], {"words": 2})
        assert isinstance(names["cancelled"], Cancelled)
        assert names["exported"] in ("stopped", "Cancelled")
        program = "import asyncio, sys; from tests.docs import run_blocks; " + (
            "names = run_blocks('clients/python.md', {sys.argv[1]: sys.argv[2]}); "
            "print(asyncio.run(names['main'](sys.argv[2])), asyncio.run(names['describe'](sys.argv[2])))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, SHOWN, url],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "[1, 2] (['green', 'tea'], {'words': 2})\n"), done.stderr
        # The call that `wait_for` has cancelled was running.
        eventually(lambda: (tmp_path / "cancelled").exists())
