"""Machines of a cluster: compared as facts, then really asked on two raylets."""

from __future__ import annotations

import dataclasses

import pytest

from cluster.preflight.footprint import GIB, Footprint
from cluster.preflight.nodes import NodeFacts, node_checks

HERE = NodeFacts(
    "10.0.0.1", {"python": "3.11.7", "ray": "2.60.0"}, 0, 0, 8 * GIB, 90 * GIB, True, ""
)
NEED = Footprint(memory=4 * GIB, shared_memory=2 * GIB, disk=GIB)


def _faults(silent=(), **changes):
    """What is said of a second machine with these changes; nothing of the first."""
    other = dataclasses.replace(HERE, name="10.0.0.2", **changes)
    found = node_checks(HERE, [HERE, other], silent, NEED)
    assert all(check.ok or check.remedy for check in found)
    return {check.name: check.detail for check in found if not check.ok}


def test_machines_that_are_alike_pass():
    assert _faults() == {}
    assert _faults(clock_s=1.9) == {}
    assert _faults(clock_s=5, clock_error_s=4) == {}  # nobody can tell


@pytest.mark.parametrize(
    ("changes", "name", "told"),
    [
        (
            {"versions": {"python": "3.11.7", "ray": "2.59.0", "torch": "2.13.0"}},
            "node versions",
            "10.0.0.2: ray 2.59.0, the driver has 2.60.0; "
            "10.0.0.2: torch 2.13.0, the driver has none",
        ),
        ({"clock_s": 3.5}, "node clocks", "10.0.0.2: 3.5 s ahead of the driver"),
        ({"clock_s": -60}, "node clocks", "10.0.0.2: 60.0 s behind the driver"),
        (
            {"shared_memory": 64 << 20},
            "node shared memory",
            "10.0.0.2: 0.06 GiB free in /dev/shm, about 2.00 GiB needed",
        ),
        ({"disk": None}, "node run directory", "10.0.0.2: does not see the run directory"),
        ({"model": False}, "node model", "10.0.0.2: does not see the director's checkpoint"),
        ({"sandbox": "bwrap is missing"}, "node sandbox", "10.0.0.2: bwrap is missing"),
        ({"silent": ["a1b2"]}, "nodes", "a1b2 does not answer"),
    ],
)
def test_what_differs_is_named_with_its_machine(changes, name, told):
    assert _faults(**changes) == {name: told}


def test_many_machines_are_counted():
    bad = dataclasses.replace(HERE, model=False)
    (fault,) = [c for c in node_checks(HERE, [bad] * 9, (), NEED) if not c.ok]
    assert fault.detail.endswith("and 4 more")


@pytest.mark.engine
@pytest.mark.timeout(120)
def test_every_machine_is_asked(tmp_path, monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    from cluster import node_survey
    from wfr.config import parse_config

    options = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    try:
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
        config = parse_config({"run": {"dir": str(tmp_path)}})
        assert node_survey.survey(config) == []  # one machine: `wfr doctor` has asked it
        cluster.add_node(**options)
        cluster.wait_for_nodes()
        found = {check.name: check for check in node_survey.survey(config)}
        assert len(found) == 7
        assert found["node versions"].detail == "well on 2 machines"
        assert all(found[name].ok for name in ("nodes", "node clocks", "node run directory"))
        assert list((tmp_path / "run").iterdir()) == []
        monkeypatch.setattr(node_survey, "DISTRIBUTIONS", ("ray",))  # here, not there
        other = {check.name: check for check in node_survey.survey(config)}
        assert "the driver has none" in other["node versions"].detail
    finally:
        ray.shutdown()
        cluster.shutdown()
