"""How a run fails."""

from __future__ import annotations


class RunFailedError(RuntimeError):
    """The run cannot go on; the text says why and what to do."""


class ProcessLostError(RunFailedError):
    """A process has died that nothing replaces in a run under way; a resumed run has new ones."""
