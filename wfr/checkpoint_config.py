"""Configuration: which checkpoints of a run are kept, and where."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from wfr.section import Section


class CheckpointsConfig(Section):
    """Which checkpoints are kept; the newest, the best and a pinned one always are."""

    keep: int | None = Field(None, ge=1)
    """Newest checkpoints that are kept; none: all of them. At least `train.keep_states`."""
    keep_every: int = Field(0, ge=0)
    """Checkpoints of versions that are multiples of this are kept for good; 0: none is."""
    url: str | None = None
    """Where each checkpoint is copied to beside training, `<url>/<run.name>/<version>/`: a
    directory, or a URL of fsspec (`s3://`, `gcs://`, ...); none: nowhere. With it `--resume` goes
    on with a run whose directory is gone."""

    @field_validator("url")
    @classmethod
    def _no_secret_in_it(cls, url: str | None) -> str | None:
        if url is not None and re.search(r"://[^/@]*:[^/@]*@", url):
            raise ValueError(
                "holds a password, and configurations are saved; leave it to the environment of "
                "the run's driver, where fsspec's drivers look for credentials"
            )
        return url
