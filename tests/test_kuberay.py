"""Kubernetes manifests: what is committed, and that Kubernetes and KubeRay would take it."""

from __future__ import annotations

import importlib
import re
from importlib import metadata

import kubernetes_validate
import pytest
import yaml

from cluster.kuberay.__main__ import GENERATED
from cluster.kuberay.manifests import (
    METRICS_PORT,
    RUNS,
    files,
    podmonitor,
    raycluster,
    rayjob,
    rayservice,
    storage,
)

KUBERNETES = "1.33"
CLUSTERS = {
    "RayCluster": raycluster()["spec"],
    "RayJob": rayjob()["spec"]["rayClusterSpec"],
    "RayService": rayservice()["spec"]["rayClusterConfig"],
}
PODS = [
    pytest.param(group["template"], id=f"{kind} {group.get('groupName', 'head')}")
    for kind, cluster in CLUSTERS.items()
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
]


def test_what_is_committed_is_what_the_source_says():
    """`python -m cluster.kuberay` writes it."""
    found = {path.name: path.read_text(encoding="utf-8") for path in GENERATED.glob("*")}
    assert found == dict(files())
    assert all(yaml.safe_load(content) for content in found.values())


@pytest.mark.parametrize("template", PODS)
def test_every_pod_is_what_kubernetes_takes(template):
    """Against its own strict schema: no unknown key, no wrong type."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_a_misspelt_key_is_found():
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"volumez": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("template", PODS)
def test_every_pod_can_run_a_role(template):
    spec = template["spec"]
    (container,) = spec["containers"]
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert {RUNS, "/dev/shm"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert spec["terminationGracePeriodSeconds"] >= 300
    names = [port["name"] for port in container["ports"]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,13}[a-z0-9])?", name) for name in names)


@pytest.mark.engine
def test_the_service_is_what_ray_serve_takes():
    """Ray's own schema of a Serve configuration; what it imports is there."""
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(yaml.safe_load(rayservice()["spec"]["serveConfigV2"]))
    (application,) = config.applications
    module, _, name = application.import_path.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert set(application.args) <= {"config", "policy", "follow", "work"}


def test_the_claim_is_what_kubernetes_takes():
    kubernetes_validate.validate(storage(), KUBERNETES, strict=True)


@pytest.mark.parametrize("kind", CLUSTERS)
def test_clusters_have_what_kuberay_asks_for(kind):
    """The fields of its v1 API, and no others."""
    cluster = CLUSTERS[kind]
    assert set(cluster) == {
        *("rayVersion", "enableInTreeAutoscaling", "autoscalerOptions"),
        *("headGroupSpec", "workerGroupSpecs"),
    }
    assert cluster["rayVersion"] == metadata.version("ray")
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    gpu, cpu = cluster["workerGroupSpecs"]
    assert "nvidia.com/gpu" in gpu["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert "nvidia.com/gpu" not in cpu["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_the_job_runs_a_command_that_there_is():
    from typer.testing import CliRunner

    from cluster.cli import app

    spec = rayjob()["spec"]
    words = spec["entrypoint"].split()
    assert words[:4] == ["python", "-m", "cluster.cli", "train"]
    assert f"run.dir={RUNS}" in words
    assert f"metrics.port={METRICS_PORT}" in words
    refused = CliRunner().invoke(app, words[3:])
    assert "/etc/wfr/run.yaml: cannot be read" in refused.output
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "config", "mountPath": "/etc/wfr"} in head["containers"][0]["volumeMounts"]


def test_the_monitor_finds_ports_that_there_are():
    wanted = {endpoint["port"] for endpoint in podmonitor()["spec"]["podMetricsEndpoints"]}
    head = raycluster()["spec"]["headGroupSpec"]["template"]
    assert wanted <= {port["name"] for port in head["spec"]["containers"][0]["ports"]}
    selected = podmonitor()["spec"]["selector"]["matchLabels"].items()
    assert selected <= head["metadata"]["labels"].items()


def test_no_manifest_holds_a_secret():
    text = "".join(files().values())
    assert "secretRef" in text
    assert not re.search(r"api[_-]?key|password|token", text, re.IGNORECASE)
