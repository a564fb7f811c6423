"""KubeRay's manifests: a cluster that stays, a job and a service with clusters of their own.

One source, so that pods are the same in both. The head holds the driver, the buffer and the hub and
takes no work of Ray's own; samplers and learner ranks go to the group with GPUs, rollout workers
and their sandboxes to the one without. Runs are written to a volume that all pods share. Keys come
from a secret that may be missing, as environment variables of every pod, so that they stand in no
job's description. KubeRay adds liveness and readiness probes by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import yaml

NAMESPACE = "wfr"
RUNS = "/mnt/runs"
METRICS_PORT = 9400
SERVE_PORT = 8000
SECRET = "wfr-keys"
_CLAIM = "wfr-runs"
_IMAGE = "wfr:gpu"


def files() -> Mapping[str, str]:
    """Content by file name below `generated/`."""
    return {
        "raycluster.yaml": _yaml(raycluster()),
        "rayjob.yaml": _yaml(rayjob()),
        "rayservice.yaml": _yaml(rayservice()),
        "storage.yaml": _yaml(storage()),
        "podmonitor.yaml": _yaml(podmonitor()),
    }


def raycluster() -> dict[str, Any]:
    """A cluster for many runs; `wfr submit` sends them."""
    return _object("ray.io/v1", "RayCluster", "wfr", _cluster())


def rayjob() -> dict[str, Any]:
    """One run with a cluster of its own, which goes when the run has ended.

    Kubernetes may start it again: with --resume a run that was begun goes on.
    """
    command = (
        "python -m cluster.cli train /etc/wfr/run.yaml --resume --set placement.wait=true "
        f"--set run.dir={RUNS} --set metrics.port={METRICS_PORT} --set metrics.host=0.0.0.0"
    )
    spec = {
        "entrypoint": command,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 300,
        "backoffLimit": 3,
        "rayClusterSpec": _cluster(configured=True),
    }
    return _object("ray.io/v1", "RayJob", "wfr-run", spec)


def rayservice() -> dict[str, Any]:
    """A service that follows a run of the shared volume; KubeRay exposes it as `wfr-serve-svc`.

    Keys belong into the run's configuration (`serving.keys`, a file on the volume).
    """
    run = f"{RUNS}/my-run"
    application = {
        "name": "wfr-director",
        "import_path": "cluster.serving.deployment:from_file",
        "route_prefix": "/",
        "args": {"config": f"{run}/config.json", "policy": run, "follow": "true"},
    }
    serve = {
        "http_options": {"host": "0.0.0.0", "port": SERVE_PORT},
        "applications": [application],
    }
    spec = {"serveConfigV2": _yaml(serve), "rayClusterConfig": _cluster()}
    return _object("ray.io/v1", "RayService", "wfr", spec)


def storage() -> dict[str, Any]:
    """The volume that all pods write runs to: its class has to allow several nodes to write."""
    spec = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Ti"}},
    }
    return _object("v1", "PersistentVolumeClaim", _CLAIM, spec)


def podmonitor() -> dict[str, Any]:
    """What the Prometheus operator scrapes: Ray's exporter in every pod, and the driver's."""
    spec = {
        "selector": {"matchLabels": {"app.kubernetes.io/part-of": "wfr"}},
        "podMetricsEndpoints": [
            {"port": "ray-metrics", "interval": "15s"},
            {"port": "wfr-metrics", "interval": "15s"},
        ],
    }
    return _object("monitoring.coreos.com/v1", "PodMonitor", "wfr", spec)


def _object(version: str, kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    labels = {"app.kubernetes.io/part-of": "wfr"}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": dict(spec),
    }


def _cluster(*, configured: bool = False) -> dict[str, Any]:
    return {
        "rayVersion": metadata.version("ray"),
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"upscalingMode": "Default", "idleTimeoutSeconds": 600},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": _pod("head", cpu="8", memory="32Gi", shm="8Gi", configured=configured),
        },
        "workerGroupSpecs": [
            {
                "groupName": "gpu",
                "replicas": 1,
                "minReplicas": 0,
                "maxReplicas": 8,
                "rayStartParams": {},
                "template": _pod("gpu", cpu="32", memory="256Gi", shm="32Gi", gpus=8),
            },
            {
                "groupName": "cpu",
                "replicas": 1,
                "minReplicas": 0,
                "maxReplicas": 16,
                "rayStartParams": {},
                "template": _pod("cpu", cpu="16", memory="64Gi", shm="8Gi"),
            },
        ],
    }


def _pod(
    role: str, *, cpu: str, memory: str, shm: str, gpus: int = 0, configured: bool = False
) -> dict[str, Any]:
    resources = {"cpu": cpu, "memory": memory}
    if gpus:
        resources["nvidia.com/gpu"] = str(gpus)
    mounts = [
        {"name": "runs", "mountPath": RUNS},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "runs", "persistentVolumeClaim": {"claimName": _CLAIM}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm}},
    ]
    if configured:
        mounts.append({"name": "config", "mountPath": "/etc/wfr"})
        volumes.append({"name": "config", "configMap": {"name": "wfr-run"}})
    ports = [
        {"name": "ray-metrics", "containerPort": 8080},
        {"name": "serve", "containerPort": SERVE_PORT},
    ]
    if role == "head":
        ports += [
            {"name": "gcs", "containerPort": 6379},
            {"name": "dashboard", "containerPort": 8265},
            {"name": "wfr-metrics", "containerPort": METRICS_PORT},
        ]
    container = {
        "name": f"ray-{role}",
        "image": _IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"limits": resources, "requests": resources},
        "ports": ports,
        "envFrom": [{"secretRef": {"name": SECRET, "optional": True}}],
        "volumeMounts": mounts,
        # Bubblewrap makes namespaces of its own; the default profile of most runtimes forbids it.
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "Unconfined"},
        },
        # A run that is asked to end finishes its step and writes a checkpoint.
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", "ray stop"]}}},
    }
    return {
        "metadata": {"labels": {"app.kubernetes.io/part-of": "wfr", "wfr/role": role}},
        "spec": {
            "terminationGracePeriodSeconds": 300,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
            "containers": [container],
            "volumes": volumes,
        },
    }


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, width=100)
