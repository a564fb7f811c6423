"""The study of the canvas reward: its arms are what it says, and its report compares them."""

from __future__ import annotations

from benchmarks.studies import canvas_reward as study
from benchmarks.studies.comparison import contrasts_table, draw
from wfr.config import load_config


def row(world, reward, seed, operators):
    return {
        "arm": study.name_of(world, reward),
        "seed": seed,
        "parts": {"operators": operators, "correct": 0.5, "turns": 4.0, "gate": 1.0},
        "curve": [0.25, 0.5],
        "curves": {"operators": [1.0, operators], "gate": [0.0, 1.0]},
    }


def test_arms_differ_in_the_reward_and_in_the_executors_mistakes():
    found = {arm.name: load_config(study.CONFIG, arm.overrides) for arm in study.arms()}
    told = {
        name: (
            config.executor.backends["fallible"].mistakes,
            config.environment.reward.conditional_release,
            config.environment.reward.w_div,
        )
        for name, config in found.items()
    }
    assert told == {
        "errs_half-both": (0.5, True, 1.0),
        "errs_half-always_released": (0.5, False, 1.0),
        "errs_half-answer_alone": (0.5, False, 0.0),
        "errs_a_tenth-both": (0.1, True, 1.0),
        "errs_a_tenth-always_released": (0.1, False, 1.0),
        "errs_a_tenth-answer_alone": (0.1, False, 0.0),
    }


def test_what_release_and_diversity_do_is_told_by_world(tmp_path):
    rows = [
        row("errs half", reward, seed, operators + 0.1 * seed)
        for reward, operators in (("both", 6.0), ("always released", 5.0), ("answer alone", 2.0))
        for seed in (1, 2, 3)
    ]
    text = contrasts_table(
        rows, study.CONTRASTS["tested"], "operators", study.OUTCOMES["operators"]
    ).splitlines()
    assert text[2].startswith("| errs half: always released − both | -1.000 [")
    assert text[3].startswith("| errs half: answer alone − always released | -3.000 [")
    assert text[4].startswith("| errs a tenth: always released − both |  | 0 |")
    draw(rows, study.LINES, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")
