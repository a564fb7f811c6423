"""GSM8K grading: the official string rule, and how a bare answer is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.grading import gsm8k
from wfr.grading.texts import grade_text
from wfr.tasks.source import Task


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("steps\n#### 1,234", "1234"),
        ("#### -5", "-5"),
        ("#### 5.", "5."),
        ("#### 18\n#### 19", "18"),
        ("####18", None),
        ("#### $18", None),
        ("18", None),
        ("", None),
    ],
)
def test_final_number(text, number):
    assert gsm8k.final_number(text) == number


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("18", True),
        (" 18 ", True),
        ("18 dollars", True),
        ("so #### 18", True),
        ("1,8", True),
        ("18.00", False),
        ("18.", False),
        ("$18", False),
        ("eighteen", False),
        ("#### 19, not 18", False),
        ("", False),
    ],
)
def test_answers_are_compared_as_strings(answer, right):
    task = Task("t", "q", ("18",), "gsm8k", metric="gsm8k")
    assert grade_text(task, answer).correct == float(right)


@given(st.integers(-(10**9), 10**9))
def test_thousands_separators_do_not_matter(number):
    assert gsm8k.correct(f"{number:,}", str(number))


@given(st.text(max_size=50))
def test_no_text_raises(text):
    gsm8k.correct(text, "18")
