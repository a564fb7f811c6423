"""SQuAD 2.0: a question without an answer wants the empty answer."""

from __future__ import annotations

from collections.abc import Sequence

from wfr.grading.qa import best_f1, exact_match, normalise

_NO_ANSWER = frozenset({"", "unanswerable", "noanswer", "no answer"})


def golds(answers: Sequence[str]) -> list[str]:
    """Answers that normalise to something; where there is none, the empty answer is right."""
    return [answer for answer in answers if normalise(answer)] or [""]


def read(answer: str) -> str:
    """A director cannot stay silent: it says `unanswerable` or `no answer` for the empty answer."""
    return "" if normalise(answer) in _NO_ANSWER else answer


def score(answer: str, answers: Sequence[str]) -> tuple[bool, float]:
    """Exact match and best token F1."""
    wanted, given = golds(answers), read(answer)
    return exact_match(given, wanted), best_f1(given, wanted)
