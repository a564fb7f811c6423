"""The declared metrics of a run as Prometheus metrics, fed with the run's records."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from wfr.metric import Metric
from wfr.metric_declarations import METRICS

MAX_LABEL_VALUES = 32
"""Most values of one label; skills, for one, come from a file and could be many."""


class RunMetrics:
    """Prometheus metrics of one run, fed with its records.

    Counters and histograms show 0 from the start; a gauge appears with its first value.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Create every metric in `registry`."""
        self._feeds = [(metric, _FEEDS[metric.kind](metric, registry)) for metric in METRICS]

    def observe(self, record: Mapping[str, Any]) -> None:
        """Take in one record; keys that no metric declares are ignored, missing ones too."""
        for metric, feed in self._feeds:
            if metric.record == record.get("kind"):
                for label, number, count in metric.readings(record):
                    feed(label, number, count)


class _CounterFeed:
    """Cumulative values in; a value below an earlier one changes nothing."""

    def __init__(self, metric: Metric, registry: CollectorRegistry) -> None:
        self._series = _Labelled(metric, Counter(**_arguments(metric), registry=registry))
        self._seen: dict[str, float] = {}

    def __call__(self, key: str, value: float, count: int) -> None:
        grown = value - self._seen.get(key, 0.0)
        if grown > 0:
            self._seen[key] = value
            self._series.of(key, beyond="other").inc(grown)


class _GaugeFeed:
    """Current values in; label values beyond the bound are left out."""

    def __init__(self, metric: Metric, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._gauge = Gauge(**_arguments(metric), registry=None)
        self._series = _Labelled(metric, self._gauge)
        self._shown = False

    def __call__(self, key: str, value: float, count: int) -> None:
        series = self._series.of(key)
        if series is not None:
            series.set(value)
        if not self._shown:
            # Registered with a value, so that nobody reads a 0 that nobody measured.
            self._registry.register(self._gauge)
            self._shown = True


class _HistogramFeed:
    """So many observations of a value."""

    def __init__(self, metric: Metric, registry: CollectorRegistry) -> None:
        arguments = _arguments(metric)
        histogram = Histogram(**arguments, buckets=metric.buckets, registry=registry)
        self._series = _Labelled(metric, histogram)

    def __call__(self, key: str, value: float, count: int) -> None:
        series = self._series.of(key, beyond="other")
        for _ in range(count):
            series.observe(value)


_Feed = Callable[[str, float, int], None]
_FEEDS: Mapping[str, Callable[[Metric, CollectorRegistry], _Feed]] = types.MappingProxyType(
    {"counter": _CounterFeed, "gauge": _GaugeFeed, "histogram": _HistogramFeed}
)


class _Labelled:
    """The series of one metric, at most MAX_LABEL_VALUES of them."""

    def __init__(self, metric: Metric, parent: Any) -> None:
        self._parent = parent
        self._label = metric.label
        self._values: set[str] = set()

    def of(self, value: str, *, beyond: str | None = None) -> Any:
        """The series of a label value; past the bound that of `beyond`, or nothing."""
        if not self._label:
            return self._parent
        room = len(self._values) < MAX_LABEL_VALUES - (beyond is not None)
        if value in self._values or room:
            self._values.add(value)
            return self._parent.labels(value)
        return None if beyond is None else self._parent.labels(beyond)


def _arguments(metric: Metric) -> dict[str, Any]:
    # prometheus_client appends `_total` to counters and the unit where it is missing.
    return {
        "name": metric.name.removesuffix("_total"),
        "documentation": metric.help,
        "labelnames": (metric.label,) if metric.label else (),
        "unit": metric.unit,
    }
