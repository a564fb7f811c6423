"""Short-answer grading against slow, obvious versions of the official rules."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.grading import base, qa
from wfr.tasks.source import Task

WORDS = st.sampled_from(
    ["the", "a", "An", "Paris", "U.S.A.", "Jean-Luc", "yes", "NO", "é", "—", ","]
)
TEXTS = st.lists(WORDS | st.text(max_size=4), max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  U.S.A.", "usa"),
        ("Jean-Luc", "jeanluc"),
        ("an apple a day", "apple day"),
        ("theatre", "theatre"),
        ("‘quoted’ café", "‘quoted’ café"),
        ("the", ""),
    ],
)
def test_normalise(text, normal):
    assert qa.normalise(text) == normal


def test_exact_match_takes_any_gold():
    assert qa.exact_match("the Paris!", ("Rome", "paris"))
    assert not qa.exact_match("Paris, France", ("Rome", "paris"))
    assert not qa.exact_match("Paris", ())


@pytest.mark.parametrize(
    ("answer", "gold", "f1"),
    [
        ("yes", "no", 0.0),
        ("yes it is", "yes", 0.0),
        ("yes", "yes it is", 0.0),
        ("Yes.", "yes", 1.0),
        ("new york city", "new york", 0.8),
        ("", "", 0.0),
        ("the", "x", 0.0),
        ("x x", "x", 2 / 3),
    ],
)
def test_answer_f1(answer, gold, f1):
    assert qa.answer_f1(answer, gold) == pytest.approx(f1)


def slow_normal(text):
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return kept.split()


def slow_f1(answer, gold):
    left, right = qa.normalise(answer).split(), qa.normalise(gold).split()
    unused, common = list(right), 0
    for word in left:
        if word in unused:
            unused.remove(word)
            common += 1
    return 0.0 if not common else 2 * common / (len(left) + len(right))


@given(st.lists(st.sampled_from(["x", "y.", "Z", "theory"]), max_size=6).map(" ".join))
def test_normalise_without_articles(text):
    assert qa.normalise(text).split() == slow_normal(text)


@given(TEXTS, TEXTS)
def test_f1_is_the_overlap_of_bags(answer, gold):
    closed = {"yes", "no", "noanswer"}
    normal = {qa.normalise(answer), qa.normalise(gold)}
    expected = 0.0 if normal & closed and len(normal) == 2 else slow_f1(answer, gold)
    assert qa.answer_f1(answer, gold) == pytest.approx(expected)


@given(TEXTS)
def test_normal_form(text):
    normal = qa.normalise(text)
    assert normal == " ".join(normal.split())
    assert not set(normal) & set(string.punctuation)
    assert not {"a", "an", "the"} & set(normal.split())


def test_grade_takes_the_best_gold_and_names_unknown_metrics():
    task = Task("t", "q", ("Rome", "New York"), "test")
    graded = base.grade(task, "new york city")
    assert (graded.correct, graded.metrics) == (0.0, {"f1": pytest.approx(0.8)})
    assert base.grade(task, "Rome!").correct == 1.0
    with pytest.raises(ValueError, match=r"'bleu'.*qa_em, gsm8k"):
        base.grade(Task("t", "q", ("x",), "test", metric="bleu"), "x")
