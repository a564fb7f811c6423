"""Where a role's process writes: `runs/<name>/logs/<role>.log`, its child processes included."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def redirect(directory: str | Path, name: str) -> None:
    """Send this process's standard output and error to `<directory>/<name>.log`."""
    path = Path(directory) / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
