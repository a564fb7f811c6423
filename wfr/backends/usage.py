"""What executors were used for: calls, tokens, seconds and money, by whom and for what."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple


class UsageKey(NamedTuple):
    """What usage is told apart by."""

    operator: str
    backend: str
    source: str


@dataclasses.dataclass(slots=True)
class Usage:
    """A sum of usage.

    Attributes:
        calls: what operators asked for; of them `hits` were answered by the cache, and `shared` by
            an identical call under way.
        requests: what was sent to the backend, every attempt and hedge counted; of them `failed`
            brought no reply and `hedges` were sent beside a slow one.
        set_aside: calls that no attempt could answer.
        prompt_tokens, completion_tokens, usd: what the backend was paid for.
        seconds: from question to answer, summed over calls that ran side by side.
        saved_usd: what hits and shared calls would have cost.
    """

    calls: int = 0
    hits: int = 0
    shared: int = 0
    requests: int = 0
    failed: int = 0
    hedges: int = 0
    set_aside: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    usd: float = 0.0
    saved_usd: float = 0.0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def add(self, other: Usage) -> None:
        """Add `other` to this sum."""
        for name in _FIELDS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


_FIELDS = tuple(field.name for field in dataclasses.fields(Usage))


class UsageTable:
    """Usage by operator, backend and source."""

    def __init__(self, rows: Iterable[tuple[UsageKey, Usage]] = ()) -> None:
        """Begin with `rows`."""
        self._rows: dict[UsageKey, Usage] = {}
        for key, usage in rows:
            self.add(key, usage)

    def __iter__(self) -> Iterator[tuple[UsageKey, Usage]]:
        """Keys and their sums."""
        return iter(self._rows.items())

    def __len__(self) -> int:
        """Count of keys."""
        return len(self._rows)

    def add(self, key: UsageKey, usage: Usage) -> None:
        """Add to one row."""
        self._rows.setdefault(UsageKey(*key), Usage()).add(usage)

    def total(self) -> Usage:
        """The sum of all rows."""
        return _sum(usage for _, usage in self)

    def by(self, field: str) -> Mapping[str, Usage]:
        """Sums by `operator`, `backend` or `source`."""
        names = dict.fromkeys(getattr(key, field) for key, _ in self)
        return {
            name: _sum(usage for key, usage in self if getattr(key, field) == name)
            for name in names
        }

    def rows(self) -> list[dict[str, str | float]]:
        """Plain values, one mapping per row."""
        return [{**key._asdict(), **dataclasses.asdict(usage)} for key, usage in self]


def read_row(row: Mapping[str, Any]) -> tuple[UsageKey, Usage]:
    """One of `UsageTable.rows()`."""
    key = UsageKey(*(row[name] for name in UsageKey._fields))
    return key, Usage(**{name: value for name, value in row.items() if name in _FIELDS})


def _sum(usages: Iterable[Usage]) -> Usage:
    total = Usage()
    for usage in usages:
        total.add(usage)
    return total
