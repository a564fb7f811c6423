"""The canvas reward: structure, gate, and what the three presets count."""

from __future__ import annotations

import pytest

from wfr.canvas_config import CanvasRewardConfig
from wfr.grading.base import Grade
from wfr.operators.base import OperatorSpec
from wfr.rewards.canvas import (
    PlayedCanvas,
    live_structure,
    released_structure,
    score,
    shares_of,
)
from wfr.workflow.dsl import parse
from wfr.workflow.graph import Workflow

CATEGORIES = {
    "planning": ("Plan", "Decompose"),
    "solving": ("Programmer", "Custom", "AnswerGenerate"),
    "verification": ("Test", "Review", "Verify"),
    "revision": ("Revise",),
    "ensemble": ("ScEnsemble", "Aggregate"),
    "formatting": ("Format",),
}
SPECS = {
    name: OperatorSpec(name, category, "", "")
    for category, names in CATEGORIES.items()
    for name in names
}
RICH = "Plan -> [Custom, AnswerGenerate] -> ScEnsemble -> Verify -> Format"


def scored(dsl, correct=1.0, turns=6, refused=0, **options):
    played = PlayedCanvas(
        parse(dsl), Grade(correct, {"f1": correct}), turns, refused, 0, finished=True
    )
    return score(played, SPECS, CanvasRewardConfig(**options))


def structure_score(dsl, **options):
    return scored(dsl, correct=0.0, **options).parts["diversity"]


@pytest.mark.parametrize(
    ("dsl", "expected"),
    [
        ("Custom", 0.0),
        ("Custom -> Format", 0.2),
        ("Custom -> Verify", 0.2),
        ("Plan -> Custom -> Verify -> Format", 0.4),
        ("Plan -> Custom -> Revise -> Verify -> Format", 0.6),
        ("[Custom, Programmer]", 0.4),
        ("Verify ? done : Revise", 0.6),
        ("(Revise) * 3", 0.4),
        ("Plan -> Programmer -> Verify ? done : Revise -> Format", 1.0),
        ("Plan -> Programmer -> Verify -> (Revise) * 2 -> Format", 1.0),
        (RICH, 1.0),
    ],
)
def test_paper_counts_in_the_graph(dsl, expected):
    assert structure_score(dsl) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("dsl", "expected"),
    [
        # The two workflows without a solver that score everything in the released code.
        ("[Format, Format, Format, Format] -> Verify -> Format", 1.0),
        ("[Plan, Plan] -> Plan -> Plan -> Verify -> Format", 1.0),
        # Loops never count, so a workflow whose structure is a loop is capped at 0.6.
        ("Plan -> Programmer -> Custom -> Verify -> (Revise) * 3 -> Format", 0.6),
        # The prompt's own maths example has five operators: 0.8, so its answer never pays.
        ("Plan -> Programmer -> Verify ? Revise : done -> Format", 0.8),
        ("Plan -> Programmer -> Custom -> Verify ? Revise : done -> Format", 1.0),
        ("Custom", 0.0),
    ],
)
def test_released_code_counts_in_the_text(dsl, expected):
    assert structure_score(dsl, preset="released_code") == pytest.approx(expected)
    found = released_structure(dsl)
    config = CanvasRewardConfig(preset="released_code")
    assert sum(shares_of(found, config).values()) == pytest.approx(expected)


def test_released_code_reads_a_loop_written_its_own_way():
    assert released_structure("[A, B]x2").control
    assert released_structure("Custom x2").control
    assert not released_structure("(Custom) * 2").control
    assert released_structure("Custom -> Custom").operators == 2
    assert released_structure("MultiAnswerGenerate").operators == 0


@pytest.mark.parametrize(
    "dsl",
    [
        "[Format, Format, Format, Format] -> Verify -> Format",
        "[Plan, Plan] -> Plan -> Plan -> Verify -> Format",
        "[Plan, Revise] -> Aggregate -> ScEnsemble -> Verify -> Format",
        "Custom -> Custom -> Custom -> Verify ? done : Custom -> Format",
    ],
)
def test_strict_is_not_gamed(dsl):
    """Repetition and workflows that solve nothing earn no answer, whatever the grader says."""
    reward = scored(dsl, preset="strict")
    assert reward.metrics["gate"] == 0
    assert reward.parts["answer"] == 0


def test_strict_pays_an_honest_workflow():
    assert scored(RICH, preset="strict").total == 1.0


def test_strict_leaves_out_what_the_output_does_not_depend_on():
    dsl = "Programmer -> Verify -> Revise -> [Custom, Aggregate] -> Format(node_1)"
    assert scored(dsl).metrics["gate"] == 1
    found = live_structure(parse(dsl), SPECS)
    assert found.operators == 2
    assert not found.checker
    assert not found.control
    assert scored(dsl, preset="strict").metrics["gate"] == 0


def test_an_answer_is_released_by_the_gate_only():
    shut, opened = scored("Custom"), scored(RICH)
    assert (shut.total, shut.parts["answer"], shut.metrics["correct"]) == (-1.0, 0.0, 1.0)
    assert (opened.total, opened.parts["answer"]) == (1.0, 1.0)
    assert scored(RICH, correct=0.0).total == 0.0


def test_without_conditional_release_every_answer_counts():
    reward = scored("Custom", conditional_release=False)
    assert reward.total == 0.0
    assert reward.metrics["gate"] == 0


def test_the_general_form():
    reward = scored(
        RICH,
        correct=0.5,
        turns=8,
        refused=2,
        w_div=0.5,
        w_con=0.4,
        threshold=0.4,
        scale=3,
        offset=0,
    )
    assert reward.parts == {
        "offset": 0.0,
        "diversity": 0.5,
        "constraint": pytest.approx(-0.1),
        "answer": 1.5,
    }
    assert reward.total == pytest.approx(1.9)
    assert scored(RICH, refused=1, w_con=0.1).metrics["gate"] == 0


def test_sign_separation():
    """Infeasible workflows lie in [−1, −0.2], feasible ones in [0, 1] (the paper's proposition)."""
    dsls = ["Custom", "Custom -> Format", "[Plan, Custom] -> Verify -> Format", RICH]
    for dsl in dsls:
        for correct in (0.0, 0.5, 1.0):
            reward = scored(dsl, correct)
            low, high = (0.0, 1.0) if reward.metrics["gate"] else (-1.0, -0.2)
            assert low - 1e-9 <= reward.total <= high + 1e-9


def test_parts_add_up_and_everything_is_reported():
    reward = scored(RICH, refused=1)
    assert reward.total == sum(reward.parts.values())
    shape = {"operators": 6.0, "different_operators": 6.0, "parallels": 1.0, "loops": 0.0}
    assert shape.items() <= dict(reward.metrics).items()
    assert {"correct", "f1", "gate", "turns", "refused", "finished"} <= set(reward.metrics)


def test_nothing_at_all_is_the_offset():
    played = PlayedCanvas(Workflow(), Grade(0.0), 0, 0, 0, finished=False)
    assert score(played, SPECS, CanvasRewardConfig(w_con=1.0)).total == -1.0
