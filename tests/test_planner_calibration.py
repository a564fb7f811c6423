"""Rates out of recorded runs, against runs that were made of known rates."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.config import Config, ConfigError
from wfr.journal import Journal
from wfr.planner.batching_curve import Timeline
from wfr.planner.calibration import calibrate, service_seconds
from wfr.planner.recorded_run import Recorded, RecordedRun, Step, Stretch
from wfr.planner.simulation import Simulation
from wfr.planner.tuning import tuned
from wfr.schema import to_batch
from wfr.trajectory import (
    Group,
    OperatorCall,
    StopReason,
    Trajectory,
    Turn,
    TurnKind,
    VersionSpan,
)

A, B = 0.01, 0.001  # seconds of a token: A + B·n


def trajectory(begin, turns, *, group="0", sibling=0, reward=0.0, called=0.5):
    """Turns of (seconds, tokens), each but the last followed by a call of `called` seconds."""
    tokens, spans, calls, now = 3, [], [], begin
    for index, (seconds, count) in enumerate(turns):
        now += seconds
        last = index == len(turns) - 1
        read = 0 if last else 4
        kind = TurnKind.ANSWER if last else TurnKind.TOOL
        spans.append(
            Turn(tokens, tokens + count, tokens + count + read, kind, "stop", "" if last else "Op")
        )
        tokens += count + read
        if not last:
            now += called
            calls.append(OperatorCall("Op", "x", called, turn=index, ended_at=now))
    turn_id = np.full(tokens, -1, np.int16)
    for index, turn in enumerate(spans):
        turn_id[turn.start : turn.end] = index
    return Trajectory(
        run_id="r",
        task_id="t",
        group_id=group,
        sibling=sibling,
        tokens=np.zeros(tokens, np.int32),
        turn_id=turn_id,
        behaviour_logprob=np.zeros(tokens, np.float32),
        version_spans=[VersionSpan(turn.start, turn.end, 0) for turn in spans],
        turns=spans,
        messages=[],
        stop_reason=StopReason.ANSWERED,
        reward=reward,
        reward_parts={},
        operator_calls=calls,
        started_at=begin,
        finished_at=now,
    )


def recorded(groups, steps, **changes):
    config = Config().model_dump(mode="json")
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    named = {str(index): group for index, group in enumerate(groups)}
    return RecordedRun(Path("run"), config, named, steps)


def crowd(begin, n, tokens=50):
    """A group of n that is sampled at once, all by itself, at the known speed."""
    return [trajectory(begin, [(tokens * (A + B * n), tokens)], sibling=k) for k in range(n)]


def test_the_batching_curve_is_recovered():
    sizes = [1, 2, 4, 8, 16, 32, 64] * 3
    groups = [crowd(100.0 * index, n) for index, n in enumerate(sizes)]
    run = recorded(groups, [Step(9_000, 9_001, 100, 1, 0.1)], sampler__max_num_seqs=64)
    curve = calibrate([run]).sampler.curve
    assert curve[1] == pytest.approx(1 / (A + B), rel=0.02)
    assert curve[64] == pytest.approx(64 / (A + 64 * B), rel=0.02)


def test_requests_beyond_the_places_do_not_count_as_served():
    groups = [crowd(100.0 * index, n) for index, n in enumerate([4, 8, 16])]
    slowed = [
        dataclasses.replace(t, finished_at=t.started_at + 2 * (t.finished_at - t.started_at))
        for t in crowd(500.0, 32)
    ]
    steps = [Step(9_000, 9_001, 100, 1, 0.1)]
    found = calibrate([recorded([*groups, slowed], steps, sampler__max_num_seqs=16)])
    assert max(found.sampler.curve) == 16


def test_processors_that_are_shared_are_found():
    """Calm halves and disturbed ones: tokens and steps take twice as long together."""
    n, groups, steps = 8, [], []
    for index in range(12):
        begin = 100.0 * index
        calm = crowd(begin, n)
        length = calm[0].finished_at - begin
        steps.append(Step(begin + 10, begin + 12, 1000, 1, 0.1))
        beside = [
            dataclasses.replace(t, finished_at=t.started_at + 2 * length)
            for t in crowd(begin + 30, n)
        ]
        steps.append(Step(begin + 30, begin + 30 + 2 * length, 250, 1, 0.1))
        groups += [calm, beside]
    found = calibrate([recorded(groups, steps)])
    assert found.shared.sampler_speed == pytest.approx(0.5, rel=0.02)
    needed = found.learner.step_s + 250 / found.learner.tokens_per_s
    assert needed / found.shared.learner_speed == pytest.approx(2 * length, rel=0.05)


def test_the_learners_line_is_recovered():
    steps = [
        Step(10.0 * i, 10.0 * i + 0.5 + n / 2000, n, 1, 0.1)
        for i, n in enumerate(range(500, 4000, 500))
    ]
    found = calibrate([recorded([crowd(5.0, 2)], steps)])
    assert found.learner.step_s == pytest.approx(0.5)
    assert found.learner.tokens_per_s == pytest.approx(2000)


def paced(lag, every):
    """Groups of four episodes, and steps at a steady pace."""
    groups = [crowd(every * index, 4) for index in range(16)]
    steps = [Step(every * n, every * n + 1.0, 400, 2, 0.1) for n in range(1, 9)]
    return recorded(
        groups,
        steps,
        buffer__max_lag=lag,
        rollout__group_size=4,
        train__groups_per_batch=2,
    )


def test_tuning_meets_the_pace_of_both_runs_whatever_their_order():
    runs = [paced(2, 1.2), paced(0, 1.9)]
    plan = tuned(calibrate(runs), runs, seeds=1)
    for run in runs:
        training = plan.training.model_copy(update={"max_lag": run.setting("buffer.max_lag")})
        same = plan.model_copy(update={"training": training})
        found = Simulation(same, Recorded(runs)).run(steps=7, warmup_steps=1)
        assert found.steps_per_hour == pytest.approx(run.pace, rel=0.05)


def test_a_single_step_tunes_nothing():
    run = dataclasses.replace(paced(0, 4.0), steps=[Step(90.0, 91.0, 400, 2, 0.1)])
    plan = calibrate([run])
    assert tuned(plan, [run]) == plan


def test_a_turn_without_a_call_is_one_stretch_with_the_next():
    played = trajectory(0.0, [(1.0, 10), (2.0, 20), (4.0, 40)])
    run = recorded([[played]], [])
    assert run.stretches() == [Stretch(0.0, 1.0, 10), Stretch(1.5, 3.5, 20), Stretch(4.0, 8.0, 40)]
    quiet = dataclasses.replace(played, operator_calls=played.operator_calls[1:])
    run = recorded([[quiet]], [])
    assert run.stretches() == [Stretch(0.0, 3.5, 30), Stretch(4.0, 8.0, 40)]


def test_the_timeline_counts_who_shares_the_engine():
    groups = [crowd(0.0, 5), crowd(0.3, 9), crowd(7.0, 2)]
    run = recorded(groups, [Step(0.2, 1.0, 1, 1, 0.1), Step(20.0, 21.0, 1, 1, 0.1)])
    pieces = Timeline.of(run)
    spent = sum(s.end - s.begin for s in run.stretches())
    assert (pieces.requests * pieces.seconds).sum() == pytest.approx(spent)
    assert pieces.seconds[pieces.trains].sum() == pytest.approx(0.8 + 1.0)
    assert pieces.seconds[pieces.paused].sum() == pytest.approx(0.1)
    assert pieces.requests.max() == 14
    assert pieces.tokens.sum() == 16 * 50


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 5)), min_size=1, max_size=40),
    st.integers(1, 4),
)
def test_service_times_are_those_of_the_queue_that_made_the_calls(offered, places):
    """Calls through a first-come queue of equal service times are taken apart exactly."""
    arrivals = sorted(arrival for arrival, _ in offered)
    service = offered[0][1]
    free = [0.0] * places
    calls = []
    for arrival in arrivals:
        free.sort()
        start = max(arrival, free[0])
        free[0] = start + service
        calls.append((arrival, free[0]))
    assert service_seconds(calls, places) == pytest.approx([service] * len(calls), abs=1e-6)


def test_recorded_episodes_are_drawn_whole_and_by_group():
    short = [trajectory(0.0, [(1, 10)], reward=1.0), trajectory(0.0, [(1, 11)], reward=1.0)]
    long = [trajectory(0.0, [(1, 20), (1, 21)], reward=r) for r in (0.0, 1.0)]
    workload = Recorded([recorded([short, long], [])])
    drawn = list(itertools.islice(workload.groups(np.random.default_rng(1), 6), 50))
    for group in drawn:
        lengths = {tuple(turns.tokens) for turns in group.siblings}
        assert lengths <= {(10.0,), (11.0,)} or lengths == {(20.0, 21.0)}
        assert group.flat or lengths == {(20.0, 21.0)}
        assert all(turns.latency[:-1] in ([], [0.5]) for turns in group.siblings)
    assert {len(group.siblings[0].tokens) for group in drawn} == {1, 2}


def test_a_run_directory_is_read_and_simulated(tmp_path):
    groups = [
        [
            trajectory(10.0 * g, [(1, 10), (1, 12)], group=str(g), sibling=k, reward=float(k))
            for k in range(2)
        ]
        for g in range(8)
    ]
    with Journal(tmp_path / "journal") as journal:
        for index, played in enumerate(groups):
            journal.append(to_batch(Group(str(index), "t", 0, played)))
    config = Config().model_dump(mode="json")
    config["rollout"]["group_size"], config["train"]["groups_per_batch"] = 2, 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    steps = [
        {
            "kind": "step",
            "time": 100.0 + 10 * n,
            "groups": list(range(4 * n, 4 * n + 4)),
            "publish/seconds": 0.5,
            "learner/step_seconds": 2.0,
        }
        for n in range(2)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
    run = RecordedRun.read(tmp_path)
    assert len(run.groups) == 8
    assert run.steps[0] == Step(97.5, 99.5, 4 * 2 * 29, 4, 0.5)
    plan = calibrate([run])
    assert plan.training.groups_per_batch == 4
    found = Simulation(plan, Recorded([run])).run(steps=5)
    assert found.steps == 5


def test_directories_without_a_run_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        RecordedRun.read(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="0 finished groups and 0 steps"):
        RecordedRun.read(tmp_path)
