"""Intervals, comparisons, predictions on disk, summaries, tables."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wfr.evaluation import table
from wfr.evaluation.intervals import compare, mean_interval
from wfr.evaluation.prediction import Prediction, PredictionFile
from wfr.evaluation.summary import compare_runs, majority_answer, summarise


def prediction(task="t0", correct=1.0, **more):
    values = {"policy": "p", "dataset": "d", "skill": "s", "sample": 0, "answer": "x"}
    values |= {"stop_reason": "answered", "task_id": task, "correct": correct, **more}
    return Prediction(**values)


# ---- intervals


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = random.Random(0)
    covered = 0
    for trial in range(200):
        scores = [float(rng.random() < 0.3) for _ in range(60)]
        interval = mean_interval(scores, seed=trial)
        covered += interval.low <= 0.3 <= interval.high
    assert 178 <= covered <= 200  # 95 % of 200 is 190; three standard deviations are 9


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 0.722, 1.0), (0.0, 0.0, 0.278)])
def test_equal_scores_are_no_certainty(value, low, high):
    """Wilson's interval for 10 of 10, from its formula."""
    interval = mean_interval([value] * 10)
    assert (interval.low, interval.high) == (
        pytest.approx(low, abs=1e-3),
        pytest.approx(high, abs=1e-3),
    )


def test_intervals_are_the_same_for_a_seed_and_hold_the_mean():
    scores = [0.0, 1.0, 0.5, 1.0, 0.25]
    assert mean_interval(scores, seed=3) == mean_interval(scores, seed=3)
    interval = mean_interval(scores)
    assert interval.low <= interval.mean <= interval.high
    assert str(interval).startswith("0.550 [")


@pytest.mark.parametrize("scores", [[], [float("nan")], [1.0, float("inf")]])
def test_scores_that_are_none_are_refused(scores):
    with pytest.raises(ValueError, match="only numbers"):
        mean_interval(scores)


def slow_p(first, second):
    """All exchanges, one by one."""
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    observed = abs(sum(gaps))
    signs = list(itertools.product([1, -1], repeat=len(gaps)))
    sums = [abs(sum(s * g for s, g in zip(sign, gaps, strict=True))) for sign in signs]
    return sum(value >= observed - 1e-9 for value in sums) / len(signs)


SCORES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])),
    min_size=1,
    max_size=9,
)


@settings(deadline=None)
@given(SCORES)
def test_the_paired_test_agrees_with_all_exchanges(pairs):
    first, second = zip(*pairs, strict=True)
    found = compare(first, second)
    assert found.p_value == pytest.approx(slow_p(first, second))
    assert found.wins == sum(b > a for a, b in pairs)
    assert found.losses == sum(b < a for a, b in pairs)


def test_a_clear_difference_is_found_and_none_is_not():
    better = compare([0.0] * 40, [1.0] * 30 + [0.0] * 10)
    assert better.p_value < 0.001
    assert better.difference.low > 0
    same = compare([1.0, 0.0] * 20, [1.0, 0.0] * 20)
    assert (same.p_value, same.difference.mean) == (1.0, 0.0)
    with pytest.raises(ValueError, match="not the same tasks"):
        compare([1.0], [1.0, 0.0])


# ---- predictions


def test_predictions_survive_a_cut_and_are_not_repeated(tmp_path):
    path = tmp_path / "predictions.jsonl"
    file = PredictionFile(path)
    first, second = prediction("a"), prediction("b", operators={"Search": 2})
    file.add(first)
    file.add(second)
    path.write_bytes(path.read_bytes() + b'{"policy": "p", "cut')
    again = PredictionFile(path)
    assert list(again) == [first, second]
    assert first.key in again
    again.add(prediction("c"))
    assert len(list(PredictionFile(path))) == 3


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"policy": 1}\n')
    with pytest.raises(ValueError, match="line 1"):
        PredictionFile(path)


# ---- summaries


def test_a_summary_by_hand():
    items = [
        prediction("a", 1.0, turns=2, operators={"Search": 2}, metrics={"format_faults": 1.0}),
        prediction("b", 0.0, turns=4),
        prediction("c", None, stop_reason="backend_failed"),
    ]
    (found,) = summarise(items)
    assert found.score.mean == 0.5
    assert found.score.count == 2
    assert (found.turns, found.format_faults, found.not_scored) == (3.0, 0.5, 1)
    assert found.operators == {"Search": 1.0}
    assert found.stop_reasons == {"answered": 2, "backend_failed": 1}
    assert found.majority is None
    assert found.pass_at == {}


def test_several_samples_give_pass_at_k_and_a_majority():
    items = [
        prediction("a", correct, sample=number, answer=answer)
        for number, (correct, answer) in enumerate(
            [(0.0, "y"), (1.0, "The X."), (1.0, "x"), (0.0, "z")]
        )
    ]
    items += [prediction("b", 0.0, sample=n, answer="q") for n in range(4)]
    (found,) = summarise(items)
    assert found.score.mean == 0.25
    assert found.pass_at[2] == pytest.approx((1 - 1 / 6) / 2)
    assert found.pass_at[4] == 0.5
    assert found.majority.mean == 0.5


def test_ties_go_to_the_first_answer():
    assert majority_answer(["b", "a", "A", "B"]) == 0


def test_runs_are_compared_over_the_tasks_they_share():
    first = [prediction(str(n), 0.0) for n in range(8)] + [prediction("x", 1.0)]
    second = [prediction(str(n), 1.0) for n in range(8)] + [prediction("y", 0.0)]
    found = compare_runs(first, second)
    assert found["d"].wins == 8
    assert found["d"].p_value == pytest.approx(2 / 256)
    with pytest.raises(ValueError, match="no task in common"):
        compare_runs(first[-1:], second[-1:])


def test_nothing_scored_is_no_summary():
    assert summarise([prediction("a", None)]) == []


def test_tables_escape_what_they_hold():
    summaries = summarise([prediction("a", 1.0, policy="<script>|x")])
    assert "| <script>\\|x | d | 1 |" in table.markdown(summaries)
    page = table.page(summaries, "<b>")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>" not in page
