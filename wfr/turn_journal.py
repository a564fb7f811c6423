"""The turn journal: the completed turns of episodes that are still being played.

One line log per group in flight, `turns/<group>.jsonl`, removed once the group is in the journal. A
line holds one turn: what it appended to the trajectory, and the environment's state after it. So an
episode whose process died goes on at its last completed turn, with the token ids it had and the
operators' results it saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wfr.crash_points import reach
from wfr.line_log import LineLog, Sync, read_lines


class GroupTurns:
    """The turns of one group's episodes: those found at a restart, and a place for new ones."""

    def __init__(self, path: Path, sync: Sync) -> None:
        """Read what an earlier process left at `path`; nothing is created before a turn is."""
        self._path = path
        self._sync = sync
        self._log: LineLog | None = None
        self._full = False
        self._found: dict[tuple[int, int], list[dict[str, Any]]] = {}
        if path.exists():
            for line in read_lines(path):
                self._found.setdefault((line["sibling"], line["attempt"]), []).append(line["turn"])

    def attempt(self, sibling: int) -> int:
        """The attempt that a sibling was at: the last one that has turns."""
        return max((n for i, n in self._found if i == sibling), default=0)

    @property
    def policy_tokens(self) -> int:
        """Policy tokens of the attempts that are gone on with."""
        return sum(
            turn["turn"][1] - turn["turn"][0]
            for (sibling, attempt), turns in self._found.items()
            if attempt == self.attempt(sibling)
            for turn in turns
        )

    def found(self, sibling: int, attempt: int) -> list[dict[str, Any]]:
        """The completed turns of an attempt, first to last."""
        return self._found.get((sibling, attempt), [])

    def append(self, sibling: int, attempt: int, turn: Mapping[str, Any]) -> None:
        """Keep one turn. Where the disk is full, this and later turns of the group are not kept.

        They would only be played again; a gap between them would be worse.
        """
        if self._full:
            return
        try:
            if self._log is None:
                self._log = LineLog(self._path, self._sync)
            self._log.append({"sibling": sibling, "attempt": attempt, "turn": turn})
        except OSError:
            self._full = True
        reach("turn.written")

    def remove(self) -> None:
        """The group is safe elsewhere."""
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; it stays."""
        if self._log is not None:
            self._log.close()
            self._log = None


class TurnJournal:
    """The directory of a run's turn journals; any worker may go on with any group."""

    def __init__(self, directory: str | Path, sync: Sync | None = None) -> None:
        """Nothing is read or written yet."""
        self._directory = Path(directory)
        policy = (sync or Sync()).policy
        # Once a second is for what cannot be made again; turns can be played again.
        self._sync = Sync("always" if policy == "always" else "off")

    def group(self, group_id: int) -> GroupTurns:
        """The turns of one group."""
        return GroupTurns(self._directory / f"{group_id}.jsonl", self._sync)
