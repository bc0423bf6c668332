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
from tests.integration.commands import callee_process, running, server_process
from tests.operations import needs

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
    assert len(gzip.compress((STATIC / "juggler.js").read_bytes(), 9)) < 6000


def test_its_package_can_be_published():
    package = json.loads((STATIC / "package.json").read_text())
    assert all((STATIC / name).exists() for name in package["files"])
    types = (STATIC / "juggler.d.ts").read_text()
    for name in (
        "Client",
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


LOST = """
import { Client } from "./juggler/server/static/juggler.js";

const client = new Client(process.argv[1], { heartbeat: 0.2, timeout: 1 });
client.addEventListener("state", ({ state, error }) => console.log(state, error?.reason ?? ""));
const onEvent = ({ args }) => console.log("event", args);
client.subscribe("news", { onEvent, onGap: () => console.log("gap") }).ready.then(() => console.log("subscribed"));
process.stdin.on("data", (line) => {
  if (String(line) === "publish\\n") client.publish("news", 1);
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


@pytest.mark.parametrize("name", ["juggler.js", "playground/playground.js", "playground/playground-log.js"])
def test_the_syntax_is_sound(name):
    assert node("--check", str(STATIC / name)).returncode == 0
