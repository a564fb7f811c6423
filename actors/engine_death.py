"""Around a vLLM engine death means a lost peer to its callers, and the end to its processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator

from wfr.protocols import PeerLostError

_LOOK_S = 1.0


@contextlib.contextmanager
def alive() -> Iterator[None]:
    """Say PeerLostError where vLLM says that its engine is dead."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise PeerLostError(f"the vLLM engine has died: {error}") from error


def end_with_parent() -> None:
    """Entry point `vllm.general_plugins`: an engine's process ends when its parent has died.

    vLLM's engine core does not notice that by itself, and would hold its memory for ever.
    """
    if multiprocessing.parent_process() is None:
        return  # this is the parent
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
