"""Load tests pass, and fail on broken promises: the command of ``make load``."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from loadtest.stack import Stack
from tests.integration.commands import ROOT

# One after the other, and after those of test_soak.py: they need a core each.
pytestmark = pytest.mark.xdist_group("load")


def run(*arguments, timeout=100):
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def test_make_load(tmp_path):
    report = tmp_path / "report.html"
    done = run("loadtest.locust.run", "--seconds", "6", "--users", "12", "--report", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ok      all counts agree\n")
    calls = re.search(r"^CALL +([\d,]+) +([\d,]+) +0 +0$", done.stdout, re.MULTILINE)
    assert calls.group(1) == calls.group(2)
    events, due = re.search(r"^events: ([\d,]+) received, ([\d,]+) due", done.stdout, re.MULTILINE).groups()
    # Enough to notice that one in a thousand is lost.
    assert int(events.replace(",", "")) >= int(due.replace(",", "")) > 1000
    assert int(re.search(r"answered, (\d+) expired \(0 of them overdue\)", done.stdout).group(1)) > 0
    text = report.read_text()
    assert "CHECK" in text
    assert "test.echo" in text


def test_wrong_counts_fail(tmp_path):
    done = run(
        *("loadtest.locust.run", "--seconds", "4", "--users", "6", "--report", str(tmp_path / "report.html")),
        *("--app", "tests.integration.forgetful:server", "MixedUser", "FanoutListener", "FanoutPublisher"),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.endswith("FAILED\n")
    for violation in ("an event was missed", "an event was received twice", "a second response to a request"):
        assert f" x {violation}" in done.stdout
    # The server has counted more ACKs than its clients.
    assert re.search(r"^WRONG   ACK: the server counted \d+, its clients \d+$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("kind", "event", "result"),
    [
        ("drop", "an event was missed", "calls had no result in time"),
        ("double", "an event was received twice", "a second result"),
        ("swap", "an event out of order", "a result before its ACK"),
        ("delay", "a late event", "a late result"),
        ("misroute", "an event without a subscription", "RES at another client"),
    ],
)
def test_one_message_in_a_thousand_is_noticed(tmp_path, kind, event, result):
    classes = ("MixedUser", "BurstListener", "BurstPublisher", "RpcClosed")
    done = run(
        *("loadtest.locust.run", "--seconds", "8", "--users", "16", "--report", str(tmp_path / "report.html")),
        *("--sabotage", kind, *classes),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"^WRONG:? +\d+ (?:x )?(.*)$", done.stdout, re.MULTILINE)
    for promise in (event, result):
        assert any(line.startswith(promise) for line in found), f"{promise}: {found}"


def test_an_error_is_one_line():
    done = run("loadtest.locust.run", "--app", "tests.integration.nothing:server")
    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert re.fullmatch(r"load: the server exited with status 2: .*nothing.*\n", done.stderr)


def counted(text):
    """Return the lines of a load generator as numbers by name, and its counters as differences by name."""
    outcomes, _, counters = text.partition("\n\n")
    numbers = dict(re.findall(r"^(\S+) +([\d.]+)", outcomes, re.MULTILINE))
    changes = re.findall(r"^(\w+) +(\d+) +(\d+) +(-?\d+)$", counters, re.MULTILINE)
    assert all(int(after) - int(before) == int(change) for _, before, after, change in changes)
    return {name: float(number) for name, number in numbers.items()}, {each[0]: int(each[3]) for each in changes}


def test_calls_of_a_running_server():
    with Stack() as stack:
        stack.start_server()
        stack.start_callee(delays=3)
        options = ("--seconds", "1", "-c", "5", "--args", '"20"', "--metrics", stack.metrics_url)
        done = run("loadtest.calls", stack.url, "--uris", "3", *options)
        assert done.returncode == 0, done.stderr
        head = f"{stack.url}: test.delay.0 to test.delay.2, 5 connections, one call after the other\n"
        assert done.stdout.startswith(head)
        numbers, counters = counted(done.stdout)
        assert numbers["calls"] == numbers["results"] == counters["MsgsCALL"] == counters["MsgsRES"] > 10
        assert counters["TotalConns"] == 5
        assert counters["ActiveConns"] == 0
        assert [numbers[name] for name in ("failed", "refused", "expired", "lost")] == [0, 0, 0, 0]
        times = [numbers[name] for name in ("minimum", "median", "75%", "90%", "99%", "maximum")]
        assert times == sorted(times)
        assert 20 <= times[0] <= numbers["average"] <= times[-1]
        by_uri = {dict(labels)["uri"] for _, labels in stack.metrics() if dict(labels).get("uri")}
        assert by_uri == {"test.delay.0", "test.delay.1", "test.delay.2"}

        # At a rate, calls do not wait for results.
        done = run("loadtest.calls", stack.url, "--rate", "20", *options, "--uri", "test.delay.1", "--args", '"600"')
        numbers, counters = counted(done.stdout)
        assert numbers["calls"] == numbers["results"] == counters["MsgsRES"] == 100

        refused = run("loadtest.calls", stack.url, *options, "--timeout", "0.01", "--args", "1")
        numbers, _ = counted(refused.stdout)
        assert numbers["failed"] + numbers["expired"] == numbers["calls"] > 0


def test_calls_without_a_result_exit_with_1():
    with Stack() as stack:
        stack.start_server("--unknown-uris", "refuse")
        done = run("loadtest.calls", stack.url, "--uri", "nowhere", "--seconds", "0.3", "-c", "2")
        assert done.returncode == 1
        numbers, counters = counted(done.stdout)
        assert numbers["calls"] == numbers["refused"] > 0
        assert "minimum" not in numbers
        assert counters == {}
        assert "No counters: name the address" in done.stdout
        assert "404 no callee serves 'nowhere'" in done.stderr


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["ws://127.0.0.1:1/ws"], "calls: cannot connect to ws://127.0.0.1:1/ws: "),
        (["--metrics", "http://127.0.0.1:1"], "calls: cannot read the counters of http://127.0.0.1:1: "),
        (["--args", "{"], "calls: Invalid value for '--args': not JSON"),
        (["--rate", "0"], "calls: Invalid value for '--rate': "),
    ],
)
def test_what_calls_cannot_do_is_one_line(options, error):
    done = run("loadtest.calls", *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(error)
