"""History: what became of every group, event by event, as the replay buffer books it.

The buffer writes each event to its ledger file before it acts on it, so the file is the truth: a
restart reads from it which groups wait, which are in flight and which were trained on. The rules
below are written a second time here, from the events alone, so that an audit does not trust the
buffer that it audits.

    admit group version          finish group meta             discard group reason meta
    lose group reason            abandon group reason tokens   late group meta
    take batch groups replayed   publish version               refuse batch reasons stepped
    damage group                 restart
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from wfr.groups import GroupMeta
from wfr.ledger import Ledger
from wfr.line_log import LineLog, Lines, Sync, read_lines


class HistoryError(ValueError):
    """An event that cannot have happened after those before it."""


@dataclasses.dataclass(slots=True)
class GroupHistory:
    """One group: `state` is in_flight, finished, taken, used, dropped or lost."""

    admitted_version: int
    state: str = "in_flight"
    meta: GroupMeta | None = None
    batch: int = -1
    reason: str = ""


class History:
    """Applies events one by one; raises HistoryError at the first impossible one."""

    def __init__(self, max_lag: int, shard: int = 0, shards: int = 1) -> None:
        """Begin with no group and version 0."""
        self.max_lag = max_lag
        self.version = 0
        self.next_id = shard
        self.shard, self.stride = shard, shards
        self.groups: dict[int, GroupHistory] = {}
        self.batches: dict[int, tuple[list[int], list[int]]] = {}  # groups, replayed groups
        self.refused: dict[int, list[int]] = {}  # groups of a batch that could not be trained on
        self.ledger = Ledger()
        self._again: set[int] = set()

    @property
    def out(self) -> list[int]:
        """Batches that are taken and not published."""
        return [batch for batch in self.batches if batch >= self.version]

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take one event into account."""
        handler = getattr(self, f"_{event.get('event')}", None)
        if handler is None:
            raise HistoryError(f"unknown event {event.get('event')!r}")
        handler(**{key: value for key, value in event.items() if key != "event"})

    def in_state(self, *states: str) -> Iterable[int]:
        """Groups in one of these states, by id."""
        return [i for i, group in self.groups.items() if group.state in states]

    def _admit(self, group: int, version: int) -> None:
        found = self.groups.get(group)
        if found is not None:
            if found.state != "in_flight" or found.admitted_version != version:
                raise HistoryError(f"group {group} is admitted again, but it is {found.state}")
            return
        if group != self.next_id or version > self.version:
            raise HistoryError(
                f"group {group} is admitted at version {version}; expected group {self.next_id} "
                f"at version {self.version} or before"
            )
        self.next_id += self.stride
        self.groups[group] = GroupHistory(version)
        self.ledger.groups_admitted += 1

    def _finish(self, group: int, meta: Mapping[str, Any]) -> None:
        found = self._expect(group, "in_flight", "finished")
        found.meta = GroupMeta(**meta)
        found.state = "finished"
        self.ledger.generate(found.meta.policy_tokens, found.meta.discarded)

    def _discard(self, group: int, reason: str, meta: Mapping[str, Any]) -> None:
        self._finish(group, meta)
        self._end(group, reason, lost=False)

    def _late(self, group: int, meta: Mapping[str, Any]) -> None:
        found = self._expect(group, "lost", "handed in late")
        found.state, found.meta = "dropped", GroupMeta(**meta)
        self.ledger.generate(found.meta.policy_tokens, found.meta.discarded)
        self.ledger.discard("late", found.meta.policy_tokens)

    def _lose(self, group: int, reason: str) -> None:
        self._expect(group, "in_flight", "lost")
        self._end(group, reason, lost=True)

    def _abandon(self, group: int, reason: str, tokens: int) -> None:
        self._expect(group, "in_flight", "abandoned")
        self._end(group, reason, lost=False)
        self.ledger.generate(0, {reason: tokens})

    def _take(self, batch: int, groups: list[int], replayed: list[int]) -> None:
        if batch in self._again:
            if self.batches[batch][0] != groups:
                raise HistoryError(f"batch {batch} is handed out again with other groups")
            self._again.discard(batch)
        elif batch != self.version + len(self.out):
            raise HistoryError(f"batch {batch} is taken out of order at version {self.version}")
        else:
            for group in groups:
                found = self._expect(group, "finished", "taken")
                found.state, found.batch = "taken", batch
        for group in replayed:
            self._expect(group, "used", "replayed")
        for group in [*groups, *replayed]:
            self._check_lag(group, batch)
        self.batches[batch] = groups, replayed

    def _publish(self, version: int) -> None:
        if version != self.version + 1 or self.version not in self.batches:
            raise HistoryError(f"version {version} is published after {self.version}")
        groups, replayed = self.batches[self.version]
        for group in groups:
            self._expect(group, "taken", "consumed").state = "used"
        self.ledger.consume(sum(map(self._tokens, groups)), len(groups))
        self.ledger.replayed += sum(map(self._tokens, replayed))
        self.version = version

    def _refuse(self, batch: int, reasons: list[tuple[int, str]], stepped: bool) -> None:
        if batch not in self.batches or batch != self.version + len(self.out) - 1:
            raise HistoryError(f"batch {batch} is refused, but it is not the newest one out")
        groups, replayed = self.batches[batch]
        for group, reason in reasons:
            if group in groups:
                self._expect(group, "taken", "refused")
                self.groups[group].state = "finished"
                self._end(group, reason, lost=False)
        bad = [group for group, _ in reasons]
        self.refused[batch] = bad
        self.batches[batch] = (
            [i for i in groups if i not in bad],
            [i for i in replayed if i not in bad],
        )
        if not stepped:
            del self.batches[batch]

    def _damage(self, group: int) -> None:
        """The disk lost it: whoever used it in a step that is repeated does so without it."""
        found = self.groups.get(group)
        if found is None or found.meta is None:
            raise HistoryError(f"group {group} is damaged, but never came in")
        tokens = found.meta.policy_tokens
        if found.state == "used":
            self.ledger.consumed -= tokens
            self.ledger.groups_consumed -= 1
        elif found.state in ("finished", "taken"):
            self.ledger.waiting -= tokens
        else:
            raise HistoryError(f"group {group} is damaged, but it is {found.state}")
        if found.batch >= 0:
            groups, replayed = self.batches[found.batch]
            self.batches[found.batch] = [i for i in groups if i != group], replayed
        found.state, found.reason = "dropped", "journal_damaged"
        self.ledger.discarded["journal_damaged"] += tokens
        self.ledger.groups_dropped["journal_damaged"] += 1

    def _restart(self) -> None:
        self._again = set(self.out)

    def _expect(self, group: int, state: str, verb: str) -> GroupHistory:
        found = self.groups.get(group)
        if found is None or found.state != state:
            what = "was never admitted" if found is None else f"is {found.state}"
            raise HistoryError(f"group {group} is {verb}, but it {what}")
        return found

    def _check_lag(self, group: int, batch: int) -> None:
        found = self.groups[group]
        assert found.meta is not None
        oldest = min(found.admitted_version, found.meta.oldest_version)
        if not 0 <= batch - oldest <= self.max_lag:
            raise HistoryError(
                f"group {group} with tokens of version {oldest} is consumed at version {batch}: "
                f"lag {batch - oldest}, bound {self.max_lag}"
            )

    def _tokens(self, group: int) -> int:
        meta = self.groups[group].meta
        return 0 if meta is None else meta.policy_tokens

    def _end(self, group: int, reason: str, *, lost: bool) -> None:
        found = self.groups[group]
        if found.state == "finished":
            self.ledger.discard(reason, self._tokens(group))
        found.state, found.reason = "lost" if lost else "dropped", reason
        self.ledger.groups_dropped[reason] += 1

    def state(self, ref: Callable[[int], Any]) -> dict[str, Any]:
        """What `wfr.buffer.ReplayBuffer.restore` continues from; `ref` says where a group is."""
        held = [
            {
                "group_id": i,
                "admitted_version": self.groups[i].admitted_version,
                "ref": ref(i),
                # It is in the journal's file and not in memory.
                "meta": {**dataclasses.asdict(_meta(self.groups[i])), "size": 0},
                "spilled": False,
            }
            for i in self.in_state("finished", "taken")
        ]
        return {
            "version": self.version,
            "next_id": self.next_id,
            "groups": held,
            "in_flight": {i: self.groups[i].admitted_version for i in self.in_state("in_flight")},
            "out": {batch: self.batches[batch][0] for batch in self.out},
            "lost": list(self.in_state("lost")),
            "ledger": self.ledger.state(),
        }


class EventLog:
    """The ledger file of one buffer; waits where the disk is full, and so does the buffer."""

    def __init__(self, path: str | Path, sync: Sync | None = None) -> None:
        """Continue the file, or begin it."""
        self._log = LineLog(path, sync)
        self.full = False

    async def append(self, event: Mapping[str, Any]) -> None:
        """Write one event; returns when it is written, however long the disk takes no more."""
        while True:
            try:
                self._log.append(event)
            except OSError:
                self.full = True
                await asyncio.sleep(RETRY_S)
            else:
                self.full = False
                return

    def force(self) -> None:
        """Force everything to the disk."""
        self._log.force()

    def close(self) -> None:
        """Close the file."""
        self._log.close()


RETRY_S = 1.0
"""Seconds between two attempts to write to a full disk."""


def read_history(path: str | Path, history: History) -> Lines:
    """Apply the events of a ledger file.

    Raises:
        HistoryError: naming file and line, at the first damaged line or impossible event.
    """
    lines = read_lines(path)
    if lines.damaged:
        raise HistoryError(f"{path}:{lines.damaged[0]}: the line's checksum is wrong")
    for number, event in lines.records:
        try:
            history.apply(event)
        except (HistoryError, TypeError) as error:
            raise HistoryError(f"{path}:{number}: {error}") from None
    return lines


def _meta(group: GroupHistory) -> GroupMeta:
    assert group.meta is not None
    return group.meta
