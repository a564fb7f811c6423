"""Log-probs that the learner computed while it trained, kept beside the run for who looks at it.

With those of the behaviour policy, which the journal holds, they give the importance ratio of every
token. One Arrow file per recorded step and rank, `logprobs/version-000012.rank-0.arrow`; all may be
deleted at any time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wfr.learner_config import LogprobsConfig

_SCHEMA = pa.schema(
    [("trajectory", pa.string()), ("logp", pa.large_list(pa.field("item", pa.float32(), False)))]
)
_MIB = 1 << 20


class TrainedLogprobs:
    """Collects the log-probs of one rank's share of a step, and writes them."""

    def __init__(self, run_dir: Path, rank: int, config: LogprobsConfig) -> None:
        """Write below `run_dir`; nothing is made there before the first step that is recorded."""
        self._directory = run_dir / "logprobs"
        self._rank = rank
        self._config = config
        self._names: list[str] = []
        self._parts: list[np.ndarray] = []

    def wanted(self, version: int) -> bool:
        """Whether the step that trains `version` is recorded."""
        return bool(self._config.every) and version % self._config.every == 0

    def add(self, names: Sequence[str], lengths: Sequence[int], logp: np.ndarray) -> None:
        """Take the log-probs of a micro-batch.

        Args:
            names: of its trajectories, `group/sibling`.
            lengths: their tokens, up to the last that the policy wrote.
            logp: float32 [Σ lengths], natural; 0 where the policy did not write the token.
        """
        self._names += names
        self._parts += np.split(logp, np.cumsum(lengths)[:-1])

    def write(self, version: int) -> None:
        """Write what was taken as that of the step which trained `version`; forget it.

        The oldest steps make room where the directory would exceed its bound. A disk that cannot
        take it costs the record, never the step.
        """
        names, parts = self._names, self._parts
        self._names, self._parts = [], []
        offsets = np.cumsum([0, *map(len, parts)])
        values = np.concatenate([*parts, np.empty(0, np.float32)]).astype(np.float32)
        lists = pa.LargeListArray.from_arrays(offsets, values, type=_SCHEMA.field("logp").type)
        batch = pa.record_batch([pa.array(names, pa.string()), lists], schema=_SCHEMA)
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / f"version-{version:06}.rank-{self._rank}.arrow"
            draft = path.with_suffix(".writing")
            with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as file:
                file.write(batch)
            draft.replace(path)
            self._make_room()

    def _make_room(self) -> None:
        """Delete this rank's oldest records beyond its share of the bound."""
        mine = sorted(self._directory.glob(f"version-*.rank-{self._rank}.arrow"), reverse=True)
        left = self._config.mib * _MIB
        for path in mine:
            left -= path.stat().st_size
            if left < 0 and path != mine[0]:
                path.unlink()


def trained_logprobs(run_dir: Path, version: int, trajectory: str) -> np.ndarray | None:
    """What the step that trained `version` computed for `group/sibling`.

    Returns:
        float32 [tokens up to the last that the policy wrote], 0 where it did not write the token;
        None where that step was not recorded, its record was deleted or damaged, or had no such
        trajectory.
    """
    for path in sorted((run_dir / "logprobs").glob(f"version-{version:06}.rank-*.arrow")):
        with contextlib.suppress(OSError, pa.ArrowInvalid), pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            at = pc.index(table.column("trajectory"), trajectory).as_py()
            if at >= 0:
                found: np.ndarray = np.array(table.column("logp")[at].values, np.float32)
                return found
    return None
