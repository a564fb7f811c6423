"""How a run fails."""

from __future__ import annotations

from wfr.backends.base import BackendConfigError


class RunFailedError(RuntimeError):
    """The run cannot go on; the text says why and what to do."""


class ProcessLostError(RunFailedError):
    """A process has died that nothing replaces in a run under way; a resumed run has new ones."""


class HubLostError(BackendConfigError):
    """The hub's process has died: no executor can be asked before the run starts anew."""
