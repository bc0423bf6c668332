"""Follow docs/tutorial.md: run its files, commands and clients. Only the addresses are replaced."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs import DOCS, python_blocks
from tests.integration.commands import TIMEOUT, running_python, server_process

FILES = {re.match(r"# (\w+\.py)\n", text)[1]: text for text in python_blocks("tutorial.md")}
PAGE = (DOCS / "tutorial.md").read_text()
SHELL = re.findall(r"^(juggler(?:-callee)? .*)$", PAGE, re.MULTILINE)
PRINTED = dict(re.findall(r"^```sh\npython (\w+\.py)\n```\n\n```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
ENDS = re.findall(r"^\| \w+ \| `(.*)` \| (\d) \|$", PAGE, re.MULTILINE)


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
    def run(*command):
        return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=TIMEOUT, check=False)

    assert list(PRINTED) == ["customer.py", "regular.py"]
    for name, printed in PRINTED.items():
        text = FILES[name]
        for shown, url in shop.items():
            text = text.replace(shown, url)
        Path(name).write_text(text)
        done = run(name)
        assert (done.stdout, done.stderr) == (printed, "")

    calls = [shlex.split(line)[1:] for line in SHELL if line.startswith("juggler call")]
    assert len(calls) == len(ENDS) == 3
    for args, (output, code) in zip(calls, ENDS, strict=True):
        done = run("-m", "juggler", *args, "--url", shop["ws://127.0.0.1:9000/ws"])
        assert (done.returncode, done.stdout + done.stderr) == (int(code), output + "\n")
