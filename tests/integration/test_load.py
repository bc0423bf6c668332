"""Load tests pass, and fail on wrong counts: the command of ``make load``, locust with workers, and a short soak."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from loadtest.stack import Stack
from tests.docs import python_blocks
from tests.integration.commands import ROOT

# One after the other: they need a core each.
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


def test_your_own_scenario_with_workers(tmp_path):
    (text,) = python_blocks("load-testing.md")
    assert len([line for line in text.splitlines() if line]) <= 10
    scenario, tally = tmp_path / "shop.py", tmp_path / "tally.json"
    scenario.write_text(text)
    with Stack() as stack:
        stack.start_server()
        stack.start_callee()
        done = run(
            *("locust", "-f", str(scenario), "--headless", "--only-summary", "--host", stack.url),
            *("--users", "4", "--spawn-rate", "10", "--run-time", "1s", "--processes", "2", "--tally", str(tally)),
            *("--master-bind-host", "127.0.0.1"),
        )
        assert done.returncode == 0, done.stderr
        counts = json.loads(tally.read_text())
        assert counts["connections"] == 4
        assert counts["sent"]["CALL"] == counts["acked"]["CALL"] == counts["answered"] > 0


def test_a_short_soak():
    done = run("loadtest.soak", "--minutes", "0.05")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ok      all resources are back to normal\n")
    for what in ("kill Redis", "kill a callee", "by SIGHUP", "kill a worker of the server"):
        assert what in done.stdout
    for row in ("memory, server worker", "files, callee process", "juggler_connection_greenlets_active", "keys, "):
        assert re.search(f"^{row}", done.stdout, re.MULTILINE)
