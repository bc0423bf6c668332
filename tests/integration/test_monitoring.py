"""What deploy/ has for Prometheus and Grafana, against a real Prometheus that scrapes a server and a callee."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from juggler.client import Client
from juggler.errors import HandshakeRefused
from juggler.process.embedded import free_port
from juggler.protocol.messages import MessageType
from tests.integration.commands import callee_process, running
from tests.operations import needs
from tests.stack import Wire
from tests.support import eventually

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RUNBOOK = "docs/operations/monitoring.md"
NAMES = r"\bjuggler_[a-z_]+"
ALERT = r"\bJuggler[A-Z]\w+"
CALL, PUB, SUB = (MessageType(n) for n in (1, 2, 3))
MS = 1_000_000

BOARD = json.loads((ROOT / "deploy" / "grafana" / "juggler.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


# The files by themselves.


def test_metrics_of_alerts_and_dashboard_are_documented():
    documented = set(re.findall(rf"^\| `({NAMES})", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    samples = documented | {f"{name}{suffix}" for name in documented for suffix in ("_bucket", "_count", "_sum")}
    expressions = [target["expr"] for panel in PANELS for target in panel["targets"]]
    expressions += [rule["expr"] for rule in RULES]
    expressions += [v["definition"] for v in BOARD["templating"]["list"] if "definition" in v]
    for expression in expressions:
        used = set(re.findall(NAMES, expression))
        assert used or "up{" in expression
        assert used <= samples, expression


def test_each_panel_has_its_place_and_says_what_it_shows():
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    units = {"bytes", "ops", "percentunit", "reqps", "s", "short"}
    for panel in PANELS:
        unit = panel["fieldConfig"]["defaults"]["unit"]
        expressions = " ".join(target["expr"] for target in panel["targets"])
        assert panel["description"].endswith(".")
        assert unit in units
        assert (unit == "s") == ("_seconds" in expressions and "_seconds_count" not in expressions), panel["title"]
        assert (unit == "bytes") == ("_bytes" in expressions), panel["title"]
        assert (unit in ("ops", "reqps", "percentunit")) == ("rate(" in expressions and unit != "s"), panel["title"]


def test_red_thresholds_are_those_of_the_alerts():
    by_name = {rule["alert"]: rule["expr"] for rule in RULES}
    compared = 0
    for panel in PANELS:
        alerts = re.findall(ALERT, panel["description"])
        assert set(alerts) <= set(by_name)
        steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
        red = [step["value"] for step in steps if step["color"] == "red" and step["value"] is not None]
        limits = [float(limit) for name in alerts for limit in re.findall(r"> ([\d.]+)$", by_name[name])]
        if red and limits:
            assert red[0] in limits, panel["title"]
            compared += 1
    assert compared >= 6


def test_each_alert_says_how_bad_it_is_and_what_to_do():
    page = (ROOT / RUNBOOK).read_text()
    headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", page, re.MULTILINE)}
    tested = (PROMETHEUS / "alerts_test.yml").read_text()
    source = re.search(r"^url = (\S+)", (ROOT / "setup.cfg").read_text(), re.MULTILINE)[1]
    for rule in RULES:
        name = rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"{source}/blob/HEAD/{RUNBOOK}#{name.lower()}"
        assert name.lower() in headings
        assert f'alertname="{name}", alertstate="firing", ' in tested
    assert len(headings) == len(RULES)


def test_alerts_fire_when_they_must():
    promtool = needs("promtool")
    for command in (("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")):
        done = subprocess.run(
            [promtool, *command], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout


# With a real Prometheus.


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str, **parameters: str) -> Any:
        url = f"{self._url}/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[float]:
        """Return the values of an expression, without those that are no number."""
        found = [float(each["value"][1]) for each in self.get("query", query=expression)["result"]]
        return [value for value in found if value == value]

    def is_up(self) -> bool:
        try:
            return len(self.values("up == 1")) == 2
        except OSError:
            return False


@contextmanager
def prometheus(directory: Path, **targets: str) -> Iterator[Prometheus]:
    """Run Prometheus with the configuration of deploy/, but other targets and much shorter intervals."""
    configuration = (PROMETHEUS / "prometheus.yml").read_text()
    for usual, target in targets.values():
        assert usual in configuration
        configuration = configuration.replace(usual, target)
    configuration = configuration.replace("15s", "250ms")
    (directory / "prometheus.yml").write_text(configuration)
    (directory / "alerts.yml").write_text((PROMETHEUS / "alerts.yml").read_text())
    port = free_port()
    command = [needs("prometheus"), f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/db"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield Prometheus(port)
        finally:
            process.terminate()


@pytest.fixture
def stack(tmp_path, redis_url):
    """A server, a callee and Prometheus; yields the URL of the server and Prometheus."""
    listen = f"127.0.0.1:{free_port()}"
    options = ("--bind", "127.0.0.1:0", "--metrics-bind", "127.0.0.1:0", "--slow-threshold", "0.000001")
    options += ("--log-level", "error")  # nothing reads the log
    with running("server", *options, "--redis", redis_url) as server, callee_process(redis_url, "--listen", listen):
        url, metrics = (re.search(r"(?:ws|http)://\S+", server.stdout.readline())[0] for _ in range(2))
        servers = ("127.0.0.1:9001", metrics.removeprefix("http://").removesuffix("/metrics"))
        with prometheus(tmp_path, servers=servers, callees=("127.0.0.1:9100", listen)) as found:
            eventually(found.is_up)
            yield url, found


def load(url: str, wire: Wire) -> None:
    """Make one of each thing that the panels show."""
    for uri, args, timeout in (("test.echo", 1, 5000), ("test.delay", "no number", 5000), ("nobody", 1, 1)):
        wire.send(CALL, uri=uri, args=args, timeout=timeout * MS)
    wire.send(PUB, channel="c", args=1)
    wire.send(CALL, uri="", timeout=MS)
    with pytest.raises(HandshakeRefused):
        Client(url, headers={"Origin": "https://evil.example"})
    with Wire(url) as other:
        other.websocket.send("{")
        other.closed()


@pytest.mark.leaves_keys("juggler:results:*")  # of calls that expire
def test_each_panel_shows_what_a_server_and_a_callee_do(stack):
    url, found = stack
    values = {"$__rate_interval": "5s", "$server": ".*", "$callee": ".*", "$uri": ".*"}
    missing = {}
    for panel in PANELS:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in values.items():
                expression = expression.replace(name, value)
            assert "$" not in expression
            missing[f"{panel['title']}: {expression}"] = expression
    with Wire(url) as wire:
        wire.request(SUB, channel="c", pattern=False)

        def shows_all() -> bool:
            load(url, wire)
            for title, expression in list(missing.items()):
                if found.values(expression):
                    del missing[title]
            return not missing

        eventually(shows_all, message="\n".join(missing))
    labels = found.get("label/uri/values")
    assert "test.echo" in labels
    states = {rule["name"]: rule for group in found.get("rules")["groups"] for rule in group["rules"]}
    assert set(states) == {rule["alert"] for rule in RULES}
    assert {rule["health"] for rule in states.values()} == {"ok"}
    assert not [name for name, rule in states.items() if rule["state"] == "firing" and "Gone" in name]
