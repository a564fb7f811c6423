"""What a run must not leave behind: processes, placement groups, shared memory, temporary files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

from benchmarks.chaos.machines import Machines
from benchmarks.chaos.schedule import ROLES

_END_S = 30.0
_PLACES = """
import json, ray
from ray.util import placement_group_table
ray.init(log_to_driver=False, logging_level="ERROR")
table = placement_group_table()
print(json.dumps([key for key, group in table.items() if group["state"] != "REMOVED"]))
"""


def files(machines: Machines, mapped: Iterable[str]) -> list[str]:
    """Temporary files that are left, and those of the shared memory that were once `mapped`.

    Ray's own session directory, in which its logs are, stays by design.
    """
    temporary = [path for path in machines.temporary.iterdir() if path.name != "ray"]
    return [str(path) for path in (*temporary, *map(Path, sorted(mapped))) if path.exists()]


def processes(machines: Machines) -> list[str]:
    """The processes of roles, and those that no raylet has any more, that do not end in time."""
    roles = [process for role in ROLES for process in machines.of_role(role)]
    _, alive = psutil.wait_procs({*roles, *machines.orphans()}, timeout=_END_S)
    return [f"process {process.pid}: {process.name()}" for process in alive]


def places(machines: Machines) -> list[str]:
    """The placement groups that nobody has given back."""
    command = [sys.executable, "-c", _PLACES]
    done = subprocess.run(
        command, env=machines.environment(), capture_output=True, text=True, check=True, timeout=120
    )
    groups = json.loads(done.stdout.strip().rpartition("\n")[2])
    return [f"placement group {group}" for group in groups]
