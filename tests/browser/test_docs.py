"""The JavaScript of README.md and docs/tutorial.md, in the console of the demo's page."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from juggler.process.embedded import EmbeddedRedis
from tests.integration.commands import running_python, server_process

ROOT = Path(__file__).parents[2]
CALLEES = """
from callee import Callee

rpc = Callee()
rpc.register("greet", lambda name: f"hello, {name}")
rpc.register("shop.price", lambda name: 3)
"""


@pytest.mark.parametrize(("name", "printed"), [("README.md", "hello, world"), ("docs/tutorial.md", "3")])
def test_its_lines_print_the_answer(page, tmp_path, monkeypatch, name, printed):
    (tmp_path / "both.py").write_text(CALLEES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    (lines,) = re.findall(r"^```js\n(.*?)^```$", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    with (
        EmbeddedRedis() as redis,
        running_python("-m", "callee.cli", "both:rpc", "--redis", redis.url) as callee,
        server_process(redis.url, "--playground") as url,
    ):
        assert callee.stdout.readline()
        page.goto(url.replace("ws://", "http://").removesuffix("ws"))
        with page.expect_console_message() as message:
            page.evaluate(f"async () => {{ {lines} }}")
        assert message.value.text == printed
        page.goto("about:blank")
