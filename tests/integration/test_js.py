"""The module for browsers, as Node runs it: its own tests, its size, its types, and a real server."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
from pathlib import Path

import pytest

from juggler.process.embedded import free_port
from juggler.server.connection import FEATURES
from tests.integration.commands import callee_process, running, running_python, server_process
from tests.operations import needs
from tests.support import eventually

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "juggler" / "server" / "static"

# Node 20 has a WebSocket behind a flag, 22 without.
NODE = ("node", "--experimental-websocket")


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    needs("node")
    return subprocess.run([*NODE, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def test_its_own_tests_pass():
    done = node("--test", "tests/js/")
    assert done.returncode == 0, done.stdout[-5000:]


def test_it_is_small():
    # 6,840 bytes before it renewed tokens on live connections and knew ENDS, which the page must not notice.
    assert len(gzip.compress((STATIC / "juggler.js").read_bytes(), 9)) < 7400


def test_its_package_can_be_published():
    package = json.loads((STATIC / "package.json").read_text())
    assert all((STATIC / name).exists() for name in package["files"])
    types = (STATIC / "juggler.d.ts").read_text()
    for name in (
        "Client",
        "Stream",
        "Subscription",
        "CallFailed",
        "Nacked",
        "Expired",
        "NotSupported",
        "ConnectionClosed",
        "JugglerError",
    ):
        assert f"export class {name} " in types or f"export class {name}<" in types


PROGRAM = """
import { CallFailed, Client } from "./juggler/server/static/juggler.js";

const client = new Client(process.argv[1]);
const events = client.subscribe("news.*", { pattern: true });
await events.ready;
const results = [await client.call("test.reverse", "hello")];
try {
  await client.call("test.reverse", 1);
} catch (error) {
  results.push([error instanceof CallFailed, error.message, error.type, error.code]);
}
await client.publish("news.a", { big: "12345678901234567890" });
for await (const event of events) {
  results.push([event.channel, event.pattern, event.args]);
  break;
}
results.push(client.features);
console.log(JSON.stringify(results));
client.close();
"""


@pytest.mark.parametrize(("flags", "features"), [((), FEATURES), (("--subprotocol", "juggler.0"), ())])
def test_a_real_server(redis_url, flags, features):
    with callee_process(redis_url), server_process(redis_url, *flags) as url:
        done = node("--no-warnings", "--input-type=module", "--eval", PROGRAM, url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        "olleh",
        [True, "text: Expected str, got int", "InvalidArguments", 400],
        ["news.a", "news.*", {"big": "12345678901234567890"}],
        list(features),
    ]


PARTS = """
from callee import Callee

rpc = Callee()


@rpc.register("count")
def count(n: int):
    for number in range(n):
        yield number
    return "end"


@rpc.register("endless", pool="thread")
def endless(path):
    number = 0
    try:
        while True:
            yield number
            number += 1
    finally:
        with open(path, "w") as file:
            file.write(str(number))
"""

READ = """
import { Client } from "./juggler/server/static/juggler.js";

const client = new Client(process.argv[1]), paths = process.argv.slice(2);
const results = [];
const stream = client.stream("count", [1000], { window: 7 });
let sum = 0;
for await (const part of stream) sum += part;
results.push(sum, await stream.result(), await client.stream("count", [1000]).result());
try {
  for await (const part of client.stream("count", ["x"])) results.push(part);
} catch (error) {
  results.push(error.type);
}
for await (const part of client.stream("endless", [paths[0]], { window: 4 })) if (part === 100) break;
const controller = new AbortController();
try {
  const stream = client.stream("endless", [paths[1]], { signal: controller.signal });
  for await (const part of stream) if (part === 100) controller.abort();
} catch (error) {
  results.push(error.name);
}
results.push(await client.call("count", [3]));
console.log(JSON.stringify(results));
process.stdin.on("end", () => client.close()).resume();
"""


def test_results_in_parts_from_a_real_callee(redis_url, tmp_path):
    needs("node")
    (tmp_path / "counting.py").write_text(PARTS)
    paths = [str(tmp_path / name) for name in ("left", "aborted")]
    command = [*NODE, "--no-warnings", "--input-type=module", "--eval", READ]
    pipe = subprocess.PIPE
    with (
        running_python(
            "-m", "callee.cli", "counting:rpc", "--redis", redis_url, PYTHONPATH=f"{tmp_path}:{ROOT}"
        ) as callee,
        server_process(redis_url) as url,
    ):
        assert callee.stdout.readline(), callee.stderr.read()
        with subprocess.Popen(
            [*command, url, *paths], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        ) as client:
            try:
                line = client.stdout.readline()
                assert line, client.stderr.read()
                # While it is still connected.
                eventually(lambda: all(Path(path).exists() and Path(path).read_text() for path in paths))
            finally:
                client.stdin.close()
                client.wait(20)
    assert json.loads(line) == [499500, "end", "end", "InvalidArguments", "AbortError", [0, 1, 2]]
    # A window of 4, and what was read of it: no more than that was produced.
    assert int(Path(paths[0]).read_text()) <= 101 + 2 * 4


LOST = """
import { Client } from "./juggler/server/static/juggler.js";

const client = new Client(process.argv[1], { heartbeat: 0.2, timeout: 1 });
client.addEventListener("state", ({ state, error }) => console.log(state, error?.reason ?? ""));
const onEvent = ({ args }) => console.log("event", args);
client.subscribe("news", { onEvent, onGap: () => console.log("gap") }).ready.then(() => console.log("subscribed"));
process.stdin.on("data", (line) => {
  // The event may precede the ACK, which is then lost.
  if (String(line) === "publish\\n") client.publish("news", 1).catch(() => {});
  else client.close(1001, "é".repeat(100));
});
process.stdin.on("end", () => process.exit());
"""


def test_the_websocket_of_node_with_a_server_that_comes_and_goes(redis_url):
    needs("node")
    bind = ("--bind", f"127.0.0.1:{free_port()}", "--redis", redis_url)
    command = [*NODE, "--no-warnings", "--input-type=module", "--eval", LOST, f"ws://{bind[1]}/ws"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1) as client:

        def shown(*lines: str) -> None:
            """Wait for these lines."""
            assert [client.stdout.readline().strip() for _ in lines] == list(lines)

        try:
            shown("connecting cannot connect", "connecting cannot connect")
            with running("server", *bind) as server:
                while (line := client.stdout.readline()) == "connecting cannot connect\n":
                    pass
                assert line.strip() == "connected"
                shown("subscribed")
                client.stdin.write("publish\n")
                shown("event 1")
                server.send_signal(signal.SIGSTOP)
                shown("connecting the server does not answer")
                server.send_signal(signal.SIGCONT)
                shown("connected", "gap")
                server.kill()
                shown("connecting the connection was lost")
            with running("server", *bind) as server:
                shown("connected", "gap")
                server.terminate()
                shown("connecting the server is shutting down")
            client.stdin.write("close\n")
            shown("closed " + "é" * 100)
        finally:
            client.kill()


def test_the_syntax_is_sound():
    for file in [STATIC / "juggler.js", *STATIC.glob("playground/*.js")]:
        assert node("--check", str(file)).returncode == 0, file
