"""Compaction: journal files that nobody needs to go on are deleted, and it is written down which.

A closed file may go once every group in it is acknowledged: the step that used it is published and
covered by a checkpoint that outlives a crash, or the group was thrown away. What was in it stays
in the ledger (how many tokens of which versions), so an audit still closes.
"""

from __future__ import annotations

from pathlib import Path

from wfr.crash_points import reach
from wfr.history import History, read_history
from wfr.line_log import LineLog, read_lines
from wfr.recovery import ledger_path


def compact(run_dir: Path, max_lag: int, shards: int, checkpoint: int | None = None) -> list[Path]:
    """Delete the files whose groups are all acknowledged by the checkpoint of this version.

    Without a version, everything that is published is covered.
    """
    reach("acknowledge.begin")
    histories = [History(max_lag, shard, shards) for shard in range(shards)]
    for shard, history in enumerate(histories):
        read_history(ledger_path(run_dir, shard), history)
    covered = min(history.version for history in histories) if checkpoint is None else checkpoint
    done = {
        group
        for history in histories
        for group, found in history.groups.items()
        if found.state == "dropped" or (found.state == "used" and found.batch < covered)
    }
    gone = []
    for directory in sorted((run_dir / "journal").glob("*/")):
        for index in sorted(directory.glob("*.index"))[:-1]:  # the newest may be open
            groups = [int(line["group"]) for line in read_lines(index) if "group" in line]
            if done.issuperset(groups):
                gone.append((index.with_suffix(".arrow"), groups))
    log = LineLog(run_dir / "ledger" / COMPACTED)
    for path, groups in gone:
        log.append({"file": str(path.relative_to(run_dir)), "groups": groups})
    log.force()
    log.close()
    reach("acknowledge.compacted")
    for path, _ in gone:
        path.unlink(missing_ok=True)
        reach("acknowledge.removed")
        path.with_suffix(".index").unlink(missing_ok=True)
    return [path for path, _ in gone]


def compacted(run_dir: Path) -> set[int]:
    """Groups whose journal files were deleted on purpose."""
    path = run_dir / "ledger" / COMPACTED
    if not path.exists():
        return set()
    return {group for line in read_lines(path) for group in line["groups"]}


COMPACTED = "compacted.jsonl"
