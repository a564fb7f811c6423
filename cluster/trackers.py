"""Experiment trackers beside `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow.

Each is written by a thread of its own behind a bounded queue. One that is slow loses records, one
that fails is left alone after a few attempts, and neither ever stops or slows the run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import queue
import re
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from wfr.config import Config

QUEUE_RECORDS = 1000
_CLOSE_S = 10.0
_MOST_FAILURES = 3
_SHOWN_KINDS = ("step", "eval", "executor")


class TrackerLike(Protocol):
    """Where numbers go."""

    def write(self, version: int, at: float, values: Mapping[str, float]) -> None:
        """Write numbers that belong to a weight version, measured at a Unix time."""
        ...

    def close(self) -> None:
        """Write what is still held back."""
        ...


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by name; those under a mapping as `name/key`, others left out."""
    prefix = "eval/" if record.get("kind") == "eval" else ""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= {f"{prefix}{key}/{k}": v for k, v in value.items() if _is_number(v)}
        elif _is_number(value) and key not in ("time", "step", "version"):
            found[prefix + key] = value
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


class Following:
    """One tracker that follows a run's records in a thread."""

    def __init__(
        self, name: str, start: Callable[[], TrackerLike], note: Callable[[str], None]
    ) -> None:
        """Start the thread, which starts the tracker; `note` is told once of what is lost."""
        self.lost = 0
        self._name = name
        self._start = start
        self._note = note
        self._version = 0
        self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue(QUEUE_RECORDS)
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def observe(self, record: Mapping[str, Any]) -> None:
        """Hand on a record; it is lost, and counted, where the tracker is too slow."""
        if record.get("kind") not in _SHOWN_KINDS:
            return
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._lose("is too slow")

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Wait a bounded time for what is queued; what then remains is lost."""
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            for _ in range(self._queue.qsize()):
                self._lose("did not end in time")

    def _work(self) -> None:
        try:
            tracker = self._start()
        except Exception as error:  # noqa: BLE001 - a tracker may raise anything; the run goes on
            self._discard(f"could not start: {error}")
            return
        failures = 0
        while (record := self._queue.get()) is not None:
            try:
                self._write(tracker, record)
                failures = 0
            except Exception as error:  # noqa: BLE001 - as above
                failures += 1
                self._lose(f"failed: {error}")
                if failures == _MOST_FAILURES:
                    self._discard(f"failed {failures} times in a row")
                    break
        try:
            tracker.close()
        except Exception as error:  # noqa: BLE001 - as above
            self._note(f"tracker {self._name} could not be closed: {error}")

    def _write(self, tracker: TrackerLike, record: Mapping[str, Any]) -> None:
        self._version = int(record.get("version", self._version))
        tracker.write(self._version, float(record["time"]), scalars(record))

    def _discard(self, why: str) -> None:
        """Lose this and all that follows."""
        self._note(f"tracker {self._name} {why}; it gets nothing more, metrics.jsonl has it all")
        while self._queue.get() is not None:
            self.lost += 1

    def _lose(self, why: str) -> None:
        self.lost += 1
        if self.lost == 1:
            self._note(f"tracker {self._name} {why}; records for it are lost, the run goes on")


@contextlib.contextmanager
def trackers(
    config: Config, run_dir: Path, note: Callable[[str], None]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Follow a run while the block runs; yields what takes its records."""
    following = [
        Following(name, _starter(name, config, run_dir), note) for name in config.metrics.trackers
    ]

    def observe(record: Mapping[str, Any]) -> None:
        for each in following:
            each.observe(record)

    try:
        yield observe
    finally:
        for name, each in zip(config.metrics.trackers, following, strict=True):
            each.close()
            if each.lost:
                note(f"tracker {name} lost {each.lost} records; metrics.jsonl has them")


def _starter(name: str, config: Config, run_dir: Path) -> Callable[[], TrackerLike]:
    return lambda: _TRACKERS[name](config, run_dir)


def missing(names: tuple[str, ...]) -> list[str]:
    """Those of the trackers whose package is not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


class _TensorBoard:
    """Event files below `tensorboard/` in the run directory."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(run_dir / "tensorboard"))

    def write(self, version: int, at: float, values: Mapping[str, float]) -> None:
        entries = [self._summary.Value(tag=k, simple_value=v) for k, v in values.items()]
        summary = self._summary(value=entries)
        self._writer.add_event(self._event(wall_time=at, step=version, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of the project `wfr`, or WANDB_PROJECT; with WANDB_MODE=offline only on the disk."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        import wandb

        self._end = wandb.teardown
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "wfr"),
            name=config.run.name,
            dir=str(run_dir),
            config=config.model_dump(mode="json"),
        )
        self._run.define_metric("*", step_metric="version")

    def write(self, version: int, at: float, values: Mapping[str, float]) -> None:
        self._run.log({**values, "version": version, "time": at})

    def close(self) -> None:
        self._run.finish()
        self._end()  # its process would outlive the run


class _MLflow:
    """A run of the experiment `wfr` on MLFLOW_TRACKING_URI, else in the run's `mlflow.db`."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{run_dir / 'mlflow.db'}")
        self._metric, self._client = Metric, MlflowClient(uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "wfr")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        self._run = self._client.create_run(experiment, run_name=config.run.name).info.run_id

    def write(self, version: int, at: float, values: Mapping[str, float]) -> None:
        # MLflow refuses other characters in a name.
        metrics = [
            self._metric(re.sub(r"[^\w\-. :/]", "_", name), value, int(at * 1000), version)
            for name, value in values.items()
        ]
        for start in range(0, len(metrics), _MLFLOW_BATCH):
            self._client.log_batch(self._run, metrics[start : start + _MLFLOW_BATCH])

    def close(self) -> None:
        self._client.set_terminated(self._run)


_MLFLOW_BATCH = 1000  # the most that its server takes at once
_TRACKERS: Mapping[str, Callable[[Config, Path], TrackerLike]] = types.MappingProxyType(
    {"tensorboard": _TensorBoard, "wandb": _WeightsAndBiases, "mlflow": _MLflow}
)
