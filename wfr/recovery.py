"""Recovery: what a run that was killed left behind, and what it goes on with.

Checkpoint and journal together are the whole run. The newest checkpoint holds the learner at
version c; the ledger says that p ≥ c steps were published and on which groups; the journal holds
these groups. So the learner repeats the steps c … p−1 on the very same batches, without sampling
anything, and version p is back: version numbers never go backwards, and no label of a token becomes
wrong. Batches that were taken and not published are handed out again as they were, finished groups
wait as before, and groups in flight are handed to the next workers that ask.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wfr.crash_points import reach
from wfr.groups import Batch, Entry, GroupMeta
from wfr.history import History, HistoryError, read_history
from wfr.journal import JournalReader, Record
from wfr.line_log import LineLog


class RecoveryError(RuntimeError):
    """What is on the disk does not suffice to go on; the text says what is missing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """What one buffer goes on with: its state, and groups that it never heard of."""

    state: Mapping[str, Any]
    finished: list[tuple[int, Record, GroupMeta]]


@dataclasses.dataclass(frozen=True, slots=True)
class Recovery:
    """What a run goes on with.

    Attributes:
        version: published version p.
        checkpoint: version c of the checkpoint that the learner goes on from.
        shards: one per buffer.
        batches: what the steps c … p−1 were made of, which the learner repeats, by version.
        damaged: groups that the disk lost.
    """

    version: int
    checkpoint: int
    shards: list[Shard]
    batches: dict[int, Batch[tuple[Record]]]
    damaged: list[int]


def ledger_path(run_dir: Path, shard: int) -> Path:
    """The ledger file of a shard."""
    return run_dir / "ledger" / f"{shard}.jsonl"


def journal_records(run_dir: Path) -> dict[int, Record]:
    """Where every whole group of a run is; of a group that was written twice, the first."""
    found: dict[int, Record] = {}
    for directory in sorted((run_dir / "journal").glob("*/")):
        for record in JournalReader(directory).records():
            found.setdefault(int(record.group_id), record)
    return found


def recover(run_dir: Path, *, max_lag: int, shards: int, checkpoint: int) -> Recovery:
    """Read what is there, and book in the ledger what the disk lost and that the run restarts.

    Raises:
        RecoveryError: the ledger is damaged before its end, is behind the checkpoint, or a step
            that has to be repeated has lost all its groups.
    """
    reach("restart.begin")
    records = journal_records(run_dir)
    histories = [_history(run_dir, max_lag, shard, shards) for shard in range(shards)]
    version = max(history.version for history in histories)
    if version < checkpoint:
        raise RecoveryError(
            f"{run_dir / 'ledger'}: ends at version {version}, before the checkpoint {checkpoint}; "
            "start a new run from that checkpoint with model.path"
        )
    damaged = []
    for shard, history in enumerate(histories):
        events = list(_events(history, records, version, checkpoint))
        damaged += [event["group"] for event in events if event["event"] == "damage"]
        log = LineLog(ledger_path(run_dir, shard))
        for event in events:
            history.apply(event)
            log.append(event)
        log.force()
        log.close()
    reach("restart.booked")
    batches = {step: _batch(histories, records, step) for step in range(checkpoint, version)}
    empty = [step for step, batch in batches.items() if not batch.groups]
    if empty:
        raise RecoveryError(
            f"{run_dir / 'journal'}: step {empty[0]} has to be repeated, and all its groups are "
            "damaged; start a new run from the newest checkpoint with model.path"
        )
    return Recovery(
        version, checkpoint, [_shard(h, records) for h in histories], batches, sorted(damaged)
    )


def steps_since(
    run_dir: Path, *, max_lag: int, shards: int, checkpoint: int
) -> dict[int, Batch[tuple[Record]]]:
    """What the published steps since `checkpoint` were made of, by version; the run goes on.

    Raises:
        RecoveryError: a group of such a step is not in the journal.
    """
    records = journal_records(run_dir)
    histories = [_history(run_dir, max_lag, shard, shards) for shard in range(shards)]
    steps = range(checkpoint, min(history.version for history in histories))
    try:
        return {step: _batch(histories, records, step) for step in steps}
    except KeyError as error:
        raise RecoveryError(
            f"{run_dir / 'journal'}: group {error} has to be trained on again and is not there"
        ) from None


def _batch(
    histories: Sequence[History], records: Mapping[int, Record], step: int
) -> Batch[tuple[Record]]:
    """What a step was made of, in the order in which it was trained on it; or KeyError.

    Several shards give theirs by id, as `wfr.shards.ShardedBuffer.take` does; one as it took them.
    """

    def entry(group: int) -> Entry[tuple[Record]]:
        known = histories[group % len(histories)].groups[group]
        assert known.meta is not None, f"step {step} used group {group}, which was not finished"
        return Entry(group, known.admitted_version, (records[group],), known.meta)

    parts = list(zip(*(history.batches[step] for history in histories), strict=True))
    merged = (itertools.chain.from_iterable(part) for part in parts)
    entries, replayed = (
        tuple(map(entry, part if len(histories) == 1 else sorted(part))) for part in merged
    )
    return Batch(step, step, entries, replayed)


def _history(run_dir: Path, max_lag: int, shard: int, shards: int) -> History:
    history = History(max_lag, shard, shards)
    path = ledger_path(run_dir, shard)
    if path.exists():
        try:
            read_history(path, history)
        except HistoryError as error:
            raise RecoveryError(str(error)) from None
    return history


def _events(
    history: History, records: Mapping[int, Record], version: int, checkpoint: int
) -> Iterable[dict[str, Any]]:
    """What has to be booked before this shard goes on."""
    if history.version < version:  # the others were told already, so the step is in force
        yield {"event": "publish", "version": version}
    for group, found in list(history.groups.items()):
        again = found.state == "used" and found.batch >= checkpoint
        if (again or found.state in ("finished", "taken")) and group not in records:
            yield {"event": "damage", "group": group}
    yield {"event": "restart"}
    yield from _unheard_of(history, records)


def _unheard_of(history: History, records: Mapping[int, Record]) -> Iterable[dict[str, Any]]:
    """Admissions that the torn end of a ledger lost, though their groups came in."""
    mine = [group for group in records if group % history.stride == history.shard]
    for group in range(history.next_id, max(mine, default=-1) + 1, history.stride):
        known = records.get(group)
        admitted = known.admitted_version if known else history.version
        yield {"event": "admit", "group": group, "version": min(admitted, history.version)}


def _shard(history: History, records: Mapping[int, Record]) -> Shard:
    finished = [
        (group, records[group], GroupMeta(**(records[group].meta or {})))
        for group in history.in_state("in_flight")
        if group in records and records[group].meta is not None
    ]
    return Shard(history.state(lambda group: (records[group],)), finished)
