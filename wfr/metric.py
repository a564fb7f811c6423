"""What a metric is: name, type, unit, label, help, and the record that it comes from."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Bounds for what a step or a publication takes."""
LAG_BUCKETS = ("0", "1", "2", "3", "4", "5_8", "9_up")
"""Lags of turns, in steps, under which the objective's metrics are told apart."""
LAGS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Bounds for lags in steps."""


@dataclasses.dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: as Prometheus shows it; ends with the unit, and `_total` for a counter.
        kind: counters are fed their cumulative value, gauges their current one, histograms single
            observations or a mapping from observation to count; with a label, one for each value.
        unit: base unit; empty for numbers without one.
        help: what it says, for a person.
        record: kind of the records that carry it.
        source: the record's key; where each label value has a key of its own, label value → key. A
            mapping under a single key is read as label value → number.
        label: name of the label, if there is one.
        buckets: upper bounds of a histogram, in `unit`.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    record: str
    source: str | Mapping[str, str]
    label: str = ""
    buckets: tuple[float, ...] = ()

    def readings(self, record: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
        """Label value (empty if there is none), number, and count of all that is in `record`.

        The count is 1 but for histograms, where it says how often the number was observed. A
        null, which is how `metrics.jsonl` writes what is no number, counts as missing.
        """
        for key, value in self._entries(record):
            if value is None:
                continue
            if self.kind != "histogram":
                yield str(key), value, 1
            elif isinstance(value, Mapping):
                yield from ((str(key), float(seen), int(count)) for seen, count in value.items())
            else:
                yield ("", value, 1) if key == "" else ("", float(key), int(value))

    def _entries(self, record: Mapping[str, Any]) -> Iterable[tuple[Any, Any]]:
        if not isinstance(self.source, str):
            return ((label, record.get(key)) for label, key in self.source.items())
        value = record.get(self.source)
        return value.items() if isinstance(value, Mapping) else [("", value)]


def of(
    record: str,
    kind: Literal["counter", "gauge"],
    name: str,
    unit: str,
    source: str | dict[str, str],
    help_: str,
    label: str = "",
) -> Metric:
    """A counter or a gauge."""
    keys = source if isinstance(source, str) else types.MappingProxyType(source)
    return Metric(name, kind, unit, help_, record, keys, label)


step = functools.partial(of, "step")


def turn_lag(key: str, name: str, help_: str) -> Metric:
    """A histogram of one part of the lag of turns."""
    return Metric(
        *(f"wfr_turn_{name}_steps", "histogram", "steps", help_, "step", f"lag/turn_{key}"),
        buckets=LAGS,
    )


def evaluation(name: str, unit: str, source: str, help_: str, label: str = "") -> Metric:
    """A gauge of the last evaluation."""
    return Metric(name, "gauge", unit, help_, "eval", source, label)
