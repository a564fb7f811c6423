"""What supervision did: processes that were ended, machines that were closed, stalls."""

from __future__ import annotations

from wfr.metric import Metric

SUPERVISION: tuple[Metric, ...] = (
    Metric(
        "wfr_silent_processes_total",
        "counter",
        "processes",
        "Processes that did not answer for supervision.silent_s and were ended, by role.",
        "silent",
        "silent",
        label="role",
    ),
    Metric(
        "wfr_stalls_total",
        "counter",
        "stalls",
        "Times that no step was taken for supervision.stall_s.",
        "stall",
        "stall/count",
    ),
    Metric(
        "wfr_quarantines_total",
        "counter",
        "quarantines",
        "Times that a machine was closed to further processes because several were lost on it.",
        "quarantine",
        "quarantine/count",
    ),
)
