"""Short-answer grading against slow, obvious versions of the official rules."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wfr.grading import hotpotqa, qa, texts
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
        ("", "", 1.0),
        ("the", "x", 0.0),
        ("x x", "x", 2 / 3),
    ],
)
def test_answer_f1(answer, gold, f1):
    assert hotpotqa.answer_f1(answer, gold) == pytest.approx(f1)


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
    if not left or not right:
        return float(left == right)
    return 0.0 if not common else 2 * common / (len(left) + len(right))


@given(st.lists(st.sampled_from(["x", "y.", "Z", "theory"]), max_size=6).map(" ".join))
def test_normalise_without_articles(text):
    assert qa.normalise(text).split() == slow_normal(text)


@given(TEXTS, TEXTS)
def test_f1_is_the_overlap_of_bags(answer, gold):
    closed = {"yes", "no", "noanswer"}
    normal = {qa.normalise(answer), qa.normalise(gold)}
    expected = 0.0 if normal & closed and len(normal) == 2 else slow_f1(answer, gold)
    assert hotpotqa.answer_f1(answer, gold) == pytest.approx(expected)


@given(TEXTS)
def test_normal_form(text):
    normal = qa.normalise(text)
    assert normal == " ".join(normal.split())
    assert not set(normal) & set(string.punctuation)
    assert not {"a", "an", "the"} & set(normal.split())


def test_grade_takes_the_best_gold_and_names_unknown_metrics():
    task = Task("t", "q", ("Rome", "New York"), "test")
    graded = texts.grade_text(task, "new york city")
    assert graded.correct == 0.0
    assert graded.metrics == {"f1": pytest.approx(0.8), "contains": 1.0}
    assert texts.grade_text(task, "Rome!").correct == 1.0
    with pytest.raises(ValueError, match=r"'bleu'.*qa_em, hotpotqa"):
        texts.grade_text(Task("t", "q", ("x",), "test", metric="bleu"), "x")


@pytest.mark.parametrize(
    ("metric", "golds", "answer", "right"),
    [
        ("qa_em", ("Brian Helgeland",), "not Brian Helgeland", False),
        ("qa_em", ("30",), "130", False),
        ("triviaqa", ("spider-man",), "spider man", True),
        ("qa_em", ("spider-man",), "spider man", False),
        ("triviaqa", ("The ‘Who’",), "who", True),
        ("triviaqa", ("under_score",), "under score", True),
        ("nq_open", ("Beyonc\u00e9",), "beyonce\u0301", True),
        ("qa_em", ("Beyonc\u00e9",), "beyonce\u0301", False),
        ("popqa", ("politician",), "He is a politician.", True),
        ("popqa", ("Politician",), "a politician", True),
        ("popqa", ("politician",), "Politician", True),
        ("popqa", ("new york",), "New York", False),
        ("popqa", ("politician",), "POLITICIAN", False),
        ("popqa", ("",), "anything", False),
        ("squad_v2", (), "", True),
        ("squad_v2", (), "unanswerable", True),
        ("squad_v2", (), "Paris", False),
        ("squad_v2", ("Paris",), "", False),
        ("squad_v2", ("the", "Paris"), "paris", True),
        ("hotpotqa", ("yes",), "yes, they are", False),
        ("hotpotqa", ("yes",), "Yes.", True),
        ("aime", ("204",), "203", False),
        ("gsm8k", ("5",), "-5", False),
    ],
)
def test_each_benchmark_has_its_own_rule(metric, golds, answer, right):
    task = Task("t", "q", golds, "test", metric=metric)
    assert texts.grade_text(task, answer).correct == float(right)


def official_squad(answer, golds, delete, blank):
    """An independent reading of the evaluators: exact match and F1, by loops over characters."""

    def normal(text):
        kept = "".join(" " if c in blank else "" if c in delete else c for c in text.lower())
        return [word for word in kept.split() if word not in ("a", "an", "the")]

    def f1(mine, theirs):
        if not mine or not theirs:
            return float(mine == theirs)
        left, same = list(theirs), 0
        for word in mine:
            if word in left:
                left.remove(word)
                same += 1
        return 2 * same / (len(mine) + len(theirs))

    mine, all_golds = normal(answer), [normal(gold) for gold in golds]
    return float(mine in all_golds), max((f1(mine, gold) for gold in all_golds), default=0.0)


WORDS = ["a", "the", "An", "x", "X.", "y-z", "it's", "1,000", "$5", "‘q’", "é", "u_s", "yes", ""]
PHRASES = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)


@pytest.mark.engine  # for its time
@pytest.mark.parametrize(
    ("metric", "delete", "blank"),
    [("qa_em", string.punctuation, ""), ("triviaqa", "", string.punctuation + "‘’´`")],
)
@settings(max_examples=2000, deadline=None)
@given(answer=PHRASES, golds=st.lists(PHRASES, min_size=1, max_size=3))
def test_two_thousand_pairs_agree_with_the_official_definition(
    metric, delete, blank, answer, golds
):
    graded = texts.grade_text(Task("t", "q", tuple(golds), "test", metric=metric), answer)
    exact, f1 = official_squad(answer, golds, delete, blank)
    assert graded.correct == exact
    assert graded.metrics["f1"] == pytest.approx(f1)
