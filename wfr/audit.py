"""The audit: do the ledger, the journal, the metrics and the checkpoints of a run agree?

It trusts none of them. The ledger's events are applied one by one under the rules of `wfr.history`;
every group that they name is looked up in the journal, its bytes checked and its tokens counted
again; then the books have to close, and what the metrics and checkpoints say has to be what the
ledger says. A run may still be going on, or have been killed at any point.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wfr.columns import view
from wfr.compaction import compacted
from wfr.groups import GroupMeta
from wfr.history import GroupHistory, History, HistoryError, read_history
from wfr.journal import JournalReader, Record
from wfr.ledger import Ledger
from wfr.recovery import ledger_path


class AuditError(ValueError):
    """There is nothing to audit, or it cannot be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What an audit found.

    Attributes:
        violations: what does not agree, each naming file, group or version; empty: all is well.
        notes: damage that the run has already booked, and bytes that no record vouches for.
        ledger: the books, recomputed from the events; tokens.
        version: version that is published.
        max_lag_seen: largest lag of a group that was consumed.
    """

    violations: list[str]
    notes: list[str]
    ledger: Ledger
    version: int
    max_lag_seen: int

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        books = self.ledger.state()
        return {
            "ok": not self.violations,
            "violations": self.violations,
            "notes": self.notes,
            "version": self.version,
            "max_lag_seen": self.max_lag_seen,
            **{key: books[key] for key in ("generated", "consumed", "waiting", "discarded")},
            **{key: books[key] for key in ("groups_admitted", "groups_consumed")},
            "groups_dropped": books["groups_dropped"],
        }


def audit(run_dir: str | Path) -> Report:
    """Audit the run in `run_dir`; raises AuditError where there is none."""
    run = Path(run_dir)
    config = _config(run)
    max_lag, shards = config["buffer"]["max_lag"], config["buffer"].get("shards", 1)
    if not ledger_path(run, 0).exists():
        raise AuditError(f"{ledger_path(run, 0)}: the run has no ledger; did it ever start?")
    violations: list[str] = []
    notes: list[str] = []
    histories = []
    for shard in range(shards):
        history = History(max_lag, shard, shards)
        histories.append(history)
        path = ledger_path(run, shard)
        try:
            torn = read_history(path, history).torn if path.exists() else 0
            if torn:
                notes.append(f"{path}: {torn} bytes at its end were cut short by a crash")
        except HistoryError as error:
            violations.append(str(error))
    if not violations:
        violations += _groups(run, histories, notes)
        violations += _books(histories)
        violations += _metrics(run, histories)
        violations += _checkpoints(run, histories)
    return Report(
        violations,
        notes,
        _sum([history.ledger for history in histories]),
        max(history.version for history in histories),
        max((_lag(group) for h in histories for group in h.groups.values()), default=0),
    )


def _config(run: Path) -> Any:
    path = run / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AuditError(f"{path}: {error}; is {run} the directory of a run?") from None


def _groups(run: Path, histories: list[History], notes: list[str]) -> Iterator[str]:
    """Everything that came in is in the journal, and is what the ledger says it is."""
    records = _records(run, notes)
    gone = compacted(run)
    known = {group: found for history in histories for group, found in history.groups.items()}
    for group, found in known.items():
        if found.meta is None or found.reason == "journal_damaged":
            continue
        if group in records:
            yield from _one(group, found, records[group])
        elif group not in gone:
            yield f"group {group} is {found.state} in the ledger, but not in {run / 'journal'}"
    admitted = max(history.next_id for history in histories)
    for group in records.keys() - known.keys():
        if group < admitted:
            yield f"{records[group].path}: holds group {group}, which was never admitted"
        notes.append(f"{records[group].path}: group {group} is not in the ledger (yet)")


def _records(run: Path, notes: list[str]) -> dict[int, Record]:
    records: dict[int, Record] = {}
    for directory in sorted((run / "journal").glob("*/")):
        reader = JournalReader(directory)
        for record in reader.records():
            records.setdefault(int(record.group_id), record)
        for path, size in reader.torn.items():
            notes.append(f"{path}: {size} bytes are not whole groups")
    return records


def _one(group: int, found: GroupHistory, record: Record) -> Iterator[str]:
    meta = found.meta
    assert meta is not None
    episodes = view(record.read()).trajectories
    scored = [e for e in episodes if not e.stop_reason.is_world_failure]
    tokens = sum(int(np.count_nonzero(e.turn_id >= 0)) for e in scored)
    oldest = min((int(e.oldest.min()) for e in scored if len(e.oldest)), default=None)
    where = f"{record.path}: group {group}"
    if tokens != meta.policy_tokens:
        yield f"{where} has {tokens} policy tokens, and {meta.policy_tokens} in the ledger"
    if scored and oldest is not None and oldest != meta.oldest_version:
        yield f"{where} has tokens of version {oldest}, and {meta.oldest_version} in the ledger"
    if record.admitted_version != found.admitted_version:
        yield (
            f"{where} was admitted at version {record.admitted_version}, and at "
            f"{found.admitted_version} in the ledger"
        )


def _books(histories: list[History]) -> Iterator[str]:
    """Generated = consumed + discarded + waiting, and every group is in one state."""
    for history in histories:
        books = history.ledger
        waiting = sum(
            _tokens(history.groups[group]) for group in history.in_state("finished", "taken")
        )
        if books.missing or books.waiting != waiting:
            yield (
                f"the books of shard {history.shard} do not close: {books.generated} tokens "
                f"generated, {books.consumed} consumed, {books.discarded.total()} discarded, "
                f"{books.waiting} waiting, {waiting} in waiting groups"
            )
        steps = range(history.version)
        used = Counter(group for step in steps for group in history.batches[step][0])
        twice = sorted(group for group, times in used.items() if times > 1)
        if twice:
            yield f"group {twice[0]} was consumed by two steps"
    versions = {history.version for history in histories}
    if max(versions) - min(versions) > 1:
        yield f"the shards are at versions {sorted(versions)}"


def _metrics(run: Path, histories: list[History]) -> Iterator[str]:
    """Steps are one behind the other, and each used the groups that the ledger says."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return
    damaged = any(h.ledger.groups_dropped["journal_damaged"] for h in histories)
    version = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:  # cut short by a crash; the ledger has the step
            continue
        if record.get("kind") != "step":
            continue
        if record["version"] <= version:
            yield f"{path}:{number}: version {record['version']} follows version {version}"
        version = record["version"]
        if "groups" not in record or damaged:
            continue
        known = sorted(group for h in histories for group in _batch(h, version - 1))
        if sorted({*record["groups"], *_refused(histories, version - 1)}) != known:
            yield f"{path}:{number}: version {version} used groups {record['groups']}, not {known}"
    published = max(history.version for history in histories)
    if version > published:
        yield f"{path}: has version {version}, but the ledger ends at version {published}"


def _checkpoints(run: Path, histories: list[History]) -> Iterator[str]:
    """No checkpoint is of a version that the ledger does not know."""
    published = max(history.version for history in histories)
    for path in sorted((run / "checkpoints").glob("[0-9]*")):
        state = path / "wfr_state.json"
        if not state.exists():
            yield f"{path}: has no wfr_state.json"
            continue
        version = json.loads(state.read_text(encoding="utf-8"))["version"]
        if str(version) != path.name or version > published:
            yield f"{path}: is of version {version}; the ledger ends at version {published}"


def _batch(history: History, batch: int) -> list[int]:
    """The new groups of a step, those too that it could not train on."""
    known = history.batches[batch][0] if batch in history.batches else []
    return [*known, *history.refused.get(batch, ())]


def _refused(histories: list[History], batch: int) -> list[int]:
    return [group for history in histories for group in history.refused.get(batch, ())]


def _tokens(group: GroupHistory) -> int:
    return group.meta.policy_tokens if group.meta else 0


def _lag(group: GroupHistory) -> int:
    meta: GroupMeta | None = group.meta
    if group.state != "used" or meta is None:
        return 0
    return group.batch - min(meta.oldest_version, group.admitted_version)


def _sum(parts: list[Ledger]) -> Ledger:
    total = Ledger()
    for part in parts:
        for field in dataclasses.fields(Ledger):
            value = getattr(part, field.name)
            if isinstance(value, int):
                setattr(total, field.name, getattr(total, field.name) + value)
            else:
                getattr(total, field.name).update(value)
    return total
