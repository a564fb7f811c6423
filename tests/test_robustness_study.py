"""The study of robustness: what is asked, what counts as borne, what counts as corrected."""

from __future__ import annotations

import json

import pytest

from benchmarks.studies.robustness import BASELINE, CONDITIONS, borne, report, rows, tasks_as, typo
from wfr.config import parse_config
from wfr.evaluation.prediction import Prediction
from wfr.tasks.source import Task

BY_NAME = {condition.name: condition for condition in CONDITIONS}


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Ada Lang's friend's river?", "Ada Lang's friend's rvier?"),
        ("The older of Ada and Bob: job?", "The odler of Ada and Bob: job?"),
        ("Ada Lang's job?", "Ada Lang's job?"),
        ("Annabella?", "Annabella?"),
    ],
)
def test_a_typo_spares_names(question, expected):
    assert typo(question) == expected


def test_conditions_are_told_apart_and_their_overrides_are_configurations():
    assert len(BY_NAME) == len(CONDITIONS)
    import yaml

    for condition in CONDITIONS:
        for override in condition.overrides:
            key, _, value = override.partition("=")
            section, rest = key.split(".", 1)
            nested = yaml.safe_load(value)
            for part in reversed(rest.split(".")):
                nested = {part: nested}
            parse_config({section: nested})


def test_the_form_of_a_question_changes_nothing_else():
    task = Task("t1", "Ada Lang's friend?", ("Bob",), "lookup_world", "hop1")
    (row,) = tasks_as(BY_NAME["lower case"], [task])
    assert row == {
        "id": "t1",
        "question": "ada lang's friend?",
        "answers": ["Bob"],
        "skill": "hop1",
    }
    assert json.loads(json.dumps(row)) == row


def _played(correct, operators=None, faults=0.0):
    return [
        Prediction(
            *("p", "custom", f"t{index}", "hop1", 0, "", value, "answered"),
            turns=2,
            metrics={"format_faults": faults},
            operators=operators or {},
        )
        for index, value in enumerate(correct)
    ]


def _all(**others):
    same = _played([1, 1, 0, 1], {"Search": 1})
    return {
        c.name: others.get(c.name.replace(" ", "_").replace("-", "_"), same) for c in CONDITIONS
    }


def test_corrections_count_what_was_right_and_called_the_operator():
    mixed_up = _played([1, 0, 1, None], {"Search": 3})
    table = rows({1: _all(Search_mixed_up=mixed_up)})
    (row,) = [row for row in table if row["condition"] == "Search mixed up"]
    assert row["at_stake"] == 2  # one was wrong before, one was not scored
    assert row["corrected"] == 0.5
    assert row["more_calls"] == 2
    assert row["tasks"] == 3
    (row,) = [row for row in table if row["condition"] == "Programmer mixed up"]
    assert (row["at_stake"], row["corrected"]) == (0, None)  # nobody called it


def test_the_report_compares_with_the_same_director_as_trained():
    worse = _played([0, 0, 0, 1], faults=1.0)
    text = report(rows({1: _all(polite=worse), 2: _all(polite=worse)}))
    (line,) = [line for line in text.splitlines() if line.startswith("| polite")]
    assert line == "| polite | 0.250 | -0.500 [-0.500, -0.500] | no | 100.0 % | 2.00 |"
    (line,) = [line for line in text.splitlines() if line.startswith("| lower case")]
    assert "| yes |" in line
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {BASELINE}")]
    assert line == f"| {BASELINE} | 0.750 |  |  | 0.0 % | 2.00 |"


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0.0, -0.01, 0.01], "yes"),
        ([-0.2, -0.3, -0.25], "no"),
        ([-0.2, 0.1, 0.0], "undecided"),
        ([0.0], "one director only"),
    ],
)
def test_a_condition_is_borne_by_its_interval(differences, expected):
    assert borne(differences) == expected
