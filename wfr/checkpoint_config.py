"""Configuration: which checkpoints of a run are kept, and where."""

from __future__ import annotations

from pydantic import Field

from wfr.section import Section


class CheckpointsConfig(Section):
    """Which checkpoints are kept; the newest, the best and a pinned one always are."""

    keep: int | None = Field(None, ge=1)
    """Newest checkpoints that are kept; none: all of them. At least `train.keep_states`."""
    keep_every: int = Field(0, ge=0)
    """Checkpoints of versions that are multiples of this are kept for good; 0: none is."""
