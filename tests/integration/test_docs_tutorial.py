"""Follow docs/tutorial.md: run its files, commands and clients. Only the addresses are replaced."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.docs import DOCS, python_blocks
from tests.integration.commands import TIMEOUT, running_python, server_process

FILES = {re.match(r"# (\w+\.py)\n", text)[1]: text for text in python_blocks("tutorial.md")}
SHELL = re.findall(r"^(juggler(?:-callee)? .*)$", (DOCS / "tutorial.md").read_text(), re.MULTILINE)


def first_line(process) -> str:
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return line


@pytest.fixture
def shop(tmp_path, monkeypatch, redis_url):
    """The files of the tutorial, its two servers, and its callee; returns the servers' URLs."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    monkeypatch.chdir(tmp_path)
    modules = {"juggler": "juggler.cli.main", "juggler-callee": "callee.cli"}
    with ExitStack() as stack:
        for line in SHELL:
            command, *args = shlex.split(line)
            if command == "juggler-callee":
                first_line(stack.enter_context(running_python("-m", modules[command], *args, REDIS_URL=redis_url)))
            elif args[0] == "server":
                args[args.index("--bind") + 1] = "127.0.0.1:0"
                process = stack.enter_context(running_python("-m", modules[command], *args, REDIS_URL=redis_url))
                own = re.search(r"ws://\S+", first_line(process)).group()
        demo = stack.enter_context(server_process(redis_url))
        yield {"ws://127.0.0.1:9000/ws": demo, "ws://127.0.0.1:9001/ws": own}


@pytest.mark.leaves_keys("juggler:calls:*")
def test_the_shop_works_as_the_page_says(shop):
    def run(name):
        text = FILES[name]
        for shown, url in shop.items():
            text = text.replace(shown, url)
        names = {}
        exec(compile(text, name, "exec"), names)
        return names

    customer = run("customer.py")
    assert customer["order"] == {"ordered": "tea", "total": 3}
    assert customer["reason"] == "not in stock: gold"
    assert (customer["event"].channel, customer["event"].args) == ("shop.news", {"open": True})
    regular = run("regular.py")
    assert regular["code"] == 403
    assert regular["order"] == {"ordered": "coffee", "total": 4}

    calls = [shlex.split(line)[1:] for line in SHELL if line.startswith("juggler call")]
    ended = [
        subprocess.run(
            [sys.executable, "-m", "juggler.cli.main", *args, "--url", shop["ws://127.0.0.1:9000/ws"]],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        for args in calls
    ]
    assert [done.returncode for done in ended] == [0, 1, 4]
    assert ended[0].stdout == "3\n"
    assert "not in stock: gold" in ended[1].stderr
