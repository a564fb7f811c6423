"""A checkpoint's directory: written under another name, and given its own when it is whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from wfr.crash_points import reach

TRAINING = "training"
"""Directory in it with what only a resumed run needs: optimizer state, random numbers."""

STATE = "wfr_state.json"
"""File in it that says which version it is, and of which run."""


def unfinished(target: Path) -> Path:
    """Where the files of the checkpoint `target` are written; resuming a run removes it."""
    return target.with_name(f".{target.name}.writing")


def begin(target: Path) -> Path:
    """Make an empty place for the files of `target`; returns it."""
    place = unfinished(target)
    shutil.rmtree(place, ignore_errors=True)
    (place / TRAINING).mkdir(parents=True)
    return place


def seal(target: Path) -> None:
    """Let `target` appear: all that was written for it is on the disk, forced.

    An older checkpoint there is replaced.
    """
    place = unfinished(target)
    force(place)
    force(place / TRAINING)
    reach("checkpoint.written")
    if target.exists():
        shutil.rmtree(target)
    place.rename(target)
    force(target.parent)
    reach("checkpoint.visible")


def force(path: Path) -> None:
    """Force a file, or the names in a directory, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def force_all(directory: Path) -> None:
    """Force a directory and everything under it to the disk."""
    for path in (directory, *directory.rglob("*")):
        force(path)
