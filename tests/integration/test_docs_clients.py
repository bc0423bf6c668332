"""docs/clients/python.md, run as it stands against a server and the demo's callee. Only the address is put in."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.docs import run_blocks
from tests.integration.commands import callee_process, server_process

SHOWN = "ws://127.0.0.1:9000/ws"


def test_the_page_works(redis_url):
    with callee_process(redis_url), server_process(redis_url) as url:
        names = run_blocks("clients/python.md", {SHOWN: url})
        assert names["reversed_text"] == "olleh"
        assert (names["failed"].type, names["failed"].code) == ("InvalidArguments", 400)
        assert names["delay"] == 20
        assert (names["event"].channel, names["event"].args) == ("news.tea", {"price": 3})
        program = "import asyncio, sys; from tests.docs import run_blocks; " + (
            "names = run_blocks('clients/python.md', {sys.argv[1]: sys.argv[2]}); "
            "print(asyncio.run(names['main'](sys.argv[2])))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, SHOWN, url],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "[1, 2]\n"), done.stderr
