"""The benchmarks run, report their rows, and leave no process behind. Their numbers are not judged."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.bench.generator.wire import client_frame
from loadtest.bench.harness.registry import BENCHMARKS
from loadtest.bench.peers.stacks import PEERS, Nats
from loadtest.procfs import family, is_running
from tests.operations import needs
from tests.support import eventually

ROOT = Path(__file__).parents[2]
BENCH = (sys.executable, "-m", "loadtest.bench")
LOAD = {"p50 ms", "p99 ms", "server µs", "Redis µs", "load µs"}

# Options for a short run, least number of rows, and values of each row.
RUNS = {
    "rpc": ("--seconds 0.1 --connections 5 --in-flight 3 --payload 70000", 1, {"calls/s", "callee µs", *LOAD}),
    "fan": ("--seconds 0.1 --subscribers 9 --publishers 2 --in-flight 2", 1, {"delivered/s", "published/s", *LOAD}),
    "latency": ("--seconds 0.1", 2, {"done/s", *LOAD}),
    "streams": ("--seconds 0.1", 4, {"done/s"}),
    "ladder": ("--seconds 0.05 --connections 5", 4, {"calls/s", "p50 ms", "Redis µs", "callee µs", "load µs"}),
    "memory": ("--connections 50", 2, {"server KB", "Redis KB", "server µs", "load µs"}),
    "connect": ("--seconds 0.1 --at-a-time 3", 2, {"connections/s", *LOAD}),
    "scale": (
        "--seconds 0.2 --connections 5 --connections 9 --uris 150 --channels 1 --channels 120 --workers 2",
        6,
        {"done/s", *LOAD},
    ),
    "peers": ("--seconds 0.1 --rounds 1 --connections 5 --subscribers 9", 1, set()),
    "websocket": ("--divisor 20", 13, set()),
    "connection": ("--connections 50", 3, {"server KB"}),
    "redis_link": ("--seconds 0.05", 13, {"done/s", "caller µs", "callee µs", "Redis µs"}),
    "metrics": ("--repetitions 1000", 2, {"counting µs"}),
    "callee": ("--seconds 0.05", 7, {"calls/s", "callee µs", "Redis µs"}),
}


def bench(*arguments, **options):
    return subprocess.run(
        [*BENCH, *map(str, arguments)], capture_output=True, text=True, timeout=100, cwd=ROOT, **options
    )


def test_all_benchmarks_are_listed():
    assert list(RUNS) == list(BENCHMARKS)
    done = bench("list")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_each_prints_and_saves_its_rows(name, tmp_path):
    arguments, count, names = RUNS[name]
    done = bench("run", name, *arguments.split(), "--json", tmp_path / "result.json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"{name}: "), "no progress"
    document = json.loads((tmp_path / "result.json").read_text())
    assert {"cpu", "cores", "python", "libraries", "date", "revision"} <= set(document["machine"])
    (result,) = document["results"]
    assert result["benchmark"] == name
    assert len(result["rows"]) >= count
    for row in result["rows"]:
        assert names <= set(row["values"])
        assert row["label"].split()[0] in done.stdout
    if name == "latency":
        drawn = bench("plot", tmp_path)
        assert drawn.returncode == 0, drawn.stderr
        assert ["<svg" in Path(line).read_text() for line in drawn.stdout.splitlines()] == [True] * 3


def test_all_runs_everything_except_without(tmp_path):
    without = [f"--without={name}" for name in RUNS if name not in ("latency", "metrics")]
    done = bench("all", "--seconds", "0.05", "--json", tmp_path / "all.json", *without)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "all.json").read_text())["results"]
    assert [result["benchmark"] for result in results] == ["latency", "metrics"]
    assert results[0]["options"]["seconds"] == 0.05


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_measured_or_the_command_that_installs_it_is_printed(name, tmp_path):
    peer = PEERS[name]
    options = ("--seconds", 0.4, "--rounds", 2, "--connections", 5, "--subscribers", 9)
    done = bench("run", "peers", "--only", name, *options, "--json", tmp_path / "result.json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "result.json").read_text())["results"]
    rows = {row["label"]: row["values"] for row in result["rows"]}
    if not peer.is_installed():
        assert rows == {f"{peer.name} is not installed: {peer.install}": {}}
        assert peer.install in done.stdout
        return
    loads = ["1 in flight", "10 in flight", *["fan-out"] * peer.fans_out]
    assert list(rows) == [f"{load}: {side}" for load in loads for side in (peer.name, f"juggler beside {peer.name}")]
    for load in loads:
        values = rows[f"{load}: juggler beside {peer.name}"]
        assert 0 < values["lowest"] <= values["ratio"] <= values["highest"]
        assert values["server µs"] <= values["all µs"]
        assert rows[f"{load}: {peer.name}"]["done/s"] > 0
    assert f"round 2 of 2, {peer.name}" in done.stderr


def test_a_server_may_speak_first_in_the_packet_of_the_handshake():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        spec = {"protocol": "socketio", "role": "call", "port": listening.getsockname()[1], "path": "/"}
        load = {"connections": 1, "in_flight": 1, "uris": ["u"], "args": ""}
        command = [*BENCH[:2], "loadtest.bench.generator"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT) as generator:
            assert generator.stdin is not None
            generator.stdin.write(json.dumps({**spec, **load}).encode() + b"\n")
            generator.stdin.flush()
            peer = listening.accept()[0]
            with peer:
                peer.settimeout(20)
                assert peer.recv(1000).startswith(b"GET / ")
                peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + b"\x81\x02" + b"0{")
                assert peer.recv(1000) == client_frame(b"40")
            generator.stdin.close()


@pytest.mark.parametrize(("lacking", "value"), [("commands", ("no-such-server",)), ("modules", ("no_such_module",))])
def test_a_peer_lacks_a_command_or_a_module(lacking, value):
    present = type("Present", (Nats,), {"commands": ("sh",), "modules": ("json",)})
    assert present.is_installed()
    assert not type("Lacking", (present,), {lacking: value}).is_installed()


def test_two_revisions_in_turn(tmp_path):
    needs("git")
    if not (ROOT / ".git").exists():
        pytest.skip("not a repository")
    before = worktrees()
    options = ("--rounds", 1, "--options", "--seconds 0.05", "--json", tmp_path / "result.json")
    done = bench("compare", "HEAD", "HEAD", "latency", *options)
    assert done.returncode == 0, done.stderr
    assert "round 1 of 1, A: latency: " in done.stderr
    assert "round 1 of 1, B: latency: " in done.stderr
    (result,) = json.loads((tmp_path / "result.json").read_text())["results"]
    assert result["options"]["revisions"] == [git("rev-parse", "--short=12", "HEAD")] * 2
    # In so short a time a process may have used no CPU that is counted.
    rates = [row["values"]["ratio"] for row in result["rows"] if row["label"].startswith("done/s")]
    assert len(rates) == 2
    assert min(rates) > 0
    assert "done/s" in done.stdout
    assert worktrees() == before


def worktrees():
    return [line for line in git("worktree", "list", "--porcelain").splitlines() if line.startswith("worktree ")]


def git(*arguments):
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("run nothing", "No such command 'nothing'"),
        ("run rpc --connections none", "'none' is not a valid"),
        ("run memory --connections 50000", "ask for"),
        ("run rpc --seconds 0.1 --connections 1 --uri test.delay", "a call failed"),
        ("compare HEAD HEAD nothing", "no benchmark 'nothing'"),
        ("compare HEAD HEAD rpc --options --nothing", "No such option"),
        ("plot deploy/grafana", "is not a file of benchmark results"),
    ],
)
def test_errors_are_one_line(arguments, says):
    limit = (lambda: _allow_files(1000)) if "memory" in arguments else None
    done = bench(*arguments.split(), preexec_fn=limit)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("bench: ")
    assert says in last
    assert "Traceback" not in done.stderr


def _allow_files(count):
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_child_processes_exit_with_the_command(number):
    with subprocess.Popen(
        [*BENCH, "run", "rpc", "--seconds", "30"], stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stderr is not None
            assert "starting" in process.stderr.readline()
            assert "100 connections" in process.stderr.readline()
            started = eventually(lambda: _generators_too(process.pid), message="generators")
            process.send_signal(number)
            assert process.wait(20) == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
            eventually(lambda: not any(map(is_running, started)), message="all processes have exited")
        finally:
            process.kill()


def _generators_too(pid):
    # Redis, the server, the callee, two generators, and three guards.
    started = family(pid)[1:]
    return started if len(started) >= 8 else None
