"""The capacity planner's simulation against closed forms, laws, and what has to be monotone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wfr.planner import scaling
from wfr.planner.forecast import forecast
from wfr.planner.samplers import Samplers, token_seconds
from wfr.planner.scenario import SamplerPlan, Scenario
from wfr.planner.simulation import Simulation
from wfr.planner.sweeps import best, lags, split, splits

SIMPLE = {
    "gpu": {"count": 2},
    "sampler": {"curve": {1: 10.0}, "max_num_seqs": 1},
    "learner": {"tokens_per_s": 100.0},
    "episodes": {"turns": 1, "turn_tokens": 20},
    "training": {"groups_per_batch": 1, "group_size": 1, "max_lag": 0},
}


def scenario(**sections):
    values = {key: dict(value) for key, value in SIMPLE.items()}
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return Scenario.model_validate(values)


def varied(**sections):
    """Turns, lengths and latencies all vary; engines batch."""
    defaults = {
        "sampler": {"curve": {1: 50.0, 16: 400.0, 64: 800.0}, "max_num_seqs": 64},
        "learner": {"tokens_per_s": 3000.0, "step_s": 0.2},
        "publish": {"seconds": 0.3, "pause_s": 0.1},
        "episodes": {
            "prompt_tokens": 30,
            "turns": {"kind": "geometric", "mean": 3, "most": 10},
            "turn_tokens": {"kind": "log_normal", "median": 20, "p99": 60},
            "observation_tokens": 15,
            "own_s": 0.01,
        },
        "operators": {
            "Search": {"share": 0.8, "latency_s": {"kind": "log_normal", "median": 0.2, "p99": 2}}
        },
        "training": {"groups_per_batch": 8, "group_size": 4, "max_lag": 2},
    }
    for name, section in sections.items():
        defaults[name] = {**defaults.get(name, {}), **section}
    return scenario(**defaults)


# ---- closed forms


def test_one_sampler_and_one_learner_in_turns():
    found = Simulation(scenario()).run(steps=50)
    sampling, training = 20 / 10, 20 / 100
    assert found.steps_per_hour == pytest.approx(3600 / (sampling + training))
    assert found.learner["train"] == pytest.approx(training / (sampling + training))
    assert found.samplers["decode"] == pytest.approx(sampling / (sampling + training))
    assert found.turn_lags == {0: 50}


@pytest.mark.parametrize("lag", [1, 2, 4])
def test_asynchronous_without_variance_is_as_fast_as_the_slower_role(lag):
    found = Simulation(scenario(training={"max_lag": lag})).run(steps=50)
    assert found.steps_per_hour == pytest.approx(3600 / 2.0)
    slow = scenario(training={"max_lag": lag}, learner={"tokens_per_s": 4.0})
    assert Simulation(slow).run(steps=50).steps_per_hour == pytest.approx(3600 / 5.0)


def test_synchronous_time_is_the_slowest_episode_plus_training_plus_publishing():
    plan = varied(
        training={"max_lag": 0},
        sampler={"curve": {1: 10.0, 64: 640.0}},  # requests do not slow each other down
        publish={"seconds": 0.5, "pause_s": 0.5},
    )
    steps = 30
    found = Simulation(plan, seed=3).run(steps=steps, warmup_steps=0)
    from wfr.planner.workload import Assumed

    drawn = Assumed(plan.episodes, plan.operators).groups(np.random.default_rng(3), 4)
    expected = 0.0
    for _ in range(steps):
        batch = [turns for group in itertools.islice(drawn, 8) for turns in group.siblings]
        slowest = max(sum(t.tokens) / 10 + sum(t.latency) + sum(t.own) for t in batch)
        expected += slowest + 0.2 + sum(t.length for t in batch) / 3000 + 0.5
    assert found.seconds == pytest.approx(expected)


def test_an_operator_with_places_is_a_bottleneck_of_known_rate():
    found = Simulation(
        varied(
            episodes={"turns": 2, "turn_tokens": 1, "observation_tokens": 0, "prompt_tokens": 0},
            operators={"Search": {"share": 1, "latency_s": 1, "places": 3}},
            training={"max_lag": 4},
        )
    ).run(steps=40)
    assert found.trajectories_per_s == pytest.approx(3.0, rel=0.02)
    assert found.operators["Search"] == pytest.approx(1.0, abs=0.02)


def test_reading_prompts_takes_the_engines_time():
    plan = scenario(
        sampler={"prefill_tokens_per_s": 50.0}, episodes={"prompt_tokens": 100, "turn_tokens": 20}
    )
    found = Simulation(plan).run(steps=20)
    assert found.seconds / found.steps == pytest.approx(100 / 50 + 20 / 10 + 120 / 100)
    assert found.samplers["prefill"] == pytest.approx(found.samplers["decode"])


def test_shared_processors_slow_both_roles_down():
    plan = scenario(
        training={"max_lag": 1},
        learner={"tokens_per_s": 10.0},
        shared={"sampler_speed": 0.5, "learner_speed": 0.5},
    )
    assert Simulation(plan).run(steps=50).steps_per_hour == pytest.approx(3600 / 4.0, rel=0.02)


def test_the_curve_is_interpolated_in_the_time_of_a_token():
    tau = token_seconds(SamplerPlan(curve={1: 10.0, 5: 25.0}, max_num_seqs=9))
    assert tau[1] == pytest.approx(0.1)
    assert tau[3] == pytest.approx(0.15)
    assert tau[5] == pytest.approx(0.2)
    assert tau[9] == pytest.approx(0.3)


def test_requests_share_an_engine_exactly():
    """Two at once, the second one from t = 1 on: ends found by hand."""
    events, ends = [], {}
    samplers = Samplers(
        SamplerPlan(curve={1: 10.0, 2: 10.0}, max_num_seqs=8),
        lambda *event: events.append(event),
        lambda owner, now: None,
    )
    samplers.submit(0, (0, 0, 0.0, 20.0, "long"), 0.0)
    samplers.submit(0, (0, 1, 0.0, 5.0, "short"), 1.0)
    while events:
        now, engine, stamp = events.pop(events.index(min(events)))
        owner = samplers.ended(engine, stamp, now)
        if owner:
            ends[owner] = now
    assert ends == {"short": pytest.approx(2.0), "long": pytest.approx(2.5)}


# ---- laws


def test_littles_law_holds_for_requests_in_the_engine():
    """Their mean number is the rate at which they come times how long each is served."""
    simulation = Simulation(varied())
    simulation.run(seconds=1000)
    samplers = simulation._samplers
    started = sum(e.since for *_, e in samplers._running[0])
    now, running = simulation._now, len(samplers._running[0])
    spent = simulation._waits["sampling"] + running * now - started
    assert samplers.request_seconds == pytest.approx(spent)


def test_every_admitted_trajectory_is_somewhere():
    simulation = Simulation(varied())
    simulation.run(seconds=500)
    groups = simulation._groups
    plan = varied()
    slots = plan.slots
    alive = len(groups._live) + groups._out * 8
    assert alive + groups.free == slots
    assert groups.count == alive + groups.version * 8
    playing = sum(group.left for group in groups._playing.values())
    assert groups.count * 4 == simulation._trajectories + playing


@pytest.mark.parametrize("stragglers", ["wait", "drop"])
def test_no_turn_is_older_than_the_bound_and_shares_add_up(stragglers):
    for lag in (0, 1, 3):
        plan = varied(training={"max_lag": lag, "stragglers": stragglers})
        found = Simulation(plan).run(steps=40)
        assert max(found.turn_lags) <= lag
        for shares in (found.learner, found.samplers, found.episodes):
            assert sum(shares.values()) == pytest.approx(1.0)


def test_equal_seeds_give_equal_outcomes():
    first, second, other = (Simulation(varied(), seed=s).run(steps=20) for s in (1, 1, 2))
    assert first == second
    assert first != other


@settings(max_examples=25, deadline=None)
@given(
    lag=st.integers(0, 3),
    batch=st.integers(1, 6),
    group=st.integers(1, 4),
    engines=st.integers(1, 3),
    speed=st.floats(20, 2000),
    factor=st.floats(1.0, 4.0),
    seed=st.integers(0, 99),
)
def test_faster_parts_do_not_make_it_slower(lag, batch, group, engines, speed, factor, seed):
    """Where requests do not slow each other down, all times are sums and maxima of given ones.

    Where they share an engine, an event that comes earlier may meet a fuller one, as in every
    scheduling problem, and little may be lost by it.
    """

    def seconds(sampler, learner, most):
        plan = varied(
            gpu={"count": 4},
            sampler={
                "count": engines,
                "curve": {1: sampler, 128: most * sampler},
                "max_num_seqs": 128,
            },
            publish={"seconds": 0.3, "pause_s": 0},
            learner={"tokens_per_s": learner},
            episodes={"turns": 3, "turn_tokens": 20, "own_s": 0},
            operators={"Search": {"share": 1, "latency_s": 0.3}},
            training={"max_lag": lag, "groups_per_batch": batch, "group_size": group},
        )
        return Simulation(plan, seed=seed).run(steps=12, warmup_steps=0).seconds

    for most, slack in ((128, 1e-9), (12, 0.1)):
        base = seconds(speed, speed * 5, most)
        assert seconds(speed * factor, speed * 5, most) <= base * (1 + slack)
        assert seconds(speed, speed * 5 * factor, most) <= base * (1 + slack)


def test_more_lag_helps_until_a_role_is_always_busy():
    found = dict(lags(varied(), lambda plan: Simulation(plan).run(steps=150)))
    rates = [found[lag].steps_per_hour for lag in (0, 1, 2, 4)]
    assert rates[0] < rates[1] < rates[2] * 1.02
    assert found[8].mean_lag > found[1].mean_lag
    top = max(rates[3], found[8].steps_per_hour)
    busy = max(found[8].learner["train"], found[8].samplers["decode"])
    assert busy > 0.9
    assert top >= rates[2] * 0.98


# ---- splits and slices


def test_the_best_split_is_the_one_that_an_exhaustive_search_finds():
    plan = varied(
        gpu={"count": 8}, sampler={"count": 4}, learner={"gpus": 4, "tokens_per_s": 700.0}
    )

    def simulate(each):
        return Simulation(each).run(steps=40)

    searched = splits(plan, simulate)
    exhaustive = {count: simulate(split(plan, count)) for count in range(1, 8)}
    assert searched[best(searched)].steps_per_hour == pytest.approx(
        exhaustive[best(exhaustive)].steps_per_hour, rel=0.02
    )


def test_a_slice_stands_for_the_whole():
    plan = varied(
        gpu={"count": 16, "usd_per_hour": 2.0},
        sampler={"count": 8},
        learner={"gpus": 8, "tokens_per_s": 800.0},
        operators={"Search": {"share": 1, "latency_s": 0.3, "places": 80, "usd": 0.001}},
        training={"groups_per_batch": 64},
    )
    assert scaling.slices(plan, 8) == 8
    all_of_it = Simulation(plan).run(seconds=200)
    part = scaling.whole(Simulation(scaling.one_of(plan, 8)).run(seconds=200), plan, 8)
    assert part.steps_per_hour == pytest.approx(all_of_it.steps_per_hour, rel=0.08)
    assert part.tokens_per_s == pytest.approx(all_of_it.tokens_per_s, rel=0.08)
    assert part.usd_per_hour == pytest.approx(all_of_it.usd_per_hour, rel=0.08)
    assert part.operators["Search"] == pytest.approx(all_of_it.operators["Search"], rel=0.08)


def test_a_large_forecast_is_cut_into_slices():
    plan = varied(
        gpu={"count": 16},
        sampler={"count": 8},
        learner={"gpus": 8},
        training={"groups_per_batch": 64},
    )
    found = forecast(plan, hours=0.05, most_turns=5_000)
    assert found.slice in (2, 4, 8)
    assert math.isfinite(found.usd_per_step)
    assert forecast(plan, hours=0.01).slice == 1


def test_a_simulation_without_an_end_is_refused():
    with pytest.raises(ValueError, match="`seconds` or `steps`"):
        Simulation(scenario()).run()


def test_a_scenario_without_episodes_is_refused():
    plan = scenario().model_copy(update={"episodes": None})
    with pytest.raises(ValueError, match="no section `episodes`"):
        Simulation(plan)
