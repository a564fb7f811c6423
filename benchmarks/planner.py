"""The capacity planner against real runs: steps per hour, predicted ÷ measured.

Short runs of the quickstart from one warm-started director. Two kinds of them, the synchronous one
and the asynchronous one of the file, calibrate the planner; the others differ from these in
`max_lag`, in the latency of the operators, in the size of groups or batches, or in how many
requests the sampler serves at once, and are predicted. The planner is told what differs, and in no
case what was measured. What counts is the time from the first published step to the last: what
happens once, at the start, is no rate. The runs share the machine with whatever else runs on it, so
those that calibrate are made twice, before and after the others; Programmer is left out, because
its sandbox takes many times as long where others keep the processors busy.

Beside it: the time that an hour of a run on 512 GPUs takes to simulate.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import Figure, Result, at_most, figure
from benchmarks.late_operators import PROFILES
from benchmarks.series import ROOT, Series
from wfr.planner.calibration import calibrate
from wfr.planner.forecast import forecast
from wfr.planner.recorded_run import Recorded, RecordedRun
from wfr.planner.scenario import Scenario
from wfr.planner.scenario_file import load_scenario
from wfr.planner.simulation import Simulation
from wfr.planner.tuning import tuned

LARGE = ROOT / "cluster/configs/plans/8b_director.yaml"
LARGE_SIZE = (
    *("gpu.count=512", "sampler.count=384", "learner.gpus=128", "training.groups_per_batch=1024"),
    "operators.Custom.places=16384",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Arm:
    """One run.

    Attributes:
        changes: keys of the run's configuration that differ from the file.
        latency: profile of `benchmarks.late_operators`; none: Search as it is.
    """

    changes: Mapping[str, int]
    latency: str = ""

    def overrides(self) -> list[str]:
        """The changes as `--set` takes them."""
        search = f"benchmarks.late_operators:SEARCH_{self.latency}" if self.latency else "Search"
        changes = [f"{key}={value}" for key, value in self.changes.items()]
        return [*changes, f"environment.pool=[{search}]"]

    def scenario(self, calibrated: Scenario) -> Scenario:
        """The same changes of what was calibrated."""
        values = calibrated.model_dump()
        for key, value in self.changes.items():
            section, name = _PLACES[key]
            values[section][name] = value
        if self.latency:
            values["operators"] = {
                "Search": {"latency_s": PROFILES[self.latency].latency.model_dump()}
            }
        return Scenario.model_validate(values)


_PLACES = {
    "buffer.max_lag": ("training", "max_lag"),
    "rollout.group_size": ("training", "group_size"),
    "train.groups_per_batch": ("training", "groups_per_batch"),
    "sampler.max_num_seqs": ("sampler", "max_num_seqs"),
}
CALIBRATION = {"lag 0": Arm({"buffer.max_lag": 0}), "lag 4": Arm({"buffer.max_lag": 4})}
PREDICTED = {
    "lag 1": Arm({"buffer.max_lag": 1}),
    "lag 4, log-normal latency": Arm({"buffer.max_lag": 4}, "LOG_NORMAL"),
    "lag 0, log-normal latency": Arm({"buffer.max_lag": 0}, "LOG_NORMAL"),
    "lag 4, groups of 4": Arm({"buffer.max_lag": 4, "rollout.group_size": 4}),
    "lag 1, heavy tail": Arm({"buffer.max_lag": 1}, "HEAVY"),
    "lag 4, 16 at once": Arm({"buffer.max_lag": 4, "sampler.max_num_seqs": 16}),
    "lag 0, batches of 8": Arm({"buffer.max_lag": 0, "train.groups_per_batch": 8}),
    "lag 8, heavy tail": Arm({"buffer.max_lag": 8}, "HEAVY"),
}
STEPS = 16


def run(quick: bool) -> Result:
    """Train all arms, calibrate on two, predict the others."""
    steps = 4 if quick else STEPS
    predicted = dict(list(PREDICTED.items())[:1]) if quick else PREDICTED
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        warm = ("warmstart.steps=50",) if quick else ()
        again = {f"{name}, again": arm for name, arm in CALIBRATION.items()}
        train(directory, {**CALIBRATION, **predicted, **again}, steps, warm)
        result = compare(directory, predicted)
    hour = _large(hours=0.05 if quick else 1.0)
    return dataclasses.replace(result, figures=[*result.figures, *hour])


def train(directory: Path, arms: Mapping[str, Arm], steps: int, warm: Sequence[str] = ()) -> None:
    """Make the runs, one after another.

    Raises:
        RuntimeError: the warm start failed, or one of them.
    """
    series = Series(directory)
    series.base(warm)
    common = (f"train.steps={steps}", "tasks.eval_tasks=12")
    runs = {_place(directory, name).name: (*common, *arm.overrides()) for name, arm in arms.items()}
    failed = series.train_all(runs)
    if failed:
        raise RuntimeError(f"runs in {directory} failed: {', '.join(failed)}")


def compare(directory: Path, predicted: Mapping[str, Arm]) -> Result:
    """Predict the runs that lie in `directory`, from those that calibrate."""
    pairs = {
        name: [RecordedRun.read(_place(directory, n)) for n in (name, f"{name}, again")]
        for name in CALIBRATION
    }
    runs = [run for pair in pairs.values() for run in pair]
    calibrated = tuned(calibrate(runs), runs)
    figures, errors, table = [], [], {}
    for name, arm in {**CALIBRATION, **predicted}.items():
        there = pairs.get(name) or [RecordedRun.read(_place(directory, name))]
        steps = len(there[0].steps) - 1
        scenario = arm.scenario(calibrated)
        workload = Recorded(runs, scenario.operators)
        found = [
            Simulation(scenario, workload, seed).run(steps=steps, warmup_steps=1).steps_per_hour
            for seed in range(1, _SEEDS + 1)
        ]
        measured = statistics.median(run.pace for run in there)
        note = "calibration" if name in CALIBRATION else ""
        ratios = [rate / measured for rate in found]
        figures.append(figure(f"{name}: predicted ÷ measured", ratios, "×", note=note))
        table[name] = {"measured": measured, "predicted": statistics.median(found)}
        if name in predicted:
            errors.append(abs(statistics.median(ratios) - 1))
    top = [
        Figure(
            *("relative error of steps per hour, median of the predictions",),
            *(statistics.median(errors), min(errors), max(errors)),
            target=at_most(0.15),
            repeats=len(errors),
        )
    ]
    top += [
        figure(f"difference of two runs of `{name}`, relative", [abs(b.pace / a.pace - 1)])
        for name, (a, b) in pairs.items()
    ]
    setup = {
        "configuration": "cluster/configs/quickstart.yaml",
        "seeds": _SEEDS,
        "steps per hour": table,
        "calibrated": calibrated.model_dump(mode="json", exclude_defaults=True),
    }
    return Result([*top, *figures], setup)


def _large(hours: float) -> list[Figure]:
    """How long it takes to simulate so many hours on 512 GPUs."""
    scenario = load_scenario(LARGE, LARGE_SIZE)
    started, own = time.perf_counter(), time.process_time()
    found = forecast(scenario, hours=hours)
    wall, own = time.perf_counter() - started, time.process_time() - own
    note = f"one of {found.slice} slices, {found.events:,} events, {own:.0f} s of processor time"
    name = f"{hours:g} hours of 512 GPUs, simulated in"
    return [figure(name, [wall], "s", target=at_most(60), note=note)]


def _place(directory: Path, name: str) -> Path:
    return directory / name.replace(", ", "_").replace(" ", "-")


_SEEDS = 5
