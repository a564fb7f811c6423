"""Panels and dashboards, before they are Grafana's."""

from __future__ import annotations

import dataclasses
from typing import Literal

Kind = Literal["timeseries", "stat", "bargauge"]


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and how its series are named.

    Attributes:
        expr: over the series of the run `$run`; `$window` is a range long enough for a rate.
        absent: where a healthy run may have no such series, the reason.
    """

    expr: str
    legend: str = ""
    absent: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Panel:
    """One picture.

    Attributes:
        description: what it says and what to do about it, for whoever looks at it.
        unit: Grafana's name of the unit.
        stacked: areas that add up to a whole.
        width: of 24 columns.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    stacked: bool = False
    width: int = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Dashboard:
    """Panels under one title; `uid` is its address in Grafana."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
