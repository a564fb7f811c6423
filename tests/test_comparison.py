"""Tables and plots of studies: what is paired with what, and what is corrected."""

from __future__ import annotations

import re

import pytest

from benchmarks.studies.comparison import (
    OUTCOMES,
    Contrast,
    Line,
    arms_table,
    contrasts_table,
    draw,
    final,
)


def row(arm, seed, value):
    return {"arm": arm, "seed": seed, "em_after": value, "curve": [0.0, value], "clipped": [0.1]}


ROWS = [
    *(row("a", seed, value) for seed, value in enumerate([0.5, 0.6, 0.7])),
    *(row("b", seed, value) for seed, value in enumerate([0.3, 0.5, 0.4, 0.9])),
    *(row("c", seed, value) for seed, value in enumerate([0.1, 0.1, 0.1, 0.1])),
]


def test_a_contrast_pairs_means_over_arms_by_seed():
    found = Contrast("x", ("a", "b"), ("c",)).differences(ROWS, final)
    assert found == pytest.approx({0: 0.3, 1: 0.45, 2: 0.45})  # seed 3 has no a


def test_holm_is_over_the_contrasts_of_one_table():
    contrasts = [Contrast("a − b", ("a",), ("b",)), Contrast("b − c", ("b",), ("c",))]
    text = contrasts_table(ROWS, contrasts, "exact match", final)
    cells = [line.split("|")[1:-1] for line in text.splitlines()[2:]]
    first, second = ([float(c) for c in line[3:]] for line in cells)
    assert cells[0][0].strip() == "a − b"
    assert cells[0][1].strip().startswith("+0.200 [")
    assert sorted([first[0], second[0]])[0] * 2 == pytest.approx(min(first[1], second[1]), abs=2e-3)


def test_a_contrast_without_pairs_is_shown_without_a_test():
    contrasts = [Contrast("a − d", ("a",), ("d",)), Contrast("a − b", ("a",), ("b",))]
    text = contrasts_table(ROWS, contrasts, "exact match", final)
    assert "| a − d |  | 0 | | |" in text
    p, adjusted = re.findall(r"0\.\d{3}(?= \|)", text.splitlines()[3])[-2:]
    assert p == adjusted  # one test alone


def test_arms_are_listed_with_intervals():
    text = arms_table(ROWS, {**OUTCOMES, "constant": lambda row: 1.0})
    assert text.splitlines()[0] == "| arm | seeds | learning speed | exact match | constant |"
    assert "| c | 4 | 0.050 [0.050, 0.050] | 0.100 [0.100, 0.100] | 1.000 [1.000, 1.000] |" in text


def test_curves_are_drawn(tmp_path):
    lines = [
        Line("a", "left", "first", "red"),
        Line("missing", "right", "none", "blue"),
        Line("b", "right", "constant", "blue", lambda row: [1.0, 2.0]),
    ]
    draw(ROWS, lines, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")
