"""A deterministic program in place of a language model: it reads the text that it is given.

It knows nothing else: not the task, not the corpus, not the accepted answers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from wfr.backends.base import Completion, Inputs, OperatorRequest
from wfr.backends.fact_reader import Reading, read_answer, read_passages, split_question

_UNKNOWN = "unknown"


class RuleBased:
    """The embedded backend.

    AnswerGenerate, MultiAnswerGenerate, Custom and Revise read the passages after the question and
    answer from them; several samples are the same answer. Review compares a solution with such a
    reading, ScEnsemble takes the majority, PromptOptimizer says what must be looked up first.
    """

    name = "rule_based"

    async def complete(self, request: OperatorRequest) -> Completion:
        """Answer one request; raises ValueError for an operator that it has no rule for."""
        started = time.perf_counter()
        rule = _RULES.get(request.operator)
        if rule is None:
            raise ValueError(
                f"backend 'rule_based' has no rule for {request.operator!r}; "
                f"it serves {', '.join(_RULES)}"
            )
        return Completion(rule(request.inputs), seconds=time.perf_counter() - started)


def _read(text: str) -> Reading:
    question, context = split_question(text)
    return read_answer(question, read_passages(context))


def _reply(thought: str, answer: str) -> str:
    return f"<think>{thought}</think><answer>{answer}</answer>"


def _thought(reading: Reading) -> str:
    missing = (f"the text lacks {reading.missing}",) if reading.missing else ()
    return "; ".join((*reading.reasons, *missing))


def _answer_generate(inputs: Inputs) -> str:
    reading = _read(inputs["content"][0])
    return _reply(_thought(reading), reading.answer or _UNKNOWN)


def _custom(inputs: Inputs) -> str:
    reading = _read("\n".join(inputs["task"] or inputs["instruction"]))
    return _reply(_thought(reading), reading.answer or _UNKNOWN)


def _prompt_optimizer(inputs: Inputs) -> str:
    text = inputs["content"][0]
    missing = _read(text).missing
    question, _ = split_question(text)
    needed = f" First find {missing}." if missing else ""
    return _reply("say what has to be known", f"{question}?{needed}")


def _review(inputs: Inputs) -> str:
    reading = _read(inputs["question"][0])
    solution = inputs["solution"][0]
    because = "; ".join(reading.reasons)
    if not reading.answer:
        feedback = f"cannot be checked: the text lacks {reading.missing}"
    elif _same(solution, reading.answer):
        feedback = f"right: {because}"
    else:
        feedback = f"wrong: {because}; so it is {reading.answer}, not {solution}"
    return f"<feedback>{feedback}</feedback>"


def _revise(inputs: Inputs) -> str:
    reading = _read(inputs["question"][0])
    return _reply(_thought(reading), reading.answer or inputs["solution"][0])


def _sc_ensemble(inputs: Inputs) -> str:
    solutions = inputs["solution"]
    votes = Counter(_plain(solution) for solution in solutions)
    # Counter keeps the order of first occurrence, so a tie goes to the earliest solution.
    winner, count = votes.most_common(1)[0]
    chosen = next(solution for solution in solutions if _plain(solution) == winner)
    return _reply(f"{count} of {len(solutions)} agree", chosen)


def _same(one: str, other: str) -> bool:
    return _plain(one) == _plain(other)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


_RULES: Mapping[str, Callable[[Inputs], str]] = {
    "AnswerGenerate": _answer_generate,
    "MultiAnswerGenerate": _answer_generate,
    "Custom": _custom,
    "PromptOptimizer": _prompt_optimizer,
    "Review": _review,
    "Revise": _revise,
    "ScEnsemble": _sc_ensemble,
}
