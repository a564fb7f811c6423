"""A vLLM engine that has died is a lost peer, like any other process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from wfr.protocols import PeerLostError


@contextlib.contextmanager
def alive() -> Iterator[None]:
    """Say PeerLostError where vLLM says that its engine is dead."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise PeerLostError(f"the vLLM engine has died: {error}") from error
