"""The JavaScript of README.md, docs/tutorial.md and docs/clients/browser.md, in the console of the playground."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from juggler.process.embedded import EmbeddedRedis
from tests.integration.commands import running_python, server_process

ROOT = Path(__file__).parents[2]
SHOP = """
from callee import Callee

rpc = Callee()
rpc.register("shop.price", lambda name, count: 3 * count)
rpc.register("shop.report", lambda year: year)


@rpc.register("shop.describe")
def describe(text):
    yield from text.split()
    return {"words": len(text.split())}
"""
SHOWN = """
globalThis.shown = [];
globalThis.show = (value) => shown.push(value);
globalThis.reload = () => {};
globalThis.stopButton = {};
"""
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


def test_the_blocks_of_the_client_run(page, tmp_path, monkeypatch):
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    text = (ROOT / "docs" / "clients" / "browser.md").read_text("utf-8")
    first, controller, stream, news, token = re.findall(r"^```js\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    # A function has no static imports, and the first loop would never end.
    first = first.replace('import { Client } from "/juggler.js";', 'const { Client } = await import("/juggler.js");')
    first = first.replace("for await", 'setInterval(() => client.publish("news.tea", 1), 50);\nfor await')
    assert "console.log(channel, args);" in first
    first = first.replace("console.log(channel, args);", "show([channel, args]); break;")
    token = f"(() => {{ {token} }})"  # the server of this test has no tokens
    lines = [SHOWN, first, "show(price);", controller, f"{{ {stream} show(words); }}", news, token, "return shown;"]
    with (
        EmbeddedRedis() as redis,
        running_python("-m", "callee.cli", "shop:rpc", "--redis", redis.url) as callee,
        server_process(redis.url, "--playground") as url,
    ):
        assert callee.stdout.readline()
        page.goto(url.replace("ws://", "http://").removesuffix("ws"))
        shown = page.evaluate("\n".join(["async () => {", *lines, "}"]))
        assert shown[:6] == [["news.tea", 1], 6, "fresh", "green", "tea", 3]
        page.goto("about:blank")
