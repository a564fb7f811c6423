"""What processes of all roles have in common: environment, names, coming up."""

from __future__ import annotations

from collections.abc import Sequence

from ray.exceptions import RayActorError

from cluster.remote import Remote
from wfr.protocols import PeerLostError


def environment(threads: int) -> dict[str, str]:
    """Environment variables of one role's process."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "PYTHONUNBUFFERED": "1",
    }


def named(role: str, processes: Sequence[Remote]) -> dict[str, Remote]:
    """Processes of a role by name."""
    return {f"{role}-{index}": process for index, process in enumerate(processes)}


async def ready(process: Remote) -> None:
    """Return when a process has come up; raises PeerLostError where it died before."""
    try:
        await process.handle.__ray_ready__.remote()
    except RayActorError as error:
        raise PeerLostError(str(error)) from error
