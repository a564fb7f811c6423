"""HotpotQA and 2WikiMultihopQA: SQuAD's metrics with the rule for closed questions."""

from __future__ import annotations

from wfr.grading.qa import normalise, token_f1

_CLOSED = frozenset({"yes", "no", "noanswer"})


def answer_f1(answer: str, gold: str) -> float:
    """Token F1; 0 if either side is yes, no or noanswer and the other differs."""
    left, right = normalise(answer), normalise(gold)
    if left != right and (left in _CLOSED or right in _CLOSED):
        return 0.0
    return token_f1(answer, gold)
