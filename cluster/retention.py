"""Retention: which checkpoints a run keeps, and which of them with the state to go on from."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from wfr.checkpoint_config import CheckpointsConfig
from wfr.checkpoint_directory import TRAINING

PIN = "serving.pin"
"""File of a run with the version that a person wants to be served."""

BEST = "best"
"""Link among the checkpoints to the best one."""


def checkpoints(run_dir: Path) -> list[Path]:
    """All checkpoints, oldest first."""
    found = [p for p in (run_dir / "checkpoints").glob("[0-9]*") if p.name.isdigit()]
    return sorted(found, key=lambda p: int(p.name))


def kept(
    versions: Collection[int], policy: CheckpointsConfig, needed: Collection[int] = ()
) -> set[int]:
    """The versions that stay of those that there are; `needed` are not to go yet."""
    if policy.keep is None:
        return set(versions)
    newest = sorted(versions)[-policy.keep :]
    for_good = [v for v in versions if policy.keep_every and v % policy.keep_every == 0]
    return {*newest, *for_good, *needed} & set(versions)


def retain(
    run_dir: Path,
    policy: CheckpointsConfig,
    states: int,
    needed: Collection[int] = (),
    held: Collection[int] = (),
) -> None:
    """Delete what the policy does not keep.

    Of what it keeps, all but the newest `states` lose the state to go on from. Those that are
    `needed` are not deleted, those that are `held` not touched at all.
    """
    there = {int(path.name): path for path in checkpoints(run_dir)}
    stay = kept(there, policy, {*needed, *held, *chosen(run_dir)})
    for version in there.keys() - stay:
        _remove(there[version])
    old = [p for v, p in sorted(there.items()) if v in stay and (p / TRAINING).is_dir()]
    for path in old[:-states]:
        if int(path.name) not in held:
            _remove(path / TRAINING)


def chosen(run_dir: Path) -> set[int]:
    """The best version, and the one that a person has pinned."""
    names = []
    link = run_dir / "checkpoints" / BEST
    if link.is_symlink():
        names.append(link.readlink().name)
    if (run_dir / PIN).exists():
        names.append((run_dir / PIN).read_text(encoding="utf-8").strip())
    return {int(name) for name in names if name.isdigit()}


def _remove(path: Path) -> None:
    """What is half removed must not look as if it were there."""
    gone = path.with_name(f".{path.name}.gone")
    path.rename(gone)
    shutil.rmtree(gone)
