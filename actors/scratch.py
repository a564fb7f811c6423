"""A directory for temporary files of child processes; it goes with its owner, even if killed."""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from actors import janitor


class Scratch:
    """Where engines put sockets and files that nobody removes when they are killed.

    What they leave in shared memory goes as well; `actors.janitor` says how.

    Attributes:
        path: the directory.
    """

    def __init__(self, prefix: str) -> None:
        """Make one whose name begins with `prefix`, and start its janitor."""
        self.path = tempfile.mkdtemp(prefix=prefix)
        reading, self._held = os.pipe()
        try:
            command = [sys.executable, "-I", "-S", janitor.__file__, self.path, str(os.getpid())]
            quiet = subprocess.DEVNULL
            subprocess.run(command, stdin=reading, stdout=quiet, stderr=quiet, check=True)
        finally:
            os.close(reading)

    @contextlib.contextmanager
    def for_children(self) -> Iterator[None]:
        """Processes that are started inside have it as their directory for temporary files.

        Except for what torch compiles: that is worth keeping for later runs.
        """
        compiled = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
        given = {
            "TMPDIR": self.path,
            "VLLM_RPC_BASE_PATH": self.path,
            "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(compiled)),
        }
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def close(self) -> None:
        """It is not needed any more: the janitor removes it once the children have ended."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1
